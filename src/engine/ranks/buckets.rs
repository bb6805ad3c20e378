//! Gradients on their way into the sum over all ranks: one row of numbers, cut into buckets.

use std::collections::VecDeque;

use candle_core::Tensor;
use ckd_collective::{Collective, Pending};
use ckd_kernels::flat;

#[cfg(feature = "cuda")]
use super::gpus::Gpus;
use super::packet::garbled;
use crate::engine::Result;

/// Numbers of a bucket of the host, 4 MB: large enough that messages cost little, small enough that sums overlap.
pub(super) const BUCKET: usize = 1 << 20;

/// The number that a rank without a gradient adds: it changes no number, not even the sign of a zero.
const NOTHING: f32 = -0.0;

/// Row of the gradients of all parameters in their order of travel.
pub(super) trait Buckets {
    /// Puts the next parameter's gradient into the row, if there is one; `like` has its shape. Full buckets are sent.
    ///
    /// # Errors
    /// If a gradient cannot be read, or the transport fails.
    fn put(&mut self, gradient: Option<&Tensor>, like: &Tensor) -> Result<()>;

    /// Sends what is left.
    ///
    /// # Errors
    /// If the transport fails.
    fn send_rest(&mut self) -> Result<()>;

    /// Whether a sum was started.
    fn are_under_way(&self) -> bool;

    /// The sum of the next parameter's gradients over all ranks, if it is wanted.
    ///
    /// # Errors
    /// If a rank is late.
    fn next(&mut self, like: &Tensor, is_wanted: bool) -> Result<Option<Tensor>>;
}

/// The way of `ranks`: through the host, or from GPU to GPU.
pub(super) fn buckets(ranks: &dyn Collective) -> Box<dyn Buckets + '_> {
    #[cfg(feature = "cuda")]
    if let Some(gpus) = ranks.on_gpus().and_then(|gpus| gpus.downcast_ref::<Gpus>()) {
        return Box::new(OnGpus {
            gpus,
            filling: None,
            sums: VecDeque::new(),
            layout: VecDeque::new(),
            summed: None,
        });
    }
    Box::new(OnHost { ranks, filling: Vec::new(), started: VecDeque::new(), summed: Vec::new(), read: 0 })
}

/// Buckets in the memory of the host, of [`BUCKET`] numbers each.
struct OnHost<'r> {
    ranks: &'r dyn Collective,
    filling: Vec<f32>,
    started: VecDeque<Pending>,
    /// The sums of a bucket, and how many were taken.
    summed: Vec<f32>,
    read: usize,
}

impl Buckets for OnHost<'_> {
    fn put(&mut self, gradient: Option<&Tensor>, like: &Tensor) -> Result<()> {
        match gradient {
            Some(gradient) => flat::append(gradient, &mut self.filling)?,
            None => self.filling.resize(self.filling.len() + like.elem_count(), NOTHING),
        }
        if self.filling.len() >= BUCKET {
            let whole = std::mem::take(&mut self.filling);
            let full = whole.chunks_exact(BUCKET);
            self.filling.extend_from_slice(full.remainder());
            for bucket in full {
                self.started.push_back(self.ranks.start_sum(bucket.to_vec())?);
            }
        }
        Ok(())
    }

    fn send_rest(&mut self) -> Result<()> {
        if !self.filling.is_empty() {
            self.started.push_back(self.ranks.start_sum(std::mem::take(&mut self.filling))?);
        }
        Ok(())
    }

    fn are_under_way(&self) -> bool {
        !self.started.is_empty()
    }

    fn next(&mut self, like: &Tensor, is_wanted: bool) -> Result<Option<Tensor>> {
        let count = like.elem_count();
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            if self.read == self.summed.len() {
                let sum = self.started.pop_front().ok_or_else(|| garbled(&"a sum is too short"))?;
                (self.summed, self.read) = (self.ranks.finish_sum(sum)?, 0);
            }
            let end = self.summed.len().min(self.read + count - values.len());
            values.extend_from_slice(&self.summed[self.read..end]);
            self.read = end;
        }
        is_wanted.then(|| Ok(flat::restored(values, like)?)).transpose()
    }
}

/// Numbers of a bucket of a GPU, 25 MB.
#[cfg(feature = "cuda")]
const GPU_BUCKET: usize = 25 << 18;

/// Numbers to whose multiples gradients are moved apart, so that kernels find them aligned.
#[cfg(feature = "cuda")]
const ALIGNED: usize = 64;

/// Buckets in the memory of a GPU. No gradient is cut.
#[cfg(feature = "cuda")]
struct OnGpus<'r> {
    gpus: &'r Gpus,
    /// A bucket, and how much of it is full.
    filling: Option<(Tensor, usize)>,
    sums: VecDeque<ckd_kernels::cuda::nccl::Sum>,
    /// Where each parameter lies: the number of its bucket among those that are full, and its start there.
    layout: VecDeque<(usize, usize)>,
    /// The sums of a bucket, and its number.
    summed: Option<(usize, Tensor)>,
}

#[cfg(feature = "cuda")]
impl OnGpus<'_> {
    /// Buckets that were begun before the one at hand.
    fn earlier(&self) -> usize {
        self.sums.len()
    }
}

#[cfg(feature = "cuda")]
impl Buckets for OnGpus<'_> {
    fn put(&mut self, gradient: Option<&Tensor>, like: &Tensor) -> Result<()> {
        let count = like.elem_count();
        if self.filling.as_ref().is_some_and(|(bucket, full)| full + count > bucket.elem_count()) {
            self.send_rest()?;
        }
        let (bucket, start) = match self.filling.take() {
            Some(filling) => filling,
            None => {
                let size = count.max(GPU_BUCKET).next_multiple_of(ALIGNED * self.gpus.size());
                (Tensor::zeros(size, candle_core::DType::F32, like.device())?, 0)
            }
        };
        let place = bucket.narrow(0, start, count)?;
        match gradient {
            Some(gradient) => flat::put(gradient, &place)?,
            None => flat::put(&Tensor::from_vec(vec![NOTHING; count], count, like.device())?, &place)?,
        }
        self.layout.push_back((self.earlier(), start));
        self.filling = Some((bucket, (start + count).next_multiple_of(ALIGNED)));
        Ok(())
    }

    fn send_rest(&mut self) -> Result<()> {
        if let Some((bucket, full)) = self.filling.take() {
            let used = full.next_multiple_of(self.gpus.size()).min(bucket.elem_count());
            self.sums.push_back(self.gpus.start_sum_of(&bucket.narrow(0, 0, used)?)?);
        }
        Ok(())
    }

    fn are_under_way(&self) -> bool {
        !self.sums.is_empty()
    }

    fn next(&mut self, like: &Tensor, is_wanted: bool) -> Result<Option<Tensor>> {
        let (bucket, start) = self.layout.pop_front().ok_or_else(|| garbled(&"a sum is too short"))?;
        if self.summed.as_ref().is_none_or(|(number, _)| *number != bucket) {
            let sum = self.sums.pop_front().ok_or_else(|| garbled(&"a sum is too short"))?;
            self.summed = Some((bucket, self.gpus.finish_sum_of(sum)?));
        }
        let Some((_, summed)) = self.summed.as_ref().filter(|_| is_wanted) else { return Ok(None) };
        Ok(Some(flat::shaped(&summed.narrow(0, start, like.elem_count())?, like)?))
    }
}
