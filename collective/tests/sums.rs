//! The order of sums.

use ckd_collective::{Collective, Solo, Tree, threads, tree};
use proptest::prelude::*;

/// The sum of `parts`, added level by level: neighbours, then neighbouring pairs.
fn by_levels(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    while parts.len() > 1 {
        let pairs = parts.chunks(2).map(|pair| match pair {
            [a, b] => a.iter().zip(b).map(|(a, b)| a + b).collect(),
            one => one[0].clone(),
        });
        parts = pairs.collect();
    }
    parts.pop().unwrap_or_default()
}

fn one_by_one(parts: &[Vec<f32>]) -> Option<Vec<f32>> {
    let mut tree = Tree::new(|a: Vec<f32>, b: Vec<f32>| {
        Ok::<_, ()>(a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<f32>>())
    });
    parts.iter().for_each(|part| tree.add(part.clone()).unwrap());
    tree.sum().unwrap()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Vectors of one length with numbers of many magnitudes.
fn parts(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<f32>>> {
    let number = (-1.0f32..1.0, -20i32..20).prop_map(|(x, power)| x * (power as f32).exp2());
    (count, 0usize..9).prop_flat_map(move |(count, length)| {
        prop::collection::vec(prop::collection::vec(number.clone(), length), count)
    })
}

proptest! {
    #[test]
    fn items_that_come_one_by_one_are_added_as_a_balanced_tree(parts in parts(1..40)) {
        prop_assert_eq!(bits(&one_by_one(&parts).unwrap()), bits(&by_levels(parts)));
    }

    #[test]
    fn vectors_side_by_side_are_added_as_the_same_tree(parts in parts(1..20)) {
        let mut whole = parts.concat();
        let width = parts[0].len();
        tree::add_vectors(&mut whole, width);
        prop_assert_eq!(bits(&whole[..width]), bits(&by_levels(parts)));
    }

    #[test]
    fn the_sum_over_ranks_is_that_of_one_process_bit_for_bit(parts in parts(1..9)) {
        let expected = bits(&by_levels(parts.clone()));
        let sums = threads::run(parts.len(), |ranks| {
            let sum = ranks.start_sum(parts[ranks.rank()].clone()).unwrap();
            ranks.finish_sum(sum).unwrap()
        });
        for sum in sums {
            prop_assert_eq!(bits(&sum), expected.clone());
        }
    }

    /// The rule of data-parallel training: ranks are accumulation.
    #[test]
    fn ranks_that_add_a_power_of_two_of_parts_first_give_the_bits_of_one_process(
        all in parts(16..17),
        power in 0u32..5,
    ) {
        let size = 1usize << power;
        let own = all.len() / size;
        let expected = bits(&by_levels(all.clone()));
        let sums = threads::run(size, |ranks| {
            let mine = one_by_one(&all[ranks.rank() * own..][..own]).unwrap();
            let sum = ranks.start_sum(mine).unwrap();
            ranks.finish_sum(sum).unwrap()
        });
        for sum in sums {
            prop_assert_eq!(bits(&sum), expected.clone());
        }
    }
}

#[test]
fn a_process_alone_gets_back_what_it_gave() {
    let alone = Solo::default();
    let (first, second) = (alone.start_sum(vec![1.0]).unwrap(), alone.start_sum(vec![2.0, 3.0]).unwrap());
    alone.poll().unwrap();
    assert_eq!(alone.finish_sum(second).unwrap(), [2.0, 3.0]);
    assert_eq!(alone.finish_sum(first).unwrap(), [1.0]);
    assert!(alone.any(true).unwrap() && !alone.any(false).unwrap() && alone.is_alone());
    assert_eq!(one_by_one(&[]), None);
}
