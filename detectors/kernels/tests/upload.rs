//! Values sent ahead to the device of the tests. On the stand-in a copy is made as late as a GPU may make it.

use candle_core::Device;
use ckd_kernels::upload::{Uploads, Values};

use crate::support::{device, golden, values};

fn batch(stream: u64, count: usize) -> Vec<f32> {
    golden::tensor(stream, count, 1.0, 0.0)
}

#[test]
fn what_was_sent_ahead_is_what_is_copied_otherwise() {
    let uploads = Uploads::to(device()).expect("a device that answers");
    assert_eq!(uploads.is_some(), !device().is_cpu());
    // More than there are buffers, of sizes that grow and shrink, from several threads; then taken in another order.
    let sizes = [12, 5000, 36, 0, 70_000, 70_000, 3, 8192];
    let mut sent: Vec<Values> = std::thread::scope(|scope| {
        let send = |(stream, &count): (usize, &usize)| {
            let uploads = &uploads;
            scope.spawn(move || {
                let mut batch = Values::from(batch(stream as u64, count));
                if let Some(uploads) = uploads {
                    batch.send(uploads);
                }
                batch
            })
        };
        let threads: Vec<_> = sizes.iter().enumerate().map(send).collect();
        threads.into_iter().map(|thread| thread.join().expect("a batch")).collect()
    });
    for stream in (0..sizes.len()).rev() {
        let one = sent.pop().expect("as many as there are sizes");
        let tensor = one.into_tensor((sizes[stream], 1), device()).expect("as many as were sent");
        assert_eq!(values(&tensor), batch(stream as u64, sizes[stream]), "{stream}");
    }
}

#[test]
fn changed_values_and_other_shapes_are_not_those_that_were_sent() {
    let uploads = Uploads::to(device()).expect("a device that answers");
    let ahead = |count: usize| {
        let mut batch = Values::from(batch(1, count));
        if let Some(uploads) = &uploads {
            batch.send(uploads);
        }
        batch
    };
    let mut changed = ahead(6);
    changed[2] = 7.0;
    changed.push(8.0);
    let want = changed.to_vec();
    assert_eq!(values(&changed.into_tensor(7, device()).unwrap()), want);
    assert!(ahead(6).into_tensor(5, device()).is_err());
    // Sent and never used, and used on the CPU.
    drop(ahead(100));
    let copy = ahead(6).clone();
    assert_eq!(copy, ahead(6));
    assert_eq!(values(&ahead(6).into_tensor((2, 3), &Device::Cpu).unwrap()), batch(1, 6));
}
