//! Faster R-CNN with FPN (Ren et al. 2015, Lin et al. 2017), as in torchvision.

use ckd_kernels::Value;
use rand::{Rng, RngCore};

use crate::backbone::Trunk;
use crate::boxes::Xyxy;
use crate::detector::{Detect, DetectorConfig, SecondStage, no_such_regions};
use crate::fpn::{ExtraLevels, Fpn};
use crate::images::{Images, Normalization, Target};
use crate::nn::Mode;
use crate::param::{Builder, ParamStore};
use crate::postprocess::Detections;
use crate::pyramid::Pyramid;
use crate::regions::Regions;
use crate::roi_heads::{RoiHeads, RoiSamples};
use crate::rpn::{Rpn, RpnOutput};
use crate::taps::Level;
use crate::{Losses, Result};

/// The network.
#[derive(Debug)]
pub struct FasterRcnn {
    body: Trunk,
    fpn: Fpn,
    rpn: Rpn,
    heads: RoiHeads,
    classes: usize,
    pyramid: Pyramid,
    normalization: Normalization,
    params: ParamStore,
}

/// Result of a training forward pass.
#[derive(Debug)]
pub struct RoiPass {
    /// The four detection losses.
    pub losses: Losses,
    /// The regions that were learned from.
    pub samples: RoiSamples,
    /// Class logits of the sampled regions (R, K + 1).
    pub logits: Value,
    /// Box deltas of the sampled regions by class (R, 4 (K + 1)).
    pub deltas: Value,
}

impl FasterRcnn {
    /// Builds the network with `builder`.
    ///
    /// # Errors
    /// If there is no class, a size is 0, or thresholds or anchors do not fit.
    pub fn new(builder: Builder, config: &DetectorConfig) -> Result<Self> {
        let settings = &config.settings;
        let backbone = builder.within("backbone");
        let body = Trunk::new(&backbone.within("body"), &config.backbone)?;
        let (inputs, width) = (body.pyramid_channels(), settings.fpn_channels);
        let fpn = Fpn::new(&backbone.within("fpn"), inputs, width, config.fpn_norm, ExtraLevels::Subsample)?;
        let pyramid = config.pyramid()?;
        let rpn = Rpn::new(&builder.within("rpn"), width, settings.anchors(&pyramid)?, &settings.rpn)?;
        let shape = (width, config.classes);
        let heads = RoiHeads::new(&builder.within("roi_heads"), shape, pyramid.map_strides(), &settings.roi)?;
        Ok(Self {
            body,
            fpn,
            rpn,
            heads,
            classes: config.classes,
            pyramid,
            normalization: config.normalization,
            params: builder.finish(),
        })
    }

    /// Parameters of the detector.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The pyramid: P2 to P6 over maps of strides 4 to 32.
    pub fn pyramid(&self, images: &Images, mode: Mode) -> Result<Vec<Value>> {
        let input = images.normalized(&self.normalization)?;
        self.fpn.forward(self.body.pyramid_inputs(&input, mode)?, mode)
    }

    /// The detection losses of `pyramid`, and the regions they were taken from.
    ///
    /// # Errors
    /// If the pyramid or the targets are not those of `images`, or a label is no class.
    pub fn train(
        &self,
        images: &Images,
        pyramid: &[Value],
        targets: &[Target],
        random: &mut impl Rng,
    ) -> Result<RoiPass> {
        images.check_targets(targets, self.classes)?;
        let (rpn_losses, first) = self.rpn.train(images, pyramid, targets, random)?;
        let proposals = self.rpn.proposals(&first, images, &self.rpn.config().in_training())?;
        let samples = self.heads.sample(proposals, targets, random)?;
        let second = self.heads.forward(pyramid, &samples.boxes, Mode::Train)?;
        let mut losses: Losses = self.heads.losses(&second, &samples)?.into();
        losses.extend(rpn_losses);
        Ok(RoiPass { losses, samples, logits: second.logits, deltas: second.deltas })
    }

    /// Class logits of given boxes per image.
    ///
    /// # Shapes
    /// A pyramid of maps (N, C, Hl, Wl), R boxes in all; (R, K + 1), background first.
    ///
    /// # Errors
    /// If there are boxes of more images than the pyramid has.
    pub fn roi_logits(&self, pyramid: &[Value], boxes: &[Vec<Xyxy>]) -> Result<Value> {
        Ok(self.heads.forward(pyramid, boxes, Mode::Inference)?.logits)
    }

    /// Detections in pixels of the padded images.
    pub fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        let pyramid = self.pyramid(images, Mode::Inference)?;
        let SecondStage { proposals, output } = self.second_stage(images, &pyramid)?;
        self.heads.detections(&output, &proposals, images)
    }

    fn second_stage(&self, images: &Images, pyramid: &[Value]) -> Result<SecondStage> {
        let proposals = self.proposals(images, pyramid)?;
        let output = self.heads.forward(pyramid, &proposals, Mode::Inference)?;
        Ok(SecondStage { proposals, output })
    }

    /// The first stage's regions in inference, per image, best first.
    pub fn proposals(&self, images: &Images, pyramid: &[Value]) -> Result<Vec<Vec<Xyxy>>> {
        let first = self.rpn.forward(images, pyramid)?;
        self.rpn.proposals(&first, images, &self.rpn.config().at_inference())
    }
}

impl Detect for FasterRcnn {
    fn params(&self) -> &ParamStore {
        self.params()
    }

    fn levels(&self) -> &[Level] {
        self.pyramid.levels()
    }

    fn pyramid(&self, images: &Images, mode: Mode) -> Result<Vec<Value>> {
        self.pyramid(images, mode)
    }

    fn train(
        &self,
        images: &Images,
        pyramid: &[Value],
        targets: &[Target],
        mut random: &mut dyn RngCore,
    ) -> Result<(Losses, Regions)> {
        let RoiPass { losses, samples, logits, deltas } =
            self.train(images, pyramid, targets, &mut random)?;
        let regression = samples.regression(deltas);
        Ok((losses, Regions::Rois { boxes: samples.boxes, labels: samples.labels, logits, regression }))
    }

    fn logits_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value> {
        match regions {
            Regions::Rois { boxes, .. } => self.roi_logits(pyramid, boxes),
            Regions::Anchors { .. } => Err(no_such_regions(regions)),
        }
    }

    fn deltas_at(&self, pyramid: &[Value], regions: &Regions) -> Result<Value> {
        match regions {
            Regions::Rois { boxes, .. } => Ok(self.heads.forward(pyramid, boxes, Mode::Inference)?.deltas),
            Regions::Anchors { .. } => Err(no_such_regions(regions)),
        }
    }

    fn detect(&self, images: &Images) -> Result<Vec<Detections>> {
        self.detect(images)
    }

    /// Objectness and deltas of the first stage, and the pyramid without the level that is subsampled.
    fn raw_outputs(&self, images: &Images, pyramid: &[Value]) -> Result<Vec<(String, Value)>> {
        let RpnOutput { objectness, deltas, .. } = self.rpn.forward(images, pyramid)?;
        let maps = self.pyramid.levels().iter().zip(pyramid).take(pyramid.len() - 1);
        let first = [("objectness".to_owned(), objectness), ("deltas".to_owned(), deltas)];
        Ok(first.into_iter().chain(maps.map(|(level, map)| (level.to_string(), map.clone()))).collect())
    }

    fn refined(&self, pyramid: &[Value], boxes: &[Vec<Xyxy>], labels: &[u32]) -> Result<Vec<Xyxy>> {
        self.heads.refined(pyramid, boxes, labels)
    }

    fn second_stage(&self, images: &Images, pyramid: &[Value]) -> Result<Option<SecondStage>> {
        self.second_stage(images, pyramid).map(Some)
    }
}
