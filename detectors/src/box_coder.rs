//! Box regression targets: how far a ground-truth box lies from its anchor or proposal.
//!
//! Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix C: dx = (gx - px) / pw, dw = ln(gw / pw),
//! likewise dy and dh, each times a weight; torchvision's `BoxCoder`. Or how far its four sides lie from a point.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::memory::numbers;

use crate::boxes::Xyxy;
use crate::{Error, Result};

/// The largest dw and dh that decoding accepts, ln(1000 / 16): exp of an untrained output must not overflow.
pub const LARGEST_LOG_RATIO: f32 = 4.135_166_6;

/// Coder of the four numbers by which a region tells its box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RegionCoder {
    /// Deltas to an anchor or a proposal.
    Deltas(BoxCoder),
    /// Distances of the four sides from the centre of an anchor, in sides of the anchor.
    Distances,
}

impl RegionCoder {
    /// Box that the four `numbers` make of `reference`.
    #[must_use]
    #[inline]
    pub fn decode(&self, numbers: &[f32; 4], reference: &Xyxy) -> Xyxy {
        match self {
            Self::Deltas(coder) => coder.decode(numbers, reference),
            Self::Distances => PointCoder.decode(numbers, reference),
        }
    }

    /// [`decode`](Self::decode) of every row, with its gradient.
    ///
    /// # Shapes
    /// `numbers` (M, 4) and M `references`; boxes `xyxy` (M, 4).
    ///
    /// # Errors
    /// If the numbers of rows differ.
    pub fn decode_rows(&self, numbers: &Value, references: &[Xyxy]) -> Result<Value> {
        match self {
            Self::Deltas(coder) => coder.decode_rows(numbers, references),
            Self::Distances => PointCoder.decode_rows(numbers, references),
        }
    }
}

/// Encodes boxes as (dx, dy, dw, dh) relative to a reference box, and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxCoder {
    weights: [f32; 4],
}

impl BoxCoder {
    /// Weights 1, 1, 1, 1: the RPN and RetinaNet.
    pub const ANCHORS: Self = Self { weights: [1.0; 4] };

    /// Weights 10, 10, 5, 5: the box head of Faster R-CNN (the inverse spread of its targets).
    pub const PROPOSALS: Self = Self { weights: [10.0, 10.0, 5.0, 5.0] };

    /// A coder with the weights of dx, dy, dw, dh.
    #[must_use]
    pub fn new(weights: [f32; 4]) -> Self {
        Self { weights }
    }

    /// Weights of dx, dy, dw, dh.
    pub(crate) fn weights(&self) -> [f32; 4] {
        self.weights
    }

    /// The (dx, dy, dw, dh) that lead from `reference` (an anchor or a proposal) to `target`.
    ///
    /// Not finite when one of the boxes has no area: such boxes must not be trained on.
    #[must_use]
    #[inline]
    pub fn encode(&self, target: &Xyxy, reference: &Xyxy) -> [f32; 4] {
        let (x, y, width, height) = centre_and_size(reference);
        let (target_x, target_y, target_width, target_height) = centre_and_size(target);
        let [wx, wy, ww, wh] = self.weights;
        [
            wx * (target_x - x) / width,
            wy * (target_y - y) / height,
            ww * (target_width / width).ln(),
            wh * (target_height / height).ln(),
        ]
    }

    /// The box that `deltas` (dx, dy, dw, dh) make of `reference`. NaN in, NaN out; infinite deltas give
    /// infinite or empty boxes, which clipping and the size test remove.
    #[must_use]
    #[inline]
    pub fn decode(&self, deltas: &[f32; 4], reference: &Xyxy) -> Xyxy {
        let (x, y, width, height) = centre_and_size(reference);
        let [wx, wy, ww, wh] = self.weights;
        let bounded =
            |log_ratio: f32| if log_ratio > LARGEST_LOG_RATIO { LARGEST_LOG_RATIO } else { log_ratio };
        let centre_x = deltas[0] / wx * width + x;
        let centre_y = deltas[1] / wy * height + y;
        let half_width = 0.5 * (bounded(deltas[2] / ww).exp() * width);
        let half_height = 0.5 * (bounded(deltas[3] / wh).exp() * height);
        [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height]
    }

    /// [`decode`](Self::decode) of every row, with its gradient.
    ///
    /// # Shapes
    /// `deltas` (M, 4) and M `references`; boxes `xyxy` (M, 4).
    ///
    /// # Errors
    /// If the numbers of rows differ.
    pub fn decode_rows(&self, deltas: &Value, references: &[Xyxy]) -> Result<Value> {
        let shape = [references.len(), 4];
        if deltas.dims() != shape {
            let reason = format!("deltas of shape {:?} for {} boxes", deltas.dims(), references.len());
            return Err(Error::Invalid { part: "box coder", reason });
        }
        let values = numbers(deltas.tensor())?;
        let (rows, _) = values.as_chunks::<4>();
        let boxes: Vec<f32> = rows
            .iter()
            .zip(references)
            .flat_map(|(deltas, reference)| self.decode(deltas, reference))
            .collect();
        let boxes = Tensor::from_vec(boxes, &shape, deltas.tensor().device())?;
        let (coder, references) = (*self, references.to_vec());
        Ok(Value::operation(&[deltas], boxes, move |gradient| {
            let flat = numbers(gradient)?;
            let (by_box, _) = flat.as_chunks::<4>();
            let (rows, _) = values.as_chunks::<4>();
            let of_deltas: Vec<f32> = by_box
                .iter()
                .zip(rows)
                .zip(&references)
                .flat_map(|((by_box, deltas), reference)| coder.decode_gradient(by_box, deltas, reference))
                .collect();
            Ok(vec![Some(Tensor::from_vec(of_deltas, gradient.shape(), gradient.device())?)])
        }))
    }

    /// The gradient of `deltas` from that of the box they make of `reference`.
    fn decode_gradient(&self, by_box: &[f32; 4], deltas: &[f32; 4], reference: &Xyxy) -> [f32; 4] {
        let (_, _, width, height) = centre_and_size(reference);
        let sides = [width, height];
        let centre = |axis: usize| (by_box[axis] + by_box[axis + 2]) / self.weights[axis] * sides[axis];
        let size = |axis: usize| {
            let log_ratio = deltas[axis + 2] / self.weights[axis + 2];
            // Beyond the bound a side does not grow.
            let side = if log_ratio > LARGEST_LOG_RATIO { 0.0 } else { log_ratio.exp() * sides[axis] };
            0.5 * (by_box[axis + 2] - by_box[axis]) * side / self.weights[axis + 2]
        };
        [centre(0), centre(1), size(0), size(1)]
    }
}

/// Encodes boxes as the distances of their four sides from an anchor's centre, in sides of the anchor (Tian et al.
/// 2020, equation 1): torchvision's `BoxLinearCoder`, normalised by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointCoder;

impl PointCoder {
    /// Left, upper, right and lower distance of the sides of `target` from the centre of `anchor`; negative beyond a side.
    #[must_use]
    #[inline]
    pub fn encode(&self, target: &Xyxy, anchor: &Xyxy) -> [f32; 4] {
        let (x, y, width, height) = centre_and_size(anchor);
        [(x - target[0]) / width, (y - target[1]) / height, (target[2] - x) / width, (target[3] - y) / height]
    }

    /// Centerness of a point with these distances from the sides of its box (paper, equation 3): 1 in the middle, 0 on a side.
    #[must_use]
    #[inline]
    pub fn centerness(&self, [left, top, right, bottom]: [f32; 4]) -> f32 {
        (left.min(right) / left.max(right) * (top.min(bottom) / top.max(bottom))).sqrt()
    }

    /// Box whose left, top, right and bottom side are `distances` from the centre of `anchor`. NaN in, NaN out.
    #[must_use]
    #[inline]
    pub fn decode(&self, distances: &[f32; 4], anchor: &Xyxy) -> Xyxy {
        let (x, y, width, height) = centre_and_size(anchor);
        [
            x - distances[0] * width,
            y - distances[1] * height,
            x + distances[2] * width,
            y + distances[3] * height,
        ]
    }

    /// [`decode`](Self::decode) of every row, with its gradient.
    ///
    /// # Shapes
    /// `distances` (M, 4) and M `anchors`; boxes `xyxy` (M, 4).
    ///
    /// # Errors
    /// If the numbers of rows differ.
    pub fn decode_rows(&self, distances: &Value, anchors: &[Xyxy]) -> Result<Value> {
        let shape = [anchors.len(), 4];
        if distances.dims() != shape {
            let reason = format!("distances of shape {:?} for {} anchors", distances.dims(), anchors.len());
            return Err(Error::Invalid { part: "point coder", reason });
        }
        let device = distances.tensor().device().clone();
        let (mut centres, mut sides) = (Vec::with_capacity(anchors.len()), Vec::with_capacity(anchors.len()));
        for anchor in anchors {
            let (x, y, width, height) = centre_and_size(anchor);
            centres.push([x, y, x, y]);
            sides.push([-width, -height, width, height]);
        }
        let constant = |rows: Vec<[f32; 4]>| Tensor::from_vec(rows.into_flattened(), &shape, &device);
        let (centres, sides) = (constant(centres)?, constant(sides)?);
        Ok(Value::from_candle(&[distances], |tensors| (&tensors[0] * &sides)? + &centres)?)
    }
}

#[inline]
fn centre_and_size(b: &Xyxy) -> (f32, f32, f32, f32) {
    let (width, height) = (b[2] - b[0], b[3] - b[1]);
    (b[0] + 0.5 * width, b[1] + 0.5 * height, width, height)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::clip;

    #[test]
    fn the_gradient_of_decoding_is_its_slope_and_stops_at_the_bound() {
        let references = [[10.0, 20.0, 50.0, 44.0], [0.0, 0.0, 8.0, 8.0]];
        let deltas = [[0.3, -0.2, 0.5, -0.7], [1.0, 2.0, 30.0, 0.1]];
        for coder in [BoxCoder::ANCHORS, BoxCoder::PROPOSALS] {
            let tensor = Tensor::from_slice(deltas.as_flattened(), (2, 4), &candle_core::Device::Cpu);
            let leaf = Value::leaf("deltas", tensor.expect("two rows"));
            let boxes = coder.decode_rows(&leaf, &references).expect("two rows");
            let factors = [[1.0, -2.0, 0.5, 3.0], [0.7, 0.2, -0.4, 1.0]];
            let sum = |boxes: [f32; 4], row: usize| -> f32 {
                boxes.iter().zip(factors[row]).map(|(b, factor)| b * factor).sum()
            };
            let weighted = Value::from_candle(&[&boxes], |boxes| {
                (&boxes[0] * Tensor::from_slice(factors.as_flattened(), (2, 4), boxes[0].device())?)?
                    .sum_all()
            });
            let gradients = weighted.and_then(|sum| sum.backward()).expect("a scalar");
            let gradient = gradients["deltas"].to_vec2::<f32>().expect("two rows");
            for row in 0..2 {
                for axis in 0..4 {
                    let moved = |by: f32| {
                        let mut deltas = deltas[row];
                        deltas[axis] += by;
                        sum(coder.decode(&deltas, &references[row]), row)
                    };
                    let slope = (moved(0.05) - moved(-0.05)) / 0.1;
                    let got = gradient[row][axis];
                    assert!(
                        (slope - got).abs() <= 2e-3 * (1.0 + slope.abs()),
                        "{row} {axis}: {got}, slope {slope}"
                    );
                }
            }
        }
        let none = Value::constant(
            Tensor::zeros((0, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap(),
        );
        assert_eq!(BoxCoder::ANCHORS.decode_rows(&none, &[]).expect("no rows").dims(), [0, 4]);
        assert!(BoxCoder::ANCHORS.decode_rows(&none, &references).is_err());
    }

    #[test]
    fn no_deltas_give_the_reference_back() {
        let reference = [10.0, 20.0, 50.0, 44.0];
        assert_eq!(BoxCoder::PROPOSALS.decode(&[0.0; 4], &reference), reference);
        assert_eq!(BoxCoder::PROPOSALS.encode(&reference, &reference), [0.0; 4]);
    }

    #[test]
    fn decoding_undoes_encoding() {
        let (reference, target) = ([10.0, 20.0, 50.0, 44.0], [3.0, 25.0, 41.0, 90.0]);
        for coder in [BoxCoder::ANCHORS, BoxCoder::PROPOSALS, BoxCoder::new([2.0, 3.0, 4.0, 5.0])] {
            let decoded = coder.decode(&coder.encode(&target, &reference), &reference);
            for (got, want) in decoded.iter().zip(target) {
                assert!((got - want).abs() <= 1e-5 * 90.0, "{decoded:?}");
            }
        }
    }

    #[test]
    fn an_untrained_output_cannot_overflow() {
        let reference = [0.0, 0.0, 16.0, 16.0];
        let decoded = BoxCoder::ANCHORS.decode(&[0.0, 0.0, 1e30, f32::INFINITY], &reference);
        for (got, want) in decoded.iter().zip([-492.0, -492.0, 508.0, 508.0]) {
            assert!((got - want).abs() < 1e-2, "{decoded:?}");
        }
    }

    #[test]
    fn hostile_deltas_never_panic() {
        let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0];
        for &a in &values {
            for &b in &values {
                let decoded = BoxCoder::PROPOSALS.decode(&[a, b, b, a], &[0.0, 0.0, a, 10.0]);
                let _ = clip(&decoded, (10, 10));
                let _ = BoxCoder::PROPOSALS.encode(&[a, b, a, b], &[b, b, b, b]);
            }
        }
    }
}
