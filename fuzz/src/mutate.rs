//! Changes of an input.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers at which readers go wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 7, 127, 128, 255, 65_535, 1 << 20, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// Words and numbers of texts at which readers go wrong.
const WORDS: [&str; 12] = [
    "-1",
    "1e308",
    "NaN",
    "18446744073709551616",
    "99999999999",
    "0.5",
    "null",
    "\"\"",
    "[",
    "{",
    "\u{202e}",
    "\u{1b}[2J",
];

/// The longest input that is made.
const LONGEST: usize = 1 << 20;

/// A source of changed inputs; equal seeds give equal inputs.
#[derive(Debug)]
pub struct Mutator {
    random: ChaCha8Rng,
}

impl Mutator {
    /// A source that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// One of `inputs`, changed in one to eight places; parts of another may come in.
    pub fn next(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs.choose(&mut self.random).cloned().unwrap_or_default();
        for _ in 0..self.random.random_range(1..=8) {
            self.change(&mut input, inputs);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        if input.is_empty() {
            input.push(self.random.random());
        }
        let random = &mut self.random;
        let at = random.random_range(0..input.len());
        let length = random.random_range(1..=64).min(input.len() - at);
        match random.random_range(0..9) {
            0 => input[at] ^= 1 << random.random_range(0..8),
            1 => input[at] = random.random(),
            2 => drop(input.drain(at..at + length)),
            3 => {
                let block = input[at..at + length].to_vec();
                let times = random.random_range(1..=32);
                input.splice(at..at, block.repeat(times));
            }
            4 => {
                let number = NUMBERS.choose(random).copied().unwrap_or(0);
                let width = [1, 2, 4, 8].choose(random).copied().unwrap_or(1);
                let bytes =
                    if random.random() { number.to_le_bytes() } else { number.reverse_bits().to_be_bytes() };
                for (byte, value) in input[at..].iter_mut().zip(&bytes[..width]) {
                    *byte = *value;
                }
            }
            5 => {
                let word = WORDS.choose(random).copied().unwrap_or("0");
                let end = if random.random() { at } else { at + length };
                input.splice(at..end, word.bytes());
            }
            6 => input.truncate(at),
            7 => {
                let other = inputs.choose(random).cloned().unwrap_or_default();
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => replace_number(input, at, random),
        }
    }
}

/// Replaces the first decimal number behind `at`.
fn replace_number(input: &mut Vec<u8>, at: usize, random: &mut ChaCha8Rng) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) else {
        return;
    };
    let digits = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = match random.random_range(0..4) {
        0 => "0".to_owned(),
        1 => NUMBERS.choose(random).copied().unwrap_or(0).to_string(),
        2 => "9".repeat(random.random_range(1..40)),
        _ => random.random_range(0..100).to_string(),
    };
    input.splice(start..start + digits, number.bytes());
}
