//! Level of vector instructions in use: found once, at run time.
//!
//! One program runs everywhere: a kernel is compiled for every level, and the processor's own is chosen when
//! it runs. `CKD_DET_SIMD=scalar|avx2|avx512` asks for a lower level (tests compare them); a level that the
//! processor lacks is never used.

use std::fmt;
use std::sync::OnceLock;

/// A level of vector instructions, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Simd {
    /// Instructions that every processor of the target has: the reference.
    Scalar,
    /// 8 floats at a time with fused multiply-add (x86-64-v3).
    Avx2,
    /// 16 floats at a time (x86-64-v4).
    Avx512,
}

impl Simd {
    /// All levels.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// Level in use: the processor's highest, or a lower one that `CKD_DET_SIMD` names.
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

    /// Name of the level, as `CKD_DET_SIMD` takes it.
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
    /// Result of the loops.
    type Output;

    /// Runs the loops. `#[inline(always)]`, and so is all that this calls, or it stays at the lowest level.
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
