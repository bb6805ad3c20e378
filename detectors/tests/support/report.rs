//! What a network gave, compared with a golden case: everything that differs is named at once.
#![allow(missing_docs, unreachable_pub)]

use std::collections::BTreeSet;

use candle_core::Tensor;
use ckd_detectors::DetectorConfig;
use ckd_detectors::images::Images;
use ckd_detectors::param::Builder;
use ckd_detectors::postprocess::Detections;
use ckd_detectors::rpn::Rpn;
use ckd_detectors::{Losses, Result};
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::{Gradients, Value};

use crate::golden::Case;
use crate::support::{Weights, fill, part, values};

/// What differs, collected: one failure names everything.
pub struct Report<'a> {
    case: &'a Case<'a>,
    wrong: Vec<String>,
    seen: BTreeSet<String>,
}

impl<'a> Report<'a> {
    pub fn of(case: &'a Case<'a>) -> Self {
        Self { case, wrong: Vec::new(), seen: BTreeSet::new() }
    }

    pub fn close(&mut self, key: &str, got: &[f32]) {
        self.seen.insert(key.to_owned());
        let (want, atol) = (self.case.f32(key).0, self.case.atol(key));
        if got.len() != want.len() {
            self.wrong.push(format!("{key}: {} values, golden {}", got.len(), want.len()));
            return;
        }
        let off = |i: usize| (f64::from(got[i]) - f64::from(want[i])).abs();
        let far: Vec<usize> = (0..want.len()).filter(|&i| off(i).is_nan() || off(i) > atol).collect();
        if let Some(worst) = far.iter().copied().max_by(|&a, &b| off(a).total_cmp(&off(b))) {
            self.wrong.push(format!(
                "{key}: {} of {} values differ by more than {atol:.1e}; worst [{worst}] = {:?}, golden {:?}",
                far.len(),
                want.len(),
                got[worst],
                want[worst]
            ));
        }
    }

    fn exact(&mut self, key: &str, got: &[i64]) {
        self.seen.insert(key.to_owned());
        let want = self.case.i64(key).0;
        if got != want {
            self.wrong.push(format!("{key}: {got:?}, golden {want:?}"));
        }
    }

    /// Mean, population standard deviation and the first 16 elements.
    pub fn summary(&mut self, key: &str, tensor: &Tensor) {
        self.summary_of(key, &values(tensor));
    }

    fn summary_of(&mut self, key: &str, values: &[f32]) {
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            values.iter().map(|&v| f(f64::from(v))).sum::<f64>() / values.len() as f64
        };
        let mean = mean_of(&|v| v);
        let deviation = mean_of(&|v| (v - mean).powi(2)).sqrt();
        let mut summary = vec![mean as f32, deviation as f32];
        summary.extend_from_slice(&values[..16]);
        self.close(key, &summary);
    }

    pub fn pyramid(&mut self, names: &[&str], pyramid: &[Value]) {
        assert_eq!(pyramid.len(), names.len(), "levels");
        for (name, level) in names.iter().zip(pyramid) {
            self.summary(&format!("fpn:{name}_summary"), level.tensor());
        }
    }

    pub fn losses_and_gradients(&mut self, losses: &Losses) -> Result<()> {
        for (name, loss) in losses {
            self.close(&format!("loss:{name}"), &[loss.item()?]);
        }
        let terms: Vec<(&Value, f64)> = losses.iter().map(|(_, loss)| (loss, 1.0)).collect();
        self.gradients(&weighted_sum(&terms)?.backward()?);
        Ok(())
    }

    /// Every gradient that the golden case speaks of, and the norm of all.
    pub fn gradients(&mut self, gradients: &Gradients) {
        let norm = |sum: f64| [sum.sqrt() as f32];
        let squares = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let mut all = 0.0;
        for (name, gradient) in gradients {
            let gradient = values(gradient);
            all += squares(&gradient);
            if self.case.has(&format!("gradnorm:{name}")) {
                self.close(&format!("gradnorm:{name}"), &norm(squares(&gradient)));
                self.close(&format!("gradfirst8:{name}"), &gradient[..gradient.len().min(8)]);
            }
        }
        if self.case.has("gradnorm_all") {
            self.close("gradnorm_all", &norm(all));
        }
    }

    /// The maps of the proposal head, from a head of its own: the detector shows proposals only.
    pub fn proposal_head(
        &mut self,
        config: &DetectorConfig,
        images: &Images,
        pyramid: &[Value],
        weights: &Weights,
    ) -> Result<()> {
        let builder = Builder::new(0, crate::support::device());
        let settings = &config.settings;
        let anchors = settings.anchors(&config.pyramid()?)?;
        let rpn = Rpn::new(&builder.within("rpn"), settings.fpn_channels, anchors, &settings.rpn)?;
        fill(&builder.finish(), &part(weights, |name| name.starts_with("rpn.")));
        let output = rpn.forward(images, pyramid)?;
        let (objectness, deltas) = (values(output.objectness.tensor()), values(output.deltas.tensor()));
        let mut first = 0;
        for (level, map) in pyramid.iter().enumerate() {
            let place = Place { images: images.sizes.len(), anchors: output.anchors.len(), first };
            let (h, w) = (map.dims()[2], map.dims()[3]);
            self.summary_of(&format!("rpn_objectness{level}_summary"), &place.map(&objectness, 1, h, w));
            self.summary_of(&format!("rpn_deltas{level}_summary"), &place.map(&deltas, 4, h, w));
            first += output.per_level[level];
        }
        Ok(())
    }

    /// Detections, once they are in pixels of the original images; `first_label` is the golden label of class 0.
    pub fn detections(
        &mut self,
        sizes: &[(usize, usize)],
        originals: &[(usize, usize)],
        found: Vec<Detections>,
        first_label: i64,
    ) -> Result<()> {
        for (image, found) in found.into_iter().enumerate() {
            let found = found.resized(sizes[image], originals[image])?;
            self.close(&format!("det{image}_boxes"), found.boxes.as_flattened());
            self.close(&format!("det{image}_scores"), &found.scores);
            let labels: Vec<i64> = found.labels.iter().map(|&label| i64::from(label) + first_label).collect();
            self.exact(&format!("det{image}_labels"), &labels);
        }
        Ok(())
    }

    pub fn finish(mut self) {
        for key in self.case.outputs().into_iter().filter(|key| self.case.has(key)) {
            if !self.seen.contains(key) {
                self.wrong.push(format!("{key}: the network gave no such value"));
            }
        }
        assert!(self.wrong.is_empty(), "{}:\n  {}", self.case.name, self.wrong.join("\n  "));
    }
}

/// Where the anchors of a level lie among the rows of a head's output.
struct Place {
    images: usize,
    anchors: usize,
    first: usize,
}

impl Place {
    /// Rows (N·A, width) of a level as the map (N, A·width, H, W) that they came from, three anchors a cell.
    fn map(&self, rows: &[f32], width: usize, h: usize, w: usize) -> Vec<f32> {
        const PER_CELL: usize = 3;
        let mut map = Vec::with_capacity(self.images * PER_CELL * width * h * w);
        for image in 0..self.images {
            for channel in 0..PER_CELL * width {
                for cell in 0..h * w {
                    let anchor = self.first + cell * PER_CELL + channel / width;
                    map.push(rows[(image * self.anchors + anchor) * width + channel % width]);
                }
            }
        }
        map
    }
}
