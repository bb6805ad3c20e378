//! Precision of products, and of the maps that they make: f32 or bfloat16.

use std::cell::Cell;
use std::fmt;
use std::thread::LocalKey;

use crate::simd::Simd;

/// Precision of the factors of a convolution's or a linear layer's products. Sums and weights are f32; so are results, but for
/// maps of bfloat16 on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Not rounded: 24 bits.
    #[default]
    F32,
    /// bfloat16, 8 bits, where the processor multiplies such numbers (AVX512-BF16, or the tensor cores of NVIDIA's GPUs from
    /// Ampere on); else as [`F32`](Self::F32).
    ///
    /// On a processor: forward passes and gradients of inputs; gradients of weights stay f32. So do 3x3 convolutions of
    /// stride 1: Winograd's form has fewer multiplications than bfloat16 saves, and keeps its accuracy. On a GPU all three
    /// products of a convolution and the maps that they make are bfloat16, and so is what lies between convolutions; rows
    /// (linear layers) are f32, and [`in_f32`](crate::elementwise::in_f32) makes such a map f32.
    Bf16,
    /// TF32, 11 bits, on GPUs that have such products (NVIDIA's from Ampere on); else as [`F32`](Self::F32).
    Tf32,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    /// Runs `f` with this precision; the gradients of what it records keep it.
    pub fn scope<T>(self, f: impl FnOnce() -> T) -> T {
        within(&CURRENT, self, f)
    }

    /// Returns whether this processor multiplies in this precision.
    pub fn is_native(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => has_bf16(),
            Self::Tf32 => false,
        }
    }

    /// Precision of the innermost [`scope`](Self::scope).
    pub(crate) fn asked() -> Self {
        CURRENT.get()
    }
}

/// Runs `f` while `place` holds `value`, on this thread.
pub(crate) fn within<V: Copy, T>(place: &'static LocalKey<Cell<V>>, value: V, f: impl FnOnce() -> T) -> T {
    struct Restore<V: Copy + 'static>(&'static LocalKey<Cell<V>>, V);
    impl<V: Copy> Drop for Restore<V> {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(place, place.replace(value));
    f()
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Tf32 => "tf32",
        })
    }
}

/// Two numbers, rounded to bfloat16 (nearest, ties to even), side by side in the place of one f32.
#[inline(always)]
pub(crate) fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(rounded(low) >> 16 | rounded(high) & 0xFFFF_0000)
}

#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    match value.is_nan() {
        true => bits | 0x0040_0000,
        false => bits.wrapping_add(0x7FFF + (bits >> 16 & 1)),
    }
}

/// The two numbers of a [`pair`].
#[inline(always)]
pub(crate) fn unpaired(pair: f32) -> [f32; 2] {
    let bits = pair.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xFFFF_0000)]
}

/// Returns whether the processor, at the level in use, multiplies pairs of bfloat16.
fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        Simd::level() == Simd::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// `from` rounded to bfloat16, two numbers in each of `to`.
pub(crate) fn pack(from: &[f32], to: &mut [f32]) {
    assert!(from.len() == 2 * to.len(), "pack: {} numbers to {} pairs", from.len(), to.len());
    let done = match has_bf16() {
        // SAFETY: the processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        true => unsafe { pack_vectors(from, to) },
        _ => 0,
    };
    for (two, to) in from.chunks_exact(2).zip(to).skip(done) {
        *to = pair(two[0], two[1]);
    }
}

/// Whole vectors of pairs; returns how many pairs were written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack_vectors(from: &[f32], to: &mut [f32]) -> usize {
    use std::arch::x86_64::*;

    use crate::lanes::LANES;

    let mut done = 0;
    for (from, to) in from.chunks_exact(2 * LANES).zip(to.chunks_exact_mut(LANES)) {
        // SAFETY: both have as many numbers as are read and written.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(LANES)));
            let pairs: __m512bh = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_ps(to.as_mut_ptr(), std::mem::transmute::<__m512bh, __m512>(pairs));
        }
        done += LANES;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_ties_to_even() {
        let round = |value| unpaired(pair(value, value));
        assert_eq!(round(1.0), [1.0; 2]);
        // Between 1 and 1 + 2^-7: the tie goes to the even 1, the next above goes up.
        assert_eq!(round(1.0 + 2f32.powi(-8)), [1.0; 2]);
        assert_eq!(round(1.0 + 2f32.powi(-8) + 2f32.powi(-20)), [1.0 + 2f32.powi(-7); 2]);
        assert_eq!(round(1.0 + 3.0 * 2f32.powi(-8)), [1.0 + 2f32.powi(-6); 2]);
        assert!(round(f32::NAN).iter().all(|value| value.is_nan()));
        assert_eq!(round(f32::INFINITY), [f32::INFINITY; 2]);
        assert_eq!(unpaired(pair(-2.0, 0.5)), [-2.0, 0.5]);
    }

    #[test]
    fn every_way_of_packing_rounds_alike() {
        let values: Vec<f32> = (0..70).map(|i| (i as f32 - 35.0) * 1.234_567).collect();
        let mut packed = vec![0f32; 35];
        pack(&values, &mut packed);
        for (values, packed) in values.chunks_exact(2).zip(packed) {
            assert_eq!(packed.to_bits(), pair(values[0], values[1]).to_bits());
        }
    }

    #[test]
    fn a_scope_ends_with_its_function() {
        Precision::Bf16.scope(|| assert_eq!(CURRENT.get(), Precision::Bf16));
        assert_eq!(CURRENT.get(), Precision::F32);
    }
}
