//! Peak multiply-adds of the processor: the yardstick of the benchmarks.

use crate::simd::Simd;

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
