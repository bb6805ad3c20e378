//! Vectors of 16 floats as values, for kernels whose order of operations matters more than a loop can say.

/// 16 floats that are worked on together.
pub(crate) trait Lanes: Copy {
    /// Returns lanes of zeros.
    fn zero() -> Self;
    /// The first 16 of `values`.
    fn load(values: &[f32]) -> Self;
    /// To the first 16 of `values`.
    fn store(self, values: &mut [f32]);
    /// The first 16 of `values`; unless `WHOLE`, zeros where there are fewer.
    #[inline(always)]
    fn load_some<const WHOLE: bool>(values: &[f32]) -> Self {
        if WHOLE || values.len() >= LANES {
            return Self::load(values);
        }
        let mut all = [0.0; LANES];
        all[..values.len()].copy_from_slice(values);
        Self::load(&all)
    }
    /// To the first 16 of `values`; unless `WHOLE`, to all where there are fewer.
    #[inline(always)]
    fn store_some<const WHOLE: bool>(self, values: &mut [f32]) {
        if WHOLE || values.len() >= LANES {
            return self.store(values);
        }
        let mut all = [0.0; LANES];
        self.store(&mut all);
        values.copy_from_slice(&all[..values.len()]);
    }
    /// Sums.
    fn add(self, other: Self) -> Self;
    /// Differences.
    fn sub(self, other: Self) -> Self;
    /// Each times `factor`.
    fn scale(self, factor: f32) -> Self;
    /// self + `factor` · other, perhaps rounded once.
    fn plus(self, factor: f32, other: Self) -> Self;
    /// 0 where negative; not where NaN.
    fn rectified(self) -> Self;
    /// `limit` where larger; not where NaN.
    fn at_most(self, limit: f32) -> Self;
}

/// Lanes of 16.
pub(crate) const LANES: usize = 16;

/// Lanes that the compiler makes vectors of.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self;
        for l in 0..LANES {
            out.0[l] = f(self.0[l], other.0[l]);
        }
        out
    }
}

impl Lanes for Plain {
    #[inline(always)]
    fn zero() -> Self {
        Self([0.0; LANES])
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        Self(*values.first_chunk().expect("16 numbers"))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        *values.first_chunk_mut().expect("16 numbers") = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn scale(self, factor: f32) -> Self {
        self.zip(self, |a, _| a * factor)
    }

    #[inline(always)]
    fn plus(self, factor: f32, other: Self) -> Self {
        self.zip(other, |a, b| a + factor * b)
    }

    #[inline(always)]
    fn rectified(self) -> Self {
        self.zip(self, |a, _| crate::activation::rectified(a))
    }

    #[inline(always)]
    fn at_most(self, limit: f32) -> Self {
        self.zip(self, |a, _| if a > limit { limit } else { a })
    }
}

/// Lanes in one AVX-512 register.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(std::arch::x86_64::__m512);

// SAFETY of every block: `over_lanes` makes values of this type only where the processor has AVX-512F, and
// the lengths of slices are checked.
#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    #[inline(always)]
    fn zero() -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_setzero_ps() })
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values: &[f32; LANES] = values.first_chunk().expect("16 numbers");
        Self(unsafe { std::arch::x86_64::_mm512_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values: &mut [f32; LANES] = values.first_chunk_mut().expect("16 numbers");
        unsafe { std::arch::x86_64::_mm512_storeu_ps(values.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn scale(self, factor: f32) -> Self {
        use std::arch::x86_64::*;
        Self(unsafe { _mm512_mul_ps(_mm512_set1_ps(factor), self.0) })
    }

    #[inline(always)]
    fn plus(self, factor: f32, other: Self) -> Self {
        use std::arch::x86_64::*;
        Self(unsafe { _mm512_fmadd_ps(_mm512_set1_ps(factor), other.0, self.0) })
    }

    #[inline(always)]
    fn rectified(self) -> Self {
        use std::arch::x86_64::*;
        // The second operand wins where it is NaN.
        Self(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
    }

    #[inline(always)]
    fn at_most(self, limit: f32) -> Self {
        use std::arch::x86_64::*;
        // As above.
        Self(unsafe { _mm512_min_ps(_mm512_set1_ps(limit), self.0) })
    }
}

/// Runs a block for every vector of `count` numbers, of which `first` is the first; `WHOLE` is false for the last where it is a
/// part. The block is compiled twice: choices within it cost the whole vectors time.
macro_rules! by_lanes {
    ($count:expr, |$first:ident, $whole:ident| $block:block) => {{
        let (count, rest) = ($count, $count % $crate::lanes::LANES);
        for $first in (0..count - rest).step_by($crate::lanes::LANES) {
            const $whole: bool = true;
            $block
        }
        if rest > 0 {
            const $whole: bool = false;
            let $first = count - rest;
            $block
        }
    }};
}
pub(crate) use by_lanes;

/// A function over [`Lanes`] that is compiled for every level, and runs at the level in use.
///
/// Closures in the body that touch lanes would be compiled apart, without the level's instructions.
macro_rules! over_lanes {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$lanes:ident>($($argument:ident: $type:ty),* $(,)?) $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body<$lanes: $crate::lanes::Lanes>($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) {
                body::<$crate::lanes::Plain>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($argument: $type),*) {
                body::<$crate::lanes::Avx512>($($argument),*)
            }
            match $crate::simd::Simd::level() {
                // SAFETY: a level is only in use if the processor has it.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Simd::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Simd::Avx2 => unsafe { avx2($($argument),*) },
                _ => body::<$crate::lanes::Plain>($($argument),*),
            }
        }
    };
}
pub(crate) use over_lanes;
