//! Places of labels: at their boxes, in the image, and not on each other.

use super::canvas::{Area, pixels, shared};

/// Share of a label that may lie under others.
const MOST_SHARED: f64 = 0.15;

/// A label to be placed.
pub(super) struct Wanted {
    /// Its box.
    pub(super) box_area: Area,
    /// Width and height of its forms, the favourite first.
    pub(super) sizes: Vec<(i64, i64)>,
}

/// The place of each label, and which of its forms stands there; `None` where each place is taken. The first ones choose
/// first.
pub(super) fn placed(wanted: &[Wanted], image: (u32, u32), line: i64) -> Vec<Option<(usize, Area)>> {
    let mut taken: Vec<Area> = Vec::new();
    let place = |Wanted { box_area, sizes }: &Wanted| {
        let free = sizes.iter().enumerate().find_map(|(form, &size)| {
            let places = places(*box_area, size, image, line);
            let is_free = |&(_, area): &(i64, Area)| {
                let under: i64 = taken.iter().map(|&other| shared(area, other)).sum();
                under as f64 <= MOST_SHARED * pixels(area) as f64
            };
            // Of the free places the one that hides least of other boxes, then the first.
            let hidden = |(order, area): (i64, Area)| {
                let others = wanted.iter().map(|other| other.box_area).filter(|other| other != box_area);
                let hidden: i64 = others.map(|other| shared(area, other)).sum();
                4 * hidden + order * pixels(area)
            };
            let best = places.into_iter().filter(is_free).min_by_key(|&place| hidden(place));
            best.map(|(_, area)| (form, area))
        });
        taken.extend(free.map(|(_, area)| area));
        free
    };
    wanted.iter().map(place).collect()
}

/// Places at a box with their order: above it, below it, inside of it, beside it.
fn places(
    [x1, y1, x2, y2]: Area,
    (width, height): (i64, i64),
    image: (u32, u32),
    line: i64,
) -> Vec<(i64, Area)> {
    let (image_width, image_height) = (i64::from(image.0), i64::from(image.1));
    // Edges of boxes that reach beyond the image are out of sight.
    let (left, right) = (x1.max(0), x2.min(image_width - 1) - width + 1);
    let (top, bottom) = (y1.max(0), y2.min(image_height - 1) - height + 1);
    let corners = [
        (left, y1 - height),
        (left, y2 + 1),
        (right, y1 - height),
        (right, y2 + 1),
        (left + line, top + line),
        (left + line, bottom - line),
        (x2 + 1, top),
        (x1 - width, top),
    ];
    let area = |(order, (x, y)): (i64, (i64, i64))| {
        let x = x.clamp(0, (image_width - width).max(0));
        (order, [x, y, x + width - 1, y + height - 1])
    };
    let is_inside = |&(_, [_, top, _, bottom]): &(i64, Area)| top >= 0 && bottom < image_height;
    let mut places: Vec<(i64, Area)> = (0..).zip(corners).map(area).filter(is_inside).collect();
    if places.is_empty() {
        places.push(area((0, (left, 0))));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(box_area: Area) -> Wanted {
        Wanted { box_area, sizes: vec![(60, 20), (30, 20)] }
    }

    #[test]
    fn labels_of_a_crowd_do_not_lie_on_each_other() {
        let boxes: Vec<Wanted> = (0..12).map(|at| wanted([40 + 5 * at, 60 + 3 * at, 90, 120])).collect();
        let places = placed(&boxes, (200, 200), 2);
        let found: Vec<Area> = places.iter().flatten().map(|&(_, area)| area).collect();
        assert!(found.len() >= 5, "{places:?}");
        for (index, &area) in found.iter().enumerate() {
            let under: i64 = found[..index].iter().map(|&other| shared(area, other)).sum();
            assert!(under as f64 <= 0.15 * pixels(area) as f64, "{found:?}");
            assert!(area[0] >= 0 && area[1] >= 0 && area[2] < 200 && area[3] < 200, "{area:?}");
        }
    }

    #[test]
    fn a_label_is_above_its_box_and_below_it_where_there_is_no_room() {
        let place = |area: Area| placed(&[wanted(area)], (200, 200), 2)[0];
        assert_eq!(place([50, 80, 120, 120]), Some((0, [50, 60, 109, 79])));
        assert_eq!(place([50, 5, 120, 40]), Some((0, [50, 41, 109, 60])));
        // The whole image: inside.
        assert_eq!(place([0, 0, 199, 199]), Some((0, [2, 2, 61, 21])));
    }
}
