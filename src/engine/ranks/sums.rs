//! Sums of gradients over all ranks while the walk back goes on, and side effects of passes.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::Tensor;
use ckd_collective::Collective;
use ckd_kernels::deferred::Deferred;
use ckd_kernels::graph::add_into;
use ckd_kernels::{Gradients, Sink};

use super::buckets::{Buckets, buckets};
use super::packet::{Packet, Reader};
use crate::engine::{EngineError, Result};
use crate::optim::groups::Parameter;

/// Order in which the gradients of all parameters travel, as one row of numbers that is cut into buckets.
#[derive(Debug)]
pub(in crate::engine) struct Plan {
    /// Names, and tensors of the gradients' shapes, in the optimiser's order.
    parameters: Vec<(Arc<str>, Tensor)>,
    /// Places in `parameters` by name.
    places: HashMap<Arc<str>, usize>,
    /// Places in `parameters`, in order of travel.
    order: Vec<usize>,
    /// Whether the order is one in which gradients were seen to leave a walk back.
    pub(in crate::engine) is_observed: bool,
}

impl Plan {
    /// The order before a walk was seen: names in reverse, which puts most layers behind those that follow them.
    pub(in crate::engine) fn of(parameters: &[Parameter]) -> Self {
        let parameters: Vec<_> =
            parameters.iter().map(|parameter| (parameter.name.clone(), parameter.tensor.clone())).collect();
        let places = parameters.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
        let order = (0..parameters.len()).rev().collect();
        Self { parameters, places, order, is_observed: false }
    }

    /// The order in which gradients `left` the walk of a rank, then those that did not.
    pub(in crate::engine) fn observed(&self, left: &[usize]) -> Self {
        let mut order: Vec<usize> = left.iter().copied().filter(|&place| place < self.order.len()).collect();
        order.extend(self.order.iter().copied().filter(|place| !left.contains(place)));
        let (parameters, places) = (self.parameters.clone(), self.places.clone());
        Self { parameters, places, order, is_observed: true }
    }

    /// Bytes of all gradients.
    pub(in crate::engine) fn bytes(&self) -> usize {
        self.parameters.iter().map(|(_, tensor)| tensor.elem_count() * size_of::<f32>()).sum()
    }
}

/// Gradients of a rank's last part on their way into the sum over all parts of all ranks.
///
/// Sums are a tree over the parts, whatever leaves the walk when. A rank that has no gradient of a parameter sends zeros.
pub(in crate::engine) struct Summing<'r> {
    ranks: &'r dyn Collective,
    plan: Rc<Plan>,
    /// Sums over the rank's earlier parts, of the largest subtree first.
    earlier: Vec<Gradients>,
    /// Sums over the rank's parts that were not sent: all of them if the rank is alone.
    own: Gradients,
    /// Places of the parameters with a gradient, in the order in which they left the walk.
    left: Vec<usize>,
    /// Parameters that were sent, in order of travel.
    sent: usize,
    buckets: Box<dyn Buckets + 'r>,
}

impl<'r> Summing<'r> {
    pub(in crate::engine) fn over(ranks: &'r dyn Collective, plan: Rc<Plan>) -> Self {
        let (own, left, buckets) = (Gradients::new(), Vec::new(), buckets(ranks));
        Self { ranks, plan, earlier: Vec::new(), own, left, sent: 0, buckets }
    }

    /// Takes in the sums over the rank's earlier parts, of the largest subtree first, before the last part is walked.
    pub(in crate::engine) fn follow(&mut self, earlier: Vec<Gradients>) {
        self.earlier = earlier;
    }

    /// Sends everything that was not sent yet. The places of the parameters that have a gradient here, in the order in
    /// which they left the walk.
    ///
    /// # Errors
    /// If a gradient cannot be read, or the transport fails.
    pub(in crate::engine) fn send_all(&mut self) -> Result<&[usize]> {
        while let Some(name) = self.earlier.iter().find_map(|sum| sum.keys().next()).cloned() {
            self.take(&name, None)?;
        }
        if !self.ranks.is_alone() {
            self.send(true)?;
        }
        Ok(&self.left)
    }

    /// The sums over all ranks, of the parameters that `wanted` says have a gradient on any rank.
    ///
    /// # Errors
    /// If a rank is late.
    pub(in crate::engine) fn finish(self, wanted: impl Fn(usize) -> bool) -> Result<Gradients> {
        let Self { ranks, plan, own, mut buckets, .. } = self;
        if ranks.is_alone() {
            return Ok(own);
        }
        let mut sums = Gradients::new();
        for &place in &plan.order {
            let (name, like) = &plan.parameters[place];
            if let Some(sum) = buckets.next(like, wanted(place))? {
                sums.insert(name.clone(), sum);
            }
        }
        Ok(sums)
    }

    /// Takes in the last part's gradient of a parameter, if there is one, on top of those of earlier parts.
    fn take(&mut self, name: &Arc<str>, gradient: Option<Tensor>) -> Result<()> {
        let mut sum = gradient;
        for earlier in self.earlier.iter_mut().rev() {
            if let Some(later) = sum.take() {
                add_into(earlier, name.clone(), later)?;
            }
            sum = earlier.remove(name);
        }
        let (Some(sum), place) = (sum, self.plan.places.get(name).copied()) else { return Ok(()) };
        if !self.ranks.is_alone() && place.is_some_and(|place| self.left.contains(&place)) {
            // The first one may be on its way.
            return Err(EngineError::Alone(format!(
                "the parameter {name} has two gradients in a pass, which several processes cannot sum"
            )));
        }
        add_into(&mut self.own, name.clone(), sum)?;
        self.left.extend(place);
        Ok(())
    }

    /// Sends the gradients whose turn it is; with `all`, zeros for those that are not there.
    fn send(&mut self, all: bool) -> Result<()> {
        while let Some(&place) = self.plan.order.get(self.sent) {
            let (name, like) = &self.plan.parameters[place];
            match self.own.remove(name) {
                Some(gradient) => self.buckets.put(Some(&gradient), like)?,
                None if all => self.buckets.put(None, like)?,
                None => break,
            }
            self.sent += 1;
        }
        if all { self.buckets.send_rest() } else { Ok(()) }
    }
}

impl Sink<EngineError> for Summing<'_> {
    fn leaf(&mut self, name: &Arc<str>, gradient: Tensor) -> Result<()> {
        self.take(name, Some(gradient))?;
        if self.ranks.is_alone() { Ok(()) } else { self.send(false) }
    }

    fn walked(&mut self) -> Result<()> {
        if self.buckets.are_under_way() { Ok(self.ranks.poll()?) } else { Ok(()) }
    }
}

/// Makes the side effects of all parts of all ranks in order of the parts; `own` are those of this rank's parts, at least one.
///
/// # Errors
/// If a tensor cannot be moved, or a rank is late.
pub(in crate::engine) fn effects_over_ranks(ranks: &dyn Collective, own: &[Vec<Deferred>]) -> Result<()> {
    if ranks.is_alone() {
        for effect in own.iter().flatten() {
            effect.apply(&effect.tensors)?;
        }
        return Ok(());
    }
    let Some(model) = own.first().filter(|effects| !effects.is_empty()) else { return Ok(()) };
    let mut packet = Packet::default();
    for effect in own.iter().flatten() {
        packet.whole(effect.tensors.len() as u64);
        effect.tensors.iter().try_for_each(|tensor| packet.tensor(tensor))?;
    }
    for bytes in ranks.all_gather(packet.into_bytes())? {
        let mut reader = Reader::of(&bytes);
        while !reader.is_empty() {
            for effect in model {
                let count = reader.whole()?;
                let device =
                    effect.tensors.first().map_or(&candle_core::Device::Cpu, |tensor| tensor.device());
                let tensors = (0..count).map(|_| reader.tensor(device)).collect::<Result<Vec<_>>>()?;
                effect.apply(&tensors)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use ckd_collective::{Solo, Tree, threads};

    use super::super::buckets::BUCKET;
    use super::*;

    /// Sizes of the parameters; the second one fills more than a bucket.
    const SIZES: [usize; 5] = [3, BUCKET + 7, 1, 400, 2];

    fn parameters() -> Vec<Parameter> {
        let parameter = |(index, &size): (usize, &usize)| Parameter {
            name: format!("p{index}").into(),
            tensor: Tensor::zeros(size, candle_core::DType::F32, &Device::Cpu).unwrap(),
            lr_factor: 1.0,
            weight_decay: 0.0,
        };
        SIZES.iter().enumerate().map(parameter).collect()
    }

    /// Gradients of a part, in the order in which they leave its walk: of p4 none, of p3 in every third part.
    fn walk(part: usize) -> Vec<(Arc<str>, Tensor)> {
        let gradient = |index: usize| {
            let number =
                |at: usize| ((part * 31 + at * 7 + index) as f32).sin() * 10f32.powi(part as i32 % 5);
            let numbers: Vec<f32> = (0..SIZES[index]).map(number).collect();
            (format!("p{index}").into(), Tensor::from_vec(numbers, SIZES[index], &Device::Cpu).unwrap())
        };
        [2, 3, 1, 0].into_iter().filter(|&index| index != 3 || part % 3 == 1).map(gradient).collect()
    }

    /// The bits of the sums of all parts over some ranks, by parameter.
    fn summed(ranks: &dyn Collective, parts: usize, plan: Plan) -> Vec<(String, Vec<u32>)> {
        let own = parts / ranks.size();
        let first = ranks.rank() * own;
        let mut tree = Tree::new(|mut earlier: Gradients, later: Gradients| {
            later.into_iter().try_for_each(|(name, gradient)| add_into(&mut earlier, name, gradient))?;
            Ok::<_, EngineError>(earlier)
        });
        (first..first + own - 1).for_each(|part| tree.add(walk(part).into_iter().collect()).unwrap());
        let mut summing = Summing::over(ranks, Rc::new(plan));
        summing.follow(tree.into_sums());
        for (name, gradient) in walk(first + own - 1) {
            summing.leaf(&name, gradient).unwrap();
            summing.walked().unwrap();
        }
        let left = summing.send_all().unwrap().to_vec();
        assert!(!left.contains(&4));
        let sums = summing.finish(|place| place != 4).unwrap();
        let bits = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
        sums.iter().map(|(name, tensor)| (name.to_string(), bits(tensor))).collect()
    }

    #[test]
    fn sums_that_begin_during_the_walk_are_those_of_one_process_in_any_order_of_travel() {
        let parts = 8;
        let alone = summed(&Solo::default(), parts, Plan::of(&parameters()));
        assert_eq!(alone.len(), 4);
        for ranks in [2, 4, 8] {
            let first = || Plan::of(&parameters());
            for shared in threads::run(ranks, |ranks| summed(ranks, parts, first())) {
                assert!(shared == alone, "{ranks} ranks");
            }
            let observed = || first().observed(&[2, 1, 0]);
            for shared in threads::run(ranks, |ranks| summed(ranks, parts, observed())) {
                assert!(shared == alone, "{ranks} ranks, in the order of a walk");
            }
        }
    }

    #[test]
    fn gradients_are_sent_before_the_walk_ends() {
        let plan = || Plan::of(&parameters()).observed(&[2, 3, 1, 0]);
        let started = threads::run(2, |ranks| {
            let mut summing = Summing::over(ranks, Rc::new(plan()));
            let mut started = Vec::new();
            for (name, gradient) in walk(1) {
                summing.leaf(&name, gradient).unwrap();
                started.push(summing.buckets.are_under_way());
            }
            summing.send_all().unwrap();
            summing.finish(|_| true).unwrap();
            started
        });
        // The bucket is full with p1, and the rest waits for the end.
        assert_eq!(started, [[false, false, true, true]; 2]);
    }

    #[test]
    fn a_parameter_with_two_gradients_is_an_error_and_not_a_lost_one() {
        let errors = threads::run(2, |ranks| {
            let mut summing = Summing::over(ranks, Rc::new(Plan::of(&parameters())));
            let (name, gradient) = walk(0).swap_remove(0);
            summing.leaf(&name, gradient.clone()).unwrap();
            summing.leaf(&name, gradient).unwrap_err().to_string()
        });
        assert!(errors.iter().all(|error| error.contains("p2 has two gradients")), "{errors:?}");
    }
}
