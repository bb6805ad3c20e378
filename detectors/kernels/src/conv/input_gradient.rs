//! The gradient of the input.

use candle_core::Tensor;

use super::geometry::{Geometry, Phase};
use super::sweep::{Sweep, in_precision};
use super::{depthwise, winograd};
use crate::Result;
use crate::dispatch::Host;
use crate::memory::{channels_last, elements, from_channels_last, on_host, written};
use crate::microkernel::Finish;
use crate::panels::Panels;

/// The gradient of the result, and the weights.
pub(super) struct InputGradient<'a> {
    pub(super) geometry: &'a Geometry,
    /// (N, OH, OW, K).
    pub(super) g: &'a Tensor,
    /// (K, C/groups, R, S), row k times `scale[k]`.
    pub(super) weight: &'a Tensor,
    pub(super) scale: Option<&'a Tensor>,
}

impl Host for InputGradient<'_> {
    /// (N, C, H, W), channels last in memory.
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let &Geometry { n, h, w, c, .. } = self.geometry;
        let (g, weight) = (elements(self.g)?, channels_last(self.weight)?);
        let weight = elements(&weight)?;
        let scale = self.scale.map(on_host).transpose()?;
        let scale = scale.as_ref().map(elements).transpose()?;
        let out = product(self.geometry, &g, &weight, scale.as_deref());
        from_channels_last(out, (n, h, w, c), self.g)
    }
}

/// The gradient (n, h, w, c) from that of the result `g` and the weights, row k of them times `scale[k]`.
pub(super) fn product(geometry: &Geometry, g: &[f32], weight: &[f32], scale: Option<&[f32]>) -> Vec<f32> {
    let &Geometry { config, n, h, w, c, .. } = geometry;
    let panels = |phases: &[Phase]| packed(geometry, phases, weight, scale);
    let size = n * h * w * c;
    if geometry.is_depthwise() {
        // SAFETY: the convolution writes every number.
        return unsafe { written(size, |out| depthwise::input_gradient(geometry, g, weight, scale, out)) };
    }
    if winograd::suits(geometry) {
        let phases = geometry.gradient_phases();
        let padding = phases[0].origin.map(|origin| -origin);
        let packed = panels(&phases);
        let source = geometry.output_map(g);
        // SAFETY: the convolution writes every number.
        unsafe {
            written(size, |out| {
                winograd::convolve(source, (h, w), padding, &packed[0], Finish::default(), out);
            })
        }
    } else {
        let geometry = geometry.flattened();
        let phases = geometry.gradient_phases();
        let (precision, panels) =
            in_precision(geometry.precision, geometry.group_channels().1, panels(&phases));
        let sweep = Sweep {
            precision,
            source: geometry.output_map(g),
            result: (geometry.h, geometry.w, c),
            stride: config.stride,
            step: [1, 1],
            phases: &phases,
            panels: &panels,
            groups: config.groups,
            finish: Finish::default(),
        };
        // SAFETY: a sweep writes every number.
        unsafe { written(size, |out| sweep.run(out)) }
    }
}

/// For each phase and group, the weights (taps of the phase · K, C).
fn packed(geometry: &Geometry, phases: &[Phase], weight: &[f32], scale: Option<&[f32]>) -> Vec<Panels> {
    let (group_c, group_k) = geometry.group_channels();
    let all = geometry.r * geometry.s;
    let mut panels = Vec::with_capacity(phases.len() * geometry.config.groups);
    for phase in phases {
        for group in 0..geometry.config.groups {
            let channel = |i: usize| group * group_k + i % group_k;
            panels.push(Panels::of_rows(
                weight,
                (phase.taps.len() * group_k, group_c),
                |i| (channel(i) * all + phase.taps[i / group_k].index) * group_c,
                |i| scale.map_or(1.0, |scale| scale[channel(i)]),
            ));
        }
    }
    panels
}
