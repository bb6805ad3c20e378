//! The exponential moving average of the weights (Polyak averaging; PyTorch's `torch.optim.swa_utils.AveragedModel` with
//! `get_ema_multi_avg_fn`).
//!
//! ```text
//! a(1) = w(1)                              after the first update
//! a(t) = d · a(t-1) + (1 - d) · w(t)
//! ```
//!
//! There is no warm-up of d: the average begins with weights, not with zeros, so it needs no correction. Only trainable
//! parameters are averaged; statistics of batch norms stay those of the network, as in PyTorch by default.

use std::sync::Arc;

use candle_core::Tensor;
use ckd_detectors::param::{ParamStore, write_in_place};
use ckd_kernels::ema::update_averages;

use super::optimizer::{Slot, zeros_in_memory_order};

/// The average of the weights of networks.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    averaged: Vec<Averaged>,
}

#[derive(Debug)]
struct Averaged {
    name: Arc<str>,
    weights: Tensor,
    average: Tensor,
}

impl Ema {
    /// The average of the trainable parameters of `stores`, before the first update.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn over(stores: &[&ParamStore], decay: f64) -> ckd_detectors::Result<Self> {
        let averaged = stores.iter().flat_map(|store| store.trainable()).map(|(name, weights)| {
            let average = zeros_in_memory_order(weights)?;
            Ok(Averaged { name: name.clone(), weights: weights.clone(), average })
        });
        Ok(Self { decay, averaged: averaged.collect::<ckd_detectors::Result<_>>()? })
    }

    /// Takes in the weights after `updates` updates.
    ///
    /// # Errors
    /// If the device cannot be written.
    pub fn update(&mut self, updates: u64) -> ckd_detectors::Result<()> {
        if updates <= 1 {
            return self.averaged.iter().try_for_each(|own| write_in_place(&own.average, &own.weights));
        }
        let pairs: Vec<_> = self.averaged.iter().map(|own| (&own.average, &own.weights)).collect();
        Ok(update_averages(&pairs, self.decay)?)
    }

    /// Runs `work` while the networks have the averages as their weights; afterwards they have their own again, bit for
    /// bit.
    ///
    /// # Errors
    /// If the device cannot be written; those of `work`.
    pub fn in_place<R, E: From<ckd_detectors::Error>>(
        &self,
        work: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let own = self.averaged.iter().map(|averaged| Ok(averaged.weights.copy()?));
        let own = own.collect::<ckd_detectors::Result<Vec<Tensor>>>()?;
        self.averaged.iter().try_for_each(|averaged| write_in_place(&averaged.weights, &averaged.average))?;
        let result = work();
        self.averaged
            .iter()
            .zip(&own)
            .try_for_each(|(averaged, own)| write_in_place(&averaged.weights, own))?;
        result
    }

    /// The averages, as a checkpoint holds them.
    pub fn slots(&self) -> Vec<Slot<'_>> {
        let slots = self.averaged.iter();
        slots.map(|Averaged { name, average, .. }| Slot { slot: "ema", name, tensor: average }).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use ckd_detectors::init::Init;
    use ckd_detectors::param::Builder;

    use super::*;

    #[test]
    fn the_average_begins_with_the_weights_of_the_first_update_and_the_network_keeps_its_own() {
        let builder = Builder::new(0, &Device::Cpu);
        let weight = builder.within("fc").weight("weight", &[1], Init::Constant(0.0)).unwrap();
        let store = builder.finish();
        let value = || weight.tensor().to_vec1::<f32>().unwrap()[0];
        let mut ema = Ema::over(&[&store], 0.75).unwrap();
        for (updates, weight) in (1..).zip([4f32, 8.0, 0.0]) {
            store.set("fc.weight", &Tensor::new(&[weight], &Device::Cpu).unwrap()).unwrap();
            ema.update(updates).unwrap();
        }
        // 4; 0.75 · 4 + 0.25 · 8 = 5; 0.75 · 5 = 3.75.
        let seen = ema.in_place(|| Ok::<f32, ckd_detectors::Error>(value())).unwrap();
        assert_eq!((seen, value()), (3.75, 0.0));
        let failed = ema.in_place(|| write_in_place(weight.tensor(), weight.tensor()));
        assert!(failed.is_err(), "a tensor cannot be written from itself");
        assert_eq!(value(), 0.0, "an error in between changes nothing");
    }
}
