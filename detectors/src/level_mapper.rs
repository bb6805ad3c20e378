//! Which pyramid level a RoI is pooled from.
//!
//! Lin et al., "Feature Pyramid Networks", CVPR 2017, equation 1: k = floor(k0 + log2(sqrt(area) / 224)).
//! torchvision adds 1e-6 before rounding down, Detectron2 2e-16 to the ratio: they differ for sizes less than a
//! millionth below 112, 224 or 448 pixels, and torchvision's is taken for all.

use crate::boxes::{Xyxy, area};

/// Assigns RoIs to pyramid levels by their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelMapper {
    finest: u32,
    coarsest: u32,
}

impl LevelMapper {
    /// p2 to p5, the levels that torchvision's and Detectron2's box heads pool from.
    pub const P2_TO_P5: Self = Self { finest: 2, coarsest: 5 };

    /// Levels p`finest` to p`coarsest`; in the other order only `finest` is used.
    #[must_use]
    pub fn new(finest: u32, coarsest: u32) -> Self {
        Self { finest, coarsest: coarsest.max(finest) }
    }

    /// Levels of maps with these strides, fine to coarse, as torchvision's `_setup_scales` reads them off the
    /// maps. Maps that share a stride are one level: of two with stride 32 all RoIs are pooled from the
    /// first.
    #[must_use]
    pub fn over(strides: &[usize]) -> Self {
        let level = |stride: Option<&usize>| stride.map_or(0, |stride| stride.ilog2());
        Self::new(level(strides.first()), level(strides.last()))
    }

    /// Number of levels.
    #[must_use]
    pub fn levels(&self) -> usize {
        (self.coarsest - self.finest + 1) as usize
    }

    /// Index into the levels, 0 for the finest. A RoI without a positive area is small: it goes to the finest.
    #[must_use]
    #[inline]
    pub fn level(&self, roi: &Xyxy) -> usize {
        // The size of an ImageNet object, pooled from p4; the epsilon keeps exact powers of two on their level.
        const CANONICAL_SIZE: f32 = 224.0;
        const CANONICAL_LEVEL: f32 = 4.0;
        const EPSILON: f32 = 1e-6;
        let size = area(roi).sqrt();
        let level = (CANONICAL_LEVEL + (size / CANONICAL_SIZE).log2() + EPSILON).floor();
        // A cast saturates and makes NaN 0, hence no further cases.
        (level as u32).clamp(self.finest, self.coarsest).abs_diff(self.finest) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(side: f32) -> Xyxy {
        [3.0, 5.0, 3.0 + side, 5.0 + side]
    }

    #[test]
    fn a_size_of_exactly_a_power_of_two_belongs_to_the_coarser_level() {
        let levels = [1.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 1e6]
            .map(|s| LevelMapper::P2_TO_P5.level(&square(s)));
        assert_eq!(levels, [0, 0, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn rounding_just_below_a_power_of_two_does_not_change_the_level() {
        let side = 111.999_96;
        assert_eq!(LevelMapper::P2_TO_P5.level(&[0.0, 0.0, side, side]), 1);
        assert_eq!(LevelMapper::P2_TO_P5.level(&[0.0, 0.0, 111.99, 111.99]), 0);
    }

    #[test]
    fn maps_of_one_stride_are_one_level() {
        assert_eq!(LevelMapper::over(&[4, 8, 16, 32]), LevelMapper::P2_TO_P5);
        let mapper = LevelMapper::over(&[32, 32]);
        assert_eq!(mapper.levels(), 1);
        assert_eq!([1.0, 448.0, 1e6].map(|side| mapper.level(&square(side))), [0, 0, 0]);
    }

    #[test]
    fn hostile_rois_have_a_level() {
        let inf = f32::INFINITY;
        for roi in [[f32::NAN; 4], [5.0; 4], [10.0, 0.0, 0.0, 10.0]] {
            assert_eq!(LevelMapper::P2_TO_P5.level(&roi), 0);
        }
        assert_eq!(LevelMapper::P2_TO_P5.level(&[0.0, 0.0, inf, inf]), 3);
    }
}
