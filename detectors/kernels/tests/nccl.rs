//! Sums and gathers over two GPUs, or their stand-in, by NCCL: a thread for each. In a build with the feature `cuda`, and with
//! `CKD_DET_TEST_DEVICE=cuda`.

use candle_core::Tensor;
use ckd_kernels::cuda;
use ckd_kernels::cuda::nccl::{Nccl, unique_id};

/// Ranks.
const SIZE: usize = 2;

/// Numbers of a rank, of all signs and magnitudes.
fn numbers(rank: usize, count: usize) -> Vec<f32> {
    let number = |at: usize| ((rank * 31 + at * 7) as f32).sin() * 10f32.powi((at % 9) as i32 - 4);
    (0..count).map(number).collect()
}

#[test]
fn sums_over_gpus_have_the_bits_of_the_host_and_bytes_come_in_order_of_the_ranks() {
    if cuda::machine().unwrap().gpus.len() < SIZE {
        assert!(std::env::var_os("CPU_CUDA_DIR").is_none(), "the stand-in has as many as CPU_CUDA_GPUS says");
        eprintln!("NOT RUN: there is one GPU");
        return;
    }
    let id = unique_id().unwrap();
    let of_rank = |rank: usize| {
        let device = cuda::open(rank).unwrap();
        let nccl = Nccl::join(&device, id, rank, SIZE).unwrap();
        assert_eq!((nccl.rank(), nccl.size()), (rank, SIZE));
        let counts = [2, 64, 6000, 1 << 20];
        let vectors = counts.map(|count| Tensor::from_vec(numbers(rank, count), count, &device).unwrap());
        let sums = vectors.each_ref().map(|vector| nccl.start_sum(vector).unwrap());
        // The memory of the vectors is used until the sums are there.
        drop(vectors);
        // Something else comes between.
        let gather = nccl.start_gather(&[rank as u8, 7, 9]).unwrap();
        for (sum, count) in sums.into_iter().zip(counts) {
            let sum: Vec<f32> = nccl.take(sum).unwrap().to_vec1().unwrap();
            let host = numbers(0, count).into_iter().zip(numbers(1, count)).map(|(a, b)| a + b);
            assert!(sum.iter().map(|x| x.to_bits()).eq(host.map(f32::to_bits)), "{count} numbers");
        }
        while !gather.is_done().unwrap() {
            nccl.check().unwrap();
        }
        assert_eq!(nccl.take_bytes(gather).unwrap(), [0, 7, 9, 1, 7, 9]);
        let odd = Tensor::from_vec(vec![0f32; 3], 3, &device).unwrap();
        let error = nccl.start_sum(&odd).unwrap_err().to_string();
        assert!(error.contains("[3] cannot be shared by 2 ranks"), "{error}");
    };
    std::thread::scope(|scope| {
        (0..SIZE).for_each(|rank| drop(scope.spawn(move || of_rank(rank))));
    });
}
