//! Ranks that are threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ckd_collective::{Collective, Error, threads};

#[test]
fn bytes_are_gathered_in_order_of_the_ranks_and_those_of_rank_0_reach_all() {
    let all = threads::run(3, |ranks| {
        let own = vec![ranks.rank() as u8; ranks.rank()];
        let gathered = ranks.all_gather(own).unwrap();
        let said = ranks.broadcast(vec![7 + ranks.rank() as u8]).unwrap();
        (gathered, said, ranks.any(ranks.rank() == 2).unwrap(), ranks.any(false).unwrap())
    });
    for found in all {
        assert_eq!(found, (vec![vec![], vec![1], vec![2, 2]], vec![7], true, false));
    }
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let found = threads::run(3, |ranks| {
        ranks.set_patience(Duration::from_millis(100));
        if ranks.rank() == 1 { Ok(false) } else { ranks.any(true) }
    });
    let Err(error @ Error::Late { .. }) = &found[2] else { panic!("{found:?}") };
    assert_eq!(error.to_string(), "rank 2 on this machine waited 0 s in a gather for rank 1");
}

#[test]
fn a_rank_that_gives_up_ends_the_others() {
    let found = threads::run(2, |ranks| match ranks.rank() {
        0 => catch_unwind(AssertUnwindSafe(|| ranks.abort(4))).map(drop).map_err(|_| "ended".to_owned()),
        _ => ranks.any(true).map(drop).map_err(|error| error.to_string()),
    });
    assert_eq!(found, [Err("ended".to_owned()), Err("rank 0 ended the run with exit code 4".to_owned())]);
}
