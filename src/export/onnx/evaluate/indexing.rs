//! Operators that move elements without changing them.

use candle_core::{DType, Device, Tensor};

use super::{Candle, Operation, from_end};

impl Operation<'_> {
    pub(super) fn reshape(&self) -> Candle<Tensor> {
        let x = self.operand(0)?;
        let mut dims = Vec::new();
        let mut rest = None;
        for (axis, &side) in self.ints(1)?.iter().enumerate() {
            dims.push(match side {
                0 => x.dim(axis)?,
                -1 => {
                    rest = Some(axis);
                    1
                }
                side => side as usize,
            });
        }
        if let Some(axis) = rest {
            let known: usize = dims.iter().product();
            if known == 0 {
                candle_core::bail!("{:?} as {dims:?}: -1 is any number", x.dims());
            }
            dims[axis] = x.elem_count() / known;
        }
        x.reshape(dims)
    }

    pub(super) fn unsqueeze(&self) -> Candle<Tensor> {
        let mut x = self.operand(0)?.clone();
        let axes = self.ints(1)?;
        let rank = x.rank() + axes.len();
        let mut axes = axes.iter().map(|&axis| from_end(axis, rank)).collect::<Candle<Vec<_>>>()?;
        axes.sort_unstable();
        for axis in axes {
            x = x.unsqueeze(axis)?;
        }
        Ok(x)
    }

    pub(super) fn concat(&self) -> Candle<Tensor> {
        let axis = self.axis(0)?;
        let parts: Vec<&Tensor> = self.operands.iter().flatten().collect();
        let filled: Vec<&Tensor> = parts.iter().copied().filter(|part| part.elem_count() > 0).collect();
        match filled.as_slice() {
            [] => self.operand(0).cloned(),
            filled => Tensor::cat(filled, axis),
        }
    }

    pub(super) fn split(&self) -> Candle<Vec<Tensor>> {
        let (x, axis) = (self.operand(0)?, self.axis(0)?);
        let mut start = 0;
        let mut part = |length: i64| {
            let part = x.narrow(axis, start, length as usize)?.contiguous();
            start += length as usize;
            part
        };
        self.ints(1)?.into_iter().map(&mut part).collect()
    }

    /// The dimensions that the first input has after broadcasting with those in the second.
    pub(super) fn broadcast_dims(&self) -> Candle<Vec<usize>> {
        let wanted: Vec<usize> = self.ints(1)?.iter().map(|&side| side as usize).collect();
        Ok(broadcast(self.operand(0)?.dims(), &wanted))
    }

    pub(super) fn choose(&self) -> Candle<Tensor> {
        let (condition, yes) = self.pair()?;
        let no = self.operand(2)?;
        let dims = broadcast(&broadcast(condition.dims(), yes.dims()), no.dims());
        let full = |x: &Tensor| x.broadcast_as(dims.as_slice())?.contiguous();
        full(condition)?.where_cond(&full(yes)?, &full(no)?)
    }

    pub(super) fn slice(&self) -> Candle<Tensor> {
        let mut x = self.operand(0)?.clone();
        let (starts, ends, axes) = (self.ints(1)?, self.ints(2)?, self.ints(3)?);
        let steps = if self.given(4).is_some() { self.ints(4)? } else { vec![1; axes.len()] };
        for (i, &axis) in axes.iter().enumerate() {
            let axis = from_end(axis, x.rank())?;
            let end = ends[i].min(x.dim(axis)? as i64);
            let places: Vec<i64> = (starts[i]..end).step_by(steps[i].max(1) as usize).collect();
            let count = places.len();
            x = x.index_select(&Tensor::from_vec(places, count, &Device::Cpu)?, axis)?;
        }
        Ok(x)
    }

    pub(super) fn gather(&self) -> Candle<Tensor> {
        let (x, places) = self.pair()?;
        let axis = self.axis(0)?;
        let dims = [&x.dims()[..axis], places.dims(), &x.dims()[axis + 1..]].concat();
        if dims.contains(&0) {
            return Tensor::zeros(dims, x.dtype(), &Device::Cpu);
        }
        x.contiguous()?.index_select(&places.flatten_all()?, axis)?.reshape(dims)
    }

    pub(super) fn gather_nd(&self) -> Candle<Tensor> {
        let (x, places) = self.pair()?;
        let batch = self.int_setting("batch_dims").unwrap_or(0) as usize;
        let depth = places.dims().last().copied().unwrap_or(0);
        let dims = [&places.dims()[..places.rank() - 1], &x.dims()[batch + depth..]].concat();
        if dims.contains(&0) {
            return Tensor::zeros(dims, x.dtype(), &Device::Cpu);
        }
        let rows = rows(x.dims(), places, batch)?;
        let count = rows.len();
        let rows = Tensor::from_vec(rows, count, &Device::Cpu)?;
        let rest = x.dims()[batch + depth..].iter().product::<usize>();
        x.contiguous()?.reshape(((), rest))?.index_select(&rows, 0)?.reshape(dims)
    }

    /// The first input with the third's rows at the places that the second names.
    pub(super) fn scatter_nd(&self) -> Candle<Tensor> {
        let (x, places) = self.pair()?;
        let updates = self.operand(2)?;
        if updates.elem_count() == 0 {
            return Ok(x.clone());
        }
        let rows = rows(x.dims(), places, 0)?;
        let place = |row: i64| row as usize;
        match x.dtype() {
            DType::F32 => {
                let mut values: Vec<f32> = x.flatten_all()?.to_vec1()?;
                let updates: Vec<f32> = updates.flatten_all()?.to_vec1()?;
                rows.into_iter().zip(updates).for_each(|(row, update)| values[place(row)] = update);
                Tensor::from_vec(values, x.shape(), &Device::Cpu)
            }
            DType::I64 => {
                let mut values: Vec<i64> = x.flatten_all()?.to_vec1()?;
                let updates: Vec<i64> = updates.flatten_all()?.to_vec1()?;
                rows.into_iter().zip(updates).for_each(|(row, update)| values[place(row)] = update);
                Tensor::from_vec(values, x.shape(), &Device::Cpu)
            }
            other => candle_core::bail!("cannot scatter {other:?}"),
        }
    }

    /// Places of what is not 0: (rank, count).
    pub(super) fn non_zero(&self) -> Candle<Tensor> {
        let x = self.operand(0)?;
        let flags: Vec<u8> = x.flatten_all()?.to_vec1()?;
        let found: Vec<usize> = (0..flags.len()).filter(|&i| flags[i] != 0).collect();
        let mut places = Vec::with_capacity(found.len() * x.rank());
        for axis in 0..x.rank() {
            let after: usize = x.dims()[axis + 1..].iter().product();
            places.extend(found.iter().map(|place| (place / after % x.dims()[axis]) as i64));
        }
        Tensor::from_vec(places, (x.rank(), found.len()), &Device::Cpu)
    }
}

/// The number of the row, of what lies below the named axes of `dims`, that each of `places` names; the first
/// `batch` axes are those of `places` itself.
fn rows(dims: &[usize], places: &Tensor, batch: usize) -> Candle<Vec<i64>> {
    let depth = places.dims().last().copied().unwrap_or(0);
    let per_image: usize = places.dims()[batch..places.rank() - 1].iter().product();
    let flat: Vec<i64> = places.flatten_all()?.to_vec1()?;
    if depth == 0 {
        candle_core::bail!("places of no axes");
    }
    flat.chunks(depth)
        .enumerate()
        .map(|(i, place)| {
            // With one axis of batch, it is the image.
            let mut row = if batch == 1 { (i / per_image.max(1)) as i64 } else { 0 };
            for (&at, &side) in place.iter().zip(&dims[batch..]) {
                if at < 0 || at >= side as i64 {
                    candle_core::bail!("place {at} of {side}");
                }
                row = row * side as i64 + at;
            }
            Ok(row)
        })
        .collect()
}

/// The dimensions that `a` and `b` have in common, each side of 1 stretched.
fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let side = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |own| dims[own]);
    (0..rank).map(|axis| if side(a, axis) == 1 { side(b, axis) } else { side(a, axis) }).collect()
}
