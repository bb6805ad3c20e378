//! Sums of gradients, and side effects of passes, over all ranks.

use ckd_collective::Collective;
use ckd_kernels::deferred::Deferred;
use ckd_kernels::{Gradients, flat};

use super::packet::{Packet, Reader, garbled};
use crate::engine::Result;
use crate::optim::groups::Parameter;

/// Numbers of a bucket, 4 MB: large enough that messages cost little, small enough that sums overlap.
const BUCKET: usize = 1 << 20;

/// The number that a rank without a gradient adds: it changes no number, not even the sign of a zero.
const NOTHING: f32 = -0.0;

/// The sum of each parameter's gradients over the ranks, as a tree over the rank; `wanted` says which have any on any rank.
///
/// # Errors
/// If a gradient cannot be read, or a rank is late.
pub(in crate::engine) fn sum_over_ranks(
    ranks: &dyn Collective,
    parameters: &[Parameter],
    wanted: &[bool],
    mut own: Gradients,
) -> Result<Gradients> {
    if ranks.is_alone() {
        return Ok(own);
    }
    let summed: Vec<&Parameter> = parameters
        .iter()
        .zip(wanted)
        .filter(|(_, wanted)| **wanted)
        .map(|(parameter, _)| parameter)
        .collect();
    let numbers = |parameter: &Parameter| parameter.tensor.elem_count();
    let (mut started, mut bucket, mut first) = (Vec::new(), Vec::new(), 0);
    for (index, parameter) in summed.iter().enumerate() {
        match own.remove(&parameter.name) {
            Some(gradient) => flat::append(&gradient, &mut bucket)?,
            None => bucket.resize(bucket.len() + numbers(parameter), NOTHING),
        }
        if bucket.len() >= BUCKET || index + 1 == summed.len() {
            started.push((first..index + 1, ranks.start_sum(std::mem::take(&mut bucket))?));
            first = index + 1;
            ranks.poll()?;
        }
    }
    let mut sums = Gradients::new();
    for (range, pending) in started {
        let sum = ranks.finish_sum(pending)?;
        let mut rest = sum.as_slice();
        for parameter in &summed[range] {
            let (front, behind) =
                rest.split_at_checked(numbers(parameter)).ok_or_else(|| garbled(&"a sum is too short"))?;
            rest = behind;
            sums.insert(parameter.name.clone(), flat::restored(front.to_vec(), &parameter.tensor)?);
        }
    }
    Ok(sums)
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
