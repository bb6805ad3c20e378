//! Seeded streams of random numbers that are the same on every machine and in every release.
//!
//! A stream is named by (seed, name, place), for instance (7, "order", `[epoch]`); its ChaCha8 key is
//! the BLAKE3 hash of that name. Streams are independent of each other and of the order in which they
//! are opened. The draws are written out here instead of taken from `rand`'s distributions, whose
//! values may change between releases.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Stream of random numbers.
#[derive(Debug, Clone)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// Opens the stream `name` of `seed` at `place`, e.g. `[epoch, position]`.
    pub fn new(seed: u64, name: &str, place: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        for number in place {
            hasher.update(&number.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`, or 0 when `n` is 0. The bias, below n / 2^64, cannot be observed.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// True with the given probability: never at 0, always at 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A direction: a point of the unit circle, uniform by angle, without trigonometry (whose last
    /// digits differ between machines).
    pub fn direction(&mut self) -> [f64; 2] {
        loop {
            let (x, y) = (self.between(-1.0, 1.0), self.between(-1.0, 1.0));
            let square = x * x + y * y;
            if square > 1e-3 && square <= 1.0 {
                let length = square.sqrt();
                return [x / length, y / length];
            }
        }
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_its_name_alone() {
        let first = |seed, name: &str, place: &[u64]| Draws::new(seed, name, place).below(1 << 40);
        assert_eq!(first(7, "order", &[3]), first(7, "order", &[3]));
        let others = [first(8, "order", &[3]), first(7, "image", &[3]), first(7, "order", &[4])];
        assert!(others.iter().all(|&other| other != first(7, "order", &[3])));
    }

    #[test]
    fn the_numbers_never_change() {
        // Written down once; a release that draws others would change every published run.
        let mut draws = Draws::new(1, "pinned", &[]);
        let drawn: Vec<usize> = (0..6).map(|_| draws.below(1000)).collect();
        assert_eq!(drawn, PINNED);
    }

    const PINNED: [usize; 6] = [777, 154, 393, 128, 645, 32];

    #[test]
    fn draws_stay_in_their_range() {
        let mut draws = Draws::new(3, "range", &[]);
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&draws.unit()));
            assert!(draws.below(3) < 3);
            assert!((2.0..5.0).contains(&draws.between(2.0, 5.0)));
            assert!(!draws.chance(0.0) && draws.chance(1.0));
            let [x, y] = draws.direction();
            assert!((x * x + y * y - 1.0).abs() < 1e-12);
        }
        assert_eq!(draws.below(0), 0);
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        Draws::new(3, "shuffle", &[]).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
