//! Anchors: the reference boxes that the RPN and the RetinaNet head classify and shift.
//!
//! Ren et al., "Faster R-CNN", NeurIPS 2015; Lin et al., "Feature Pyramid Networks" and "Focal Loss",
//! CVPR and ICCV 2017. As torchvision's `AnchorGenerator`: an aspect ratio is height / width, cell anchors are
//! rounded half to even, a level's stride is the padded image size divided by the feature size, rounded down,
//! for each axis. [`AnchorGenerator::exact`] does as Detectron2 and MMDetection: no rounding, and strides that are
//! given. In all of them the first anchor's centre is the image's corner.

use ckd_kernels::boxes::AnchorGrid;
use ckd_settings::choices;

use crate::boxes::{GeometryError, Xyxy};

choices! {
    /// Placement of anchors on the image.
    pub enum AnchorCorners {
        /// torchvision's: corners in whole pixels, RetinaNet's default sizes too; a level's stride is the
        /// padded image's size over the map's, rounded down.
        Rounded = "rounded",
        /// Detectron2's and MMDetection's: sizes and corners as they come out; a level's stride is 4, 8, 16, ...
        Exact = "exact",
    }
}

/// Lays the same anchors on every cell of every pyramid level.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorGenerator {
    cells: Vec<Vec<Xyxy>>,
    /// Pixels between neighbouring cells, level by level; `None` if they follow from the sizes.
    strides: Option<Vec<usize>>,
}

impl AnchorGenerator {
    /// `sizes[level]` are side lengths in pixels (square roots of the area); every level has all `aspect_ratios`.
    ///
    /// # Errors
    /// When there is no level, a level without size, no aspect ratio, or one of them isn't finite and positive.
    pub fn new(sizes: &[Vec<f32>], aspect_ratios: &[f32]) -> Result<Self, GeometryError> {
        check(sizes, aspect_ratios)?;
        let cells = sizes.iter().map(|level| rounded_anchors(level, aspect_ratios)).collect();
        Ok(Self { cells, strides: None })
    }

    /// Anchors whose corners are not rounded, `strides[level]` pixels from cell to cell.
    ///
    /// # Errors
    /// As [`new`](Self::new); when there are not as many strides as levels, or one is 0.
    pub fn exact(
        sizes: &[Vec<f32>],
        aspect_ratios: &[f32],
        strides: &[usize],
    ) -> Result<Self, GeometryError> {
        check(sizes, aspect_ratios)?;
        GeometryError::check_length("strides of the anchors", sizes.len(), strides.len())?;
        if strides.contains(&0) {
            return Err(GeometryError::Parameter { what: "stride", rule: "at least 1", got: 0.0 });
        }
        let cells = sizes.iter().map(|level| exact_anchors(level, aspect_ratios)).collect();
        Ok(Self { cells, strides: Some(strides.to_vec()) })
    }

    /// torchvision's Faster R-CNN with FPN: p2..p6, one size a level (32, 64, .. 512), three aspect ratios.
    #[must_use]
    pub fn faster_rcnn_fpn() -> Self {
        let sizes = [32.0, 64.0, 128.0, 256.0, 512.0].map(|size| vec![size]);
        Self::new(&sizes, &[0.5, 1.0, 2.0]).expect("constants above 0")
    }

    /// torchvision's RetinaNet: p3..p7, sizes x, floor(x 2^(1/3)), floor(x 2^(2/3)) a level, three aspect ratios.
    #[must_use]
    pub fn retinanet() -> Self {
        let thirds = |size: f64| {
            vec![
                size as f32,
                (size * 2_f64.powf(1.0 / 3.0)).floor() as f32,
                (size * 2_f64.powf(2.0 / 3.0)).floor() as f32,
            ]
        };
        let sizes = [32.0, 64.0, 128.0, 256.0, 512.0].map(thirds);
        Self::new(&sizes, &[0.5, 1.0, 2.0]).expect("constants above 0")
    }

    /// torchvision's FCOS: p3..p7, one square of the level's stride (8, 16, .. 128), whose centre is the point.
    #[must_use]
    pub fn fcos() -> Self {
        let sizes = [8.0, 16.0, 32.0, 64.0, 128.0].map(|size| vec![size]);
        Self::new(&sizes, &[1.0]).expect("constants above 0")
    }

    /// Number of pyramid levels.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.cells.len()
    }

    /// Anchors on one cell, level by level: what the head's channels must be.
    #[must_use]
    pub fn per_location(&self) -> Vec<usize> {
        self.cells.iter().map(Vec::len).collect()
    }

    /// Pixels between neighbouring cells, level by level; `None` if they follow from the sizes.
    #[must_use]
    pub fn strides(&self) -> Option<&[usize]> {
        self.strides.as_deref()
    }

    /// Anchors of each level for feature maps of these (height, width).
    ///
    /// # Errors
    /// When the number of feature maps isn't the number of levels.
    pub fn counts(&self, feature_hw: &[(usize, usize)]) -> Result<Vec<usize>, GeometryError> {
        GeometryError::check_length("feature maps of the anchors", self.levels(), feature_hw.len())?;
        Ok(self
            .cells
            .iter()
            .zip(feature_hw)
            .map(|(cell, &(height, width))| cell.len() * height * width)
            .collect())
    }

    /// All anchors of an image, in the order level, row, column, aspect ratio, size.
    ///
    /// They depend on the sizes alone: a caller keeps them for as long as those stay.
    ///
    /// # Shapes
    /// `image_hw`: (height, width) of the padded batch; `feature_hw`: the same of each level's map.
    ///
    /// # Errors
    /// When the number of feature maps isn't the number of levels, or a map has no cell.
    pub fn generate(
        &self,
        image_hw: (usize, usize),
        feature_hw: &[(usize, usize)],
    ) -> Result<Vec<Xyxy>, GeometryError> {
        let mut anchors = Vec::with_capacity(self.counts(feature_hw)?.iter().sum());
        for (grid, &(height, _)) in self.grids(image_hw, feature_hw)?.iter().zip(feature_hw) {
            for row in 0..height {
                let y = (row * grid.stride.0) as f32;
                for column in 0..grid.columns {
                    let x = (column * grid.stride.1) as f32;
                    anchors.extend(grid.cell.iter().map(|b| [b[0] + x, b[1] + y, b[2] + x, b[3] + y]));
                }
            }
        }
        Ok(anchors)
    }

    /// Anchors of each level as those of a cell and the way to the next ones.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn grids(
        &self,
        image_hw: (usize, usize),
        feature_hw: &[(usize, usize)],
    ) -> Result<Vec<AnchorGrid>, GeometryError> {
        GeometryError::check_length("feature maps of the anchors", self.levels(), feature_hw.len())?;
        let grid = |(level, (cell, &(height, width))): (usize, (&Vec<Xyxy>, &(usize, usize)))| {
            if height == 0 || width == 0 {
                let rule = "at least 1 (is the image smaller than the network's stride?)";
                return Err(GeometryError::Parameter { what: "side of a feature map", rule, got: 0.0 });
            }
            let stride = match &self.strides {
                Some(strides) => (strides[level], strides[level]),
                None => (image_hw.0 / height, image_hw.1 / width),
            };
            Ok(AnchorGrid { cell: cell.clone(), columns: width, stride })
        };
        self.cells.iter().zip(feature_hw).enumerate().map(grid).collect()
    }
}

/// Anchors around (0, 0), for each aspect ratio each size; f32 as torchvision, so that .5 falls the same way.
fn rounded_anchors(sizes: &[f32], aspect_ratios: &[f32]) -> Vec<Xyxy> {
    let mut cell = Vec::with_capacity(sizes.len() * aspect_ratios.len());
    for ratio in aspect_ratios {
        let height_ratio = ratio.sqrt();
        let width_ratio = 1.0 / height_ratio;
        for size in sizes {
            let (width, height) = (width_ratio * size, height_ratio * size);
            cell.push([-width, -height, width, height].map(|side| (side / 2.0).round_ties_even()));
        }
    }
    cell
}

/// Anchors of one cell without rounding, in f64 until the end, as Detectron2's. (Detectron2 and its weights
/// order them size by size; here the order is torchvision's and MMDetection's.)
fn exact_anchors(sizes: &[f32], aspect_ratios: &[f32]) -> Vec<Xyxy> {
    let mut cell = Vec::with_capacity(sizes.len() * aspect_ratios.len());
    for &ratio in aspect_ratios {
        for &size in sizes {
            let (ratio, size) = (f64::from(ratio), f64::from(size));
            let width = (size * size / ratio).sqrt();
            let (x, y) = ((width / 2.0) as f32, (ratio * width / 2.0) as f32);
            cell.push([-x, -y, x, y]);
        }
    }
    cell
}

fn check(sizes: &[Vec<f32>], aspect_ratios: &[f32]) -> Result<(), GeometryError> {
    let refuse = |what, rule, got: f64| Err(GeometryError::Parameter { what, rule, got });
    if sizes.is_empty() || sizes.iter().any(Vec::is_empty) || aspect_ratios.is_empty() {
        return refuse("anchor sizes of a level, or aspect ratios", "at least one value", 0.0);
    }
    for &value in sizes.iter().flatten().chain(aspect_ratios) {
        if !(value.is_finite() && value > 0.0) {
            return refuse("anchor size or aspect ratio", "finite and above 0", f64::from(value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_pixels_round_to_even() {
        let generator = AnchorGenerator::new(&[vec![5.0, 7.0]], &[1.0]).expect("valid");
        let anchors = generator.generate((1, 1), &[(1, 1)]).expect("valid");
        assert_eq!(anchors, [[-2.0, -2.0, 2.0, 2.0], [-4.0, -4.0, 4.0, 4.0]]);
    }

    #[test]
    fn the_stride_is_rounded_down_for_each_axis() {
        let generator = AnchorGenerator::new(&[vec![2.0]], &[1.0]).expect("valid");
        let anchors = generator.generate((7, 10), &[(2, 3)]).expect("valid");
        let centres: Vec<_> = anchors.iter().map(|b| (b[0] + 1.0, b[1] + 1.0)).collect();
        assert_eq!(centres, [(0.0, 0.0), (3.0, 0.0), (6.0, 0.0), (0.0, 3.0), (3.0, 3.0), (6.0, 3.0)]);
    }

    #[test]
    fn exact_anchors_keep_their_area_and_their_strides() {
        let exact = AnchorGenerator::exact(&[vec![5.0, 7.0]], &[0.5, 2.0], &[64]).expect("valid");
        // 25 cells of stride 32 halved: 13 of stride 64, which reach beyond the image.
        let anchors = exact.generate((800, 800), &[(13, 13)]).expect("valid");
        assert_eq!(anchors.len(), 13 * 13 * 4);
        let area = |b: &Xyxy| (b[2] - b[0]) * (b[3] - b[1]);
        for (anchor, size) in anchors.iter().zip([5.0, 7.0, 5.0, 7.0]) {
            assert!((area(anchor) - size * size).abs() < 1e-5, "{anchor:?}");
        }
        let (wide, tall) = (anchors[0], anchors[2]);
        assert_eq!([wide[0], wide[1]], [tall[1], tall[0]]);
        assert_eq!(wide[2], (12.5_f64.sqrt()) as f32);
        assert_eq!(anchors[4][0], anchors[0][0] + 64.0);
        assert!(AnchorGenerator::exact(&[vec![5.0]], &[1.0], &[]).is_err());
        assert!(AnchorGenerator::exact(&[vec![5.0]], &[1.0], &[0]).is_err());
        assert!(AnchorGenerator::exact(&[vec![]], &[1.0], &[4]).is_err());
    }

    #[test]
    fn both_networks_have_torchvisions_number_of_anchors_on_a_cell() {
        assert_eq!(AnchorGenerator::faster_rcnn_fpn().per_location(), [3; 5]);
        assert_eq!(AnchorGenerator::retinanet().per_location(), [9; 5]);
    }

    #[test]
    fn bad_sizes_and_maps_are_refused() {
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(AnchorGenerator::new(&[vec![bad]], &[1.0]).is_err());
            assert!(AnchorGenerator::new(&[vec![32.0]], &[bad]).is_err());
        }
        assert!(AnchorGenerator::new(&[], &[1.0]).is_err());
        assert!(AnchorGenerator::new(&[vec![]], &[1.0]).is_err());
        let generator = AnchorGenerator::new(&[vec![32.0]], &[1.0]).expect("valid");
        assert!(generator.generate((32, 32), &[(0, 1)]).is_err());
        assert!(generator.generate((32, 32), &[(1, 1), (1, 1)]).is_err());
        assert_eq!(generator.generate((0, 0), &[(1, 1)]).expect("stride 0").len(), 1);
    }
}
