//! Which vector instructions the kernels use: found once, at run time.
//!
//! One program runs everywhere: a kernel is compiled for every level, and the processor's own is chosen when it
//! runs. `CKD_DET_SIMD=scalar|avx2|avx512` asks for a lower level (tests compare them); a level that the
//! processor lacks is never used.

use std::fmt;
use std::sync::OnceLock;

/// A level of vector instructions, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Simd {
    /// What every processor of the target has: the reference.
    Scalar,
    /// 8 floats at a time with fused multiply-add (x86-64-v3).
    Avx2,
    /// 16 floats at a time (x86-64-v4).
    Avx512,
}

impl Simd {
    /// All levels.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The level in use: the processor's highest, or a lower one that `CKD_DET_SIMD` names.
    pub fn level() -> Self {
        static LEVEL: OnceLock<Simd> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let highest = Self::highest();
            let asked = std::env::var("CKD_DET_SIMD").ok();
            let asked = asked.and_then(|name| Self::ALL.into_iter().find(|level| level.name() == name));
            asked.map_or(highest, |asked| asked.min(highest))
        })
    }

    /// The highest level of this processor.
    pub fn highest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("fma") {
                return Self::Avx512;
            }
            if has!("avx2") && has!("fma") {
                return Self::Avx2;
            }
        }
        Self::Scalar
    }

    /// Its name, as `CKD_DET_SIMD` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Plain loops that [`at_level`] compiles once for every level.
pub trait Loops {
    /// What they come to.
    type Output;

    /// Runs them. `#[inline(always)]`, and so is all that it calls, or it stays at the lowest level.
    fn run(self) -> Self::Output;
}

/// Runs the copy of `loops` that is compiled for the level in use.
///
/// Fused multiply-adds are not introduced, so the result is the same at every level.
#[inline]
pub fn at_level<L: Loops>(loops: L) -> L::Output {
    match Simd::level() {
        Simd::Scalar => loops.run(),
        // SAFETY: a level is only in use if the processor has it.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { at_avx2(loops) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { at_avx512(loops) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => loops.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn at_avx2<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn at_avx512<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

/// Runs a plain loop compiled for the level in use, so that the compiler vectorises it with those instructions.
///
/// `f` and what it calls must be small enough to be inlined (for more than one short loop take [`Loops`], or
/// `for_each_level!` in this crate, which leave no doubt); fused multiply-adds are not introduced, so the
/// result is the same at every level unless `f` sums in vectors of its own.
#[inline]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    match Simd::level() {
        Simd::Scalar => f(),
        // SAFETY: a level is only in use if the processor has it.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { with_avx2(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { with_avx512(f) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => f(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn with_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// 16 floats that are worked on together.
pub(crate) trait Lanes: Copy {
    /// All of them 0.
    fn zero() -> Self;
    /// The first 16 of `values`.
    fn load(values: &[f32]) -> Self;
    /// To the first 16 of `values`.
    fn store(self, values: &mut [f32]);
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
        self.zip(self, |a, _| crate::elementwise::rectified(a))
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

// SAFETY of every block: `each_level` makes values of this type only where the processor has AVX-512F, and the
// lengths of slices are checked.
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

/// A function over [`Lanes`] that is compiled for every level, and runs at the level in use.
///
/// Unlike a closure passed to [`vectorized`], a body of any size is sure to be compiled with the level's instructions.
macro_rules! each_level {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$lanes:ident>($($argument:ident: $type:ty),* $(,)?) $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body<$lanes: $crate::simd::Lanes>($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) {
                body::<$crate::simd::Plain>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($argument: $type),*) {
                body::<$crate::simd::Avx512>($($argument),*)
            }
            match $crate::simd::Simd::level() {
                // SAFETY: a level is only in use if the processor has it.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Simd::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Simd::Avx2 => unsafe { avx2($($argument),*) },
                _ => body::<$crate::simd::Plain>($($argument),*),
            }
        }
    };
}
pub(crate) use each_level;

/// Whether the processor, at the level in use, multiplies pairs of bfloat16.
pub(crate) fn has_bf16() -> bool {
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
pub(crate) fn pack_bf16(from: &[f32], to: &mut [f32]) {
    assert!(from.len() == 2 * to.len(), "pack: {} numbers to {} pairs", from.len(), to.len());
    let done = match has_bf16() {
        // SAFETY: the processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        true => unsafe { pack_vectors(from, to) },
        _ => 0,
    };
    for (pair, to) in from.chunks_exact(2).zip(to).skip(done) {
        *to = crate::precision::pair(pair[0], pair[1]);
    }
}

/// Whole vectors of pairs; returns how many pairs were written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack_vectors(from: &[f32], to: &mut [f32]) -> usize {
    use std::arch::x86_64::*;
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
/// Compiles a function once for every level; calls run the copy of the level in use.
///
/// All that the function calls must be `#[inline(always)]`, or it stays at the lowest level.
macro_rules! for_each_level {
    ($(
        $(#[$attribute:meta])*
        $vis:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    )*) => {$(
        $(#[$attribute])*
        $vis fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn plain($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) $(-> $result)? {
                plain($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) $(-> $result)? {
                plain($($argument),*)
            }

            match $crate::simd::Simd::level() {
                $crate::simd::Simd::Scalar => plain($($argument),*),
                // SAFETY: a level is only in use if the processor has it.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Simd::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Simd::Avx512 => unsafe { avx512($($argument),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => plain($($argument),*),
            }
        }
    )*};
}

pub(crate) use for_each_level;

/// Runs `rounds` of independent fused multiply-adds in registers at the level in use, and tells how many
/// multiplications that were: a processor can do no more of them.
pub fn multiply_adds(rounds: u64) -> u64 {
    match Simd::level() {
        // SAFETY: a level is only in use if the processor has it.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => rounds * unsafe { fma_avx512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => rounds * unsafe { fma_avx2(rounds) },
        _ => {
            let mut sums = [0f32; 8];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = std::hint::black_box(*sum * 0.5 + 1.0);
                }
            }
            8 * rounds
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fma_avx512(rounds: u64) -> u64 {
    use std::arch::x86_64::*;
    let (a, b) = (_mm512_set1_ps(0.5), _mm512_set1_ps(std::hint::black_box(1.0)));
    let mut sums = [_mm512_setzero_ps(); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(a, *sum, b);
        }
    }
    for sum in sums {
        std::hint::black_box(_mm512_reduce_add_ps(sum));
    }
    12 * 16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_avx2(rounds: u64) -> u64 {
    use std::arch::x86_64::*;
    let (a, b) = (_mm256_set1_ps(0.5), _mm256_set1_ps(std::hint::black_box(1.0)));
    let mut sums = [_mm256_setzero_ps(); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(a, *sum, b);
        }
    }
    for sum in sums {
        std::hint::black_box(_mm256_cvtss_f32(sum));
    }
    12 * 8
}
