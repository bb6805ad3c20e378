//! MMDetection's configuration: a Python text in its checkpoints that tells how images and the trunk are made. The text is
//! searched, never run.

use ckd_detectors::names::ChannelOrder;

use super::state_dict::Remarks;

/// ImageNet's mean and standard deviation, of pixels from 0 to 255, red first.
pub(super) const MEAN: [f64; 3] = [123.675, 116.28, 103.53];
pub(super) const STD: [f64; 3] = [58.395, 57.12, 57.375];

/// The Python text in a checkpoint of MMDetection.
pub(super) struct PythonConfig<'a>(Option<&'a str>);

impl<'a> PythonConfig<'a> {
    pub(super) fn of(remarks: &'a Remarks) -> Self {
        Self(remarks.config.as_deref())
    }

    pub(super) fn channel_order(&self) -> ChannelOrder {
        match self.says("to_rgb=False") || self.says("bgr_to_rgb=False") {
            true => ChannelOrder::Bgr,
            false => ChannelOrder::Rgb,
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn is_caffe_style(&self) -> bool {
        self.says("style='caffe'") || self.says("style=\"caffe\"")
    }

    pub(super) fn says(&self, what: &str) -> bool {
        self.0.is_some_and(|text| text.contains(what))
    }

    /// Mean and standard deviation, red first.
    pub(super) fn normalization(&self) -> ([f64; 3], [f64; 3]) {
        let numbers = |name: &str| -> Option<[f64; 3]> {
            let text = self.0?;
            let start = text.find(name)? + name.len();
            let length = text[start..].find(']')?;
            let numbers = text[start..start + length].split(',').map(|number| number.trim().parse().ok());
            let mut numbers: [f64; 3] = numbers.collect::<Option<Vec<_>>>()?.try_into().ok()?;
            if self.channel_order() == ChannelOrder::Bgr {
                numbers.reverse();
            }
            Some(numbers)
        };
        (numbers("mean=[").unwrap_or(MEAN), numbers("std=[").unwrap_or(STD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mmdetection_text_says_how_images_are_normalised() {
        let of = |text: &str| {
            let remarks = Remarks { config: Some(text.to_owned()), ..Remarks::default() };
            let config = PythonConfig::of(&remarks);
            (config.channel_order(), config.normalization(), config.is_caffe_style())
        };
        let text = "img_norm_cfg = dict(\n    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)";
        assert_eq!(of(text), (ChannelOrder::Rgb, (MEAN, STD), false));
        let text = "backbone=dict(style='caffe'), dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)";
        assert_eq!(of(text), (ChannelOrder::Bgr, (MEAN, [1.0; 3]), true));
        assert_eq!(of("mean=[1, x], std=["), (ChannelOrder::Rgb, (MEAN, STD), false));
    }
}
