//! A rank that checks its job: `mpirun -n 4 target/release/examples/ranks [check|time|hang|late|exit CODE|panic]`.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ckd_collective::{Collective, Error, Launcher, Mpi, Tree};

fn main() -> ExitCode {
    let Some(launcher) = Launcher::of_this_process() else {
        println!("no launcher: nothing is loaded");
        return ExitCode::SUCCESS;
    };
    let ranks = match Mpi::join(&launcher) {
        Ok(ranks) => ranks,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(3);
        }
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.first().map_or("check", String::as_str) {
        "check" => check(&ranks),
        "time" => time(&ranks),
        "hang" => hang(&ranks),
        "late" => late(&ranks),
        "abort" => ranks.abort(words.get(1).and_then(|code| code.parse().ok()).unwrap_or(1)),
        "kill" => die(&ranks),
        other => panic!("{other} is none of check, time, hang, late, abort, kill"),
    };
    if let Err(error) = done {
        eprintln!("{error}");
        ranks.abort(75);
    }
    ExitCode::SUCCESS
}

/// Numbers of a rank, of all signs and magnitudes: any other order of addition shows.
fn numbers(rank: usize, length: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(rank as u64 + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * f32::exp2(-((state & 15) as f32))
    };
    (0..length).map(|_| next()).collect()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Every operation, against what one process computes.
fn check(ranks: &Mpi) -> Result<(), Error> {
    let size = ranks.size();
    let lengths = [0, 1, 2, 7, 1000, 100_003, 300_000];
    let started: Vec<_> = lengths
        .iter()
        .map(|&length| ranks.start_sum(numbers(ranks.rank(), length)))
        .collect::<Result<_, _>>()?;
    // Other operations come between.
    let all = ranks.all_gather(vec![ranks.rank() as u8; 3 * ranks.rank()])?;
    assert_eq!(all, (0..size).map(|rank| vec![rank as u8; 3 * rank]).collect::<Vec<_>>());
    ranks.poll()?;
    for (sum, length) in started.into_iter().zip(lengths).rev() {
        let mut tree = Tree::new(|a: Vec<f32>, b: Vec<f32>| {
            Ok::<_, ()>(a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<f32>>())
        });
        (0..size).for_each(|rank| tree.add(numbers(rank, length)).unwrap());
        let expected = tree.sum().unwrap().unwrap();
        assert_eq!(bits(&ranks.finish_sum(sum)?), bits(&expected), "{length} numbers");
    }
    let said = ranks.broadcast(if ranks.is_first() { b"all the same".to_vec() } else { vec![9] })?;
    assert_eq!(said, b"all the same");
    assert!(ranks.any(ranks.rank() == size - 1)?);
    assert!(!ranks.any(false)?);
    let local = ranks.local();
    if ranks.is_first() {
        println!(
            "{size} ranks, {} on {}: all operations are right; {}",
            local.size,
            ranks.host(),
            ranks.version()
        );
    }
    Ok(())
}

/// Times of a sum of 60 MiB: in buckets of 4 MiB, added in order of the ranks, and by the library's own all-reduce.
fn time(ranks: &Mpi) -> Result<(), Error> {
    const BUCKETS: usize = 15;
    const RUNS: usize = 21;
    let bucket = numbers(ranks.rank(), 1 << 20);
    let whole = bucket.repeat(BUCKETS);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // In turns: other programs of the machine slow down both alike.
    for _ in 0..RUNS {
        let values = vec![bucket.clone(); BUCKETS];
        ranks.any(false)?;
        let began = Instant::now();
        let started: Vec<_> =
            values.into_iter().map(|bucket| ranks.start_sum(bucket)).collect::<Result<_, _>>()?;
        let sums: Vec<_> = started.into_iter().map(|sum| ranks.finish_sum(sum)).collect::<Result<_, _>>()?;
        ours.push(began.elapsed().as_secs_f64() * 1e3);
        ranks.any(false)?;
        let began = Instant::now();
        let sum = ranks.sum_of_library(&whole)?;
        theirs.push(began.elapsed().as_secs_f64() * 1e3);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
        assert!(sums.iter().flatten().zip(&sum).all(close), "the two sums differ");
    }
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    if ranks.is_first() {
        let of = |times: &[f64]| format!("median {:.1}, least {:.1} ms", times[RUNS / 2], times[0]);
        println!("{} ranks: a sum of 60 MiB, {}", ranks.size(), ranks.version());
        println!("in order of the ranks: {}", of(&ours));
        println!("MPI_Allreduce:         {}", of(&theirs));
        println!(
            "ratio: {:.2} of medians, {:.2} of least",
            ours[RUNS / 2] / theirs[RUNS / 2],
            ours[0] / theirs[0]
        );
    }
    Ok(())
}

/// The last rank never comes.
fn hang(ranks: &Mpi) -> Result<(), Error> {
    ranks.set_patience(Duration::from_secs(3));
    ranks.any(false)?;
    if ranks.rank() + 1 == ranks.size() {
        std::thread::sleep(Duration::from_secs(60));
    }
    ranks.any(false).map(drop)
}

/// The last rank comes after the others have told that they wait.
fn late(ranks: &Mpi) -> Result<(), Error> {
    if ranks.rank() + 1 == ranks.size() {
        std::thread::sleep(Duration::from_millis(1500));
    }
    ranks.any(false).map(drop)
}

/// The last rank is killed.
fn die(ranks: &Mpi) -> Result<(), Error> {
    ranks.any(false)?;
    if ranks.rank() + 1 == ranks.size() {
        let me = std::process::id().to_string();
        let _ = std::process::Command::new("kill").args(["-9", &me]).status();
    }
    ranks.any(false).map(drop)
}
