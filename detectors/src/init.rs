//! Initial values of weights: torchvision's rules, with random numbers of our own.
//!
//! Each parameter draws from a stream of its own, given by the seed and its name, so neither the order
//! in which a network is built nor another layer's size changes it.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

/// Initial values of a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Every element is this.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this.
    Uniform(f64),
    /// He et al. 2015 for ReLU, normal, by fan-out: std √(2 / (K·R·S)).
    KaimingNormalFanOut,
    /// `kaiming_uniform_(a=1)`: bound √(3 / fan-in).
    KaimingUniformLinearGain,
    /// PyTorch's default for convolutions and linear layers, `kaiming_uniform_(a=√5)`: bound 1 / √fan-in.
    TorchDefault,
}

impl Init {
    /// The values of a tensor called `name`, row-major.
    pub fn values(self, shape: &[usize], seed: u64, name: &str) -> Vec<f32> {
        let count: usize = shape.iter().product();
        let per_output: usize = shape.iter().skip(2).product();
        let fan_in = (shape.get(1).copied().unwrap_or(1) * per_output).max(1) as f64;
        let fan_out = (shape.first().copied().unwrap_or(1) * per_output).max(1) as f64;
        let mut random = ChaCha8Rng::seed_from_u64(stream(seed, name));
        match self {
            Self::Constant(value) => vec![value; count],
            Self::Normal(std) => normal(&mut random, std, count),
            Self::KaimingNormalFanOut => normal(&mut random, (2.0 / fan_out).sqrt(), count),
            Self::Uniform(bound) => uniform(&mut random, bound, count),
            Self::KaimingUniformLinearGain => uniform(&mut random, (3.0 / fan_in).sqrt(), count),
            Self::TorchDefault => uniform(&mut random, 1.0 / fan_in.sqrt(), count),
        }
    }
}

fn normal(random: &mut ChaCha8Rng, std: f64, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let z: f64 = StandardNormal.sample(random);
            (z * std) as f32
        })
        .collect()
}

fn uniform(random: &mut ChaCha8Rng, bound: f64, count: usize) -> Vec<f32> {
    let range = Uniform::new_inclusive(-bound, bound).expect("bounds are finite and ordered");
    (0..count).map(|_| range.sample(random) as f32).collect()
}

/// The seed of the random stream `name` of a run (FNV-1a over the name, mixed with the run's seed).
pub fn stream(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut mixed = hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}
