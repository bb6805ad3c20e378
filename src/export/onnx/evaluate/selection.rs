//! Operators that choose: the highest scores, boxes that are not suppressed, the features of regions.

use candle_core::{Device, Tensor};
use ckd_detectors::nms::nms;
use ckd_kernels::roi_align::{Alignment, Sampling, roi_align};

use super::{Candle, Operation, result, value};

impl Operation<'_> {
    /// The highest of each row of (N, S) in descending order, equal ones by lower place; values and places.
    pub(super) fn top_k(&self) -> Candle<Vec<Tensor>> {
        let (n, s) = self.operand(0)?.dims2()?;
        let k = self.ints(1)?.first().copied().unwrap_or(0) as usize;
        if k > s {
            candle_core::bail!("the best {k} of {s}");
        }
        let (mut values, mut places) = (Vec::with_capacity(n * k), Vec::with_capacity(n * k));
        for row in self.operand(0)?.to_vec2::<f32>()? {
            let mut order: Vec<usize> = (0..s).collect();
            let descending = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
            if k > 0 && k < s {
                order.select_nth_unstable_by(k - 1, descending);
            }
            order.truncate(k);
            order.sort_unstable_by(descending);
            values.extend(order.iter().map(|&place| row[place]));
            places.extend(order.iter().map(|&place| place as i64));
        }
        Ok(vec![
            Tensor::from_vec(values, (n, k), &Device::Cpu)?,
            Tensor::from_vec(places, (n, k), &Device::Cpu)?,
        ])
    }

    /// Boxes (B, S, 4) and scores (B, C, S) to the rows (batch, class, place) that stay.
    pub(super) fn suppress(&self) -> Candle<Tensor> {
        let (boxes, scores) = self.pair()?;
        let most = self.ints(2)?.first().copied().unwrap_or(0) as usize;
        let single = |index: usize| -> Candle<f32> {
            let values: Vec<f32> = self.operand(index)?.flatten_all()?.to_vec1()?;
            Ok(values.first().copied().unwrap_or_default())
        };
        let (threshold, least) = (single(3)?, single(4)?);
        let mut kept: Vec<i64> = Vec::new();
        for (batch, (boxes, classes)) in
            boxes.to_vec3::<f32>()?.iter().zip(scores.to_vec3::<f32>()?).enumerate()
        {
            for (class, scores) in classes.iter().enumerate() {
                let counting: Vec<usize> = (0..scores.len()).filter(|&place| scores[place] > least).collect();
                let own: Vec<[f32; 4]> =
                    counting.iter().map(|&i| [boxes[i][0], boxes[i][1], boxes[i][2], boxes[i][3]]).collect();
                let own_scores: Vec<f32> = counting.iter().map(|&place| scores[place]).collect();
                let stay = nms(&own, &own_scores, threshold.into()).map_err(candle_core::Error::wrap)?;
                let rows =
                    stay.into_iter().take(most).map(|i| [batch as i64, class as i64, counting[i] as i64]);
                kept.extend(rows.flatten());
            }
        }
        let count = kept.len() / 3;
        Tensor::from_vec(kept, (count, 3), &Device::Cpu)
    }

    pub(super) fn roi_align(&self) -> Candle<Tensor> {
        let (map, rois) = self.pair()?;
        let images = self.ints(2)?;
        let side = |name: &str| self.int_setting(name).unwrap_or(1) as usize;
        let output = (side("output_height"), side("output_width"));
        if rois.dim(0)? == 0 {
            return Tensor::zeros((0, map.dim(1)?, output.0, output.1), map.dtype(), &Device::Cpu);
        }
        let rois: Vec<[f32; 5]> = rois
            .to_vec2::<f32>()?
            .iter()
            .zip(images)
            .map(|(roi, image)| [image as f32, roi[0], roi[1], roi[2], roi[3]])
            .collect();
        let sampling = match self.int_setting("sampling_ratio").unwrap_or(0) {
            0 => Sampling::Adaptive,
            samples => Sampling::Fixed(samples as usize),
        };
        let alignment = match self.text_setting("coordinate_transformation_mode") {
            b"output_half_pixel" => Alignment::Legacy,
            _ => Alignment::HalfPixel,
        };
        let scale = self.float_setting("spatial_scale").unwrap_or(1.0);
        result(roi_align(&value(map), &rois, output, scale, sampling, alignment))
    }
}
