//! Levels of a feature pyramid, by the strides of the maps that it is over.

use crate::taps::Level;

/// Levels and their strides, fine to coarse.
///
/// The first level is named by its stride, p`k` for 2^k, and the others by their place behind it. A level's
/// number is the logarithm of its stride, therefore, where each map halves the resolution of the one before.
/// Over two maps of stride 32 (MobileNetV3) the levels are p5 and p6 of stride 32, and p7 of stride 64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pyramid {
    levels: Vec<Level>,
    strides: Vec<usize>,
    over: usize,
}

impl Pyramid {
    /// A pyramid over maps of these strides, with `above` further levels that each halve the resolution.
    pub fn over(maps: &[usize], above: usize) -> Self {
        let coarsest = maps.last().copied().unwrap_or(1);
        let strides: Vec<usize> = maps.iter().copied().chain((1..=above).map(|k| coarsest << k)).collect();
        let first = strides.first().map_or(0, |stride| stride.ilog2() as u8);
        let levels = (first..).map(Level).take(strides.len()).collect();
        Self { levels, strides, over: maps.len() }
    }

    /// Names of the levels.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Pixels of the image between neighbouring cells, level by level.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Strides of the levels that are made of a map of the trunk each.
    pub fn map_strides(&self) -> &[usize] {
        &self.strides[..self.over]
    }

    /// Whether each level halves the resolution of the one before.
    pub fn halves(&self) -> bool {
        self.strides.windows(2).all(|pair| pair[1] == 2 * pair[0])
    }

    /// Levels that another pyramid has too, under the same name and with the same stride.
    pub fn common(&self, other: &Self) -> Vec<Level> {
        let of = |pyramid: &Self| pyramid.levels.iter().copied().zip(pyramid.strides.clone()).collect();
        let theirs: Vec<(Level, usize)> = of(other);
        of(self).into_iter().filter(|level| theirs.contains(level)).map(|(level, _)| level).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(levels: &[Level]) -> String {
        levels.iter().map(Level::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn levels_are_named_by_the_first_stride_and_their_place() {
        let four = Pyramid::over(&[4, 8, 16, 32], 1);
        assert_eq!(
            (names(four.levels()).as_str(), four.strides()),
            ("p2 p3 p4 p5 p6", &[4, 8, 16, 32, 64][..])
        );
        assert!(four.halves());
        let three = Pyramid::over(&[8, 16, 32], 2);
        assert_eq!(
            (names(three.levels()).as_str(), three.map_strides()),
            ("p3 p4 p5 p6 p7", &[8, 16, 32][..])
        );
        let two = Pyramid::over(&[32, 32], 1);
        assert_eq!((names(two.levels()).as_str(), two.strides()), ("p5 p6 p7", &[32, 32, 64][..]));
        assert!(!two.halves());
    }

    #[test]
    fn only_levels_of_one_stride_are_common() {
        let (four, two) = (Pyramid::over(&[4, 8, 16, 32], 1), Pyramid::over(&[32, 32], 1));
        assert_eq!(names(&four.common(&two)), "p5");
        assert_eq!(names(&two.common(&two)), "p5 p6 p7");
        assert_eq!(four.common(&four), four.levels());
    }
}
