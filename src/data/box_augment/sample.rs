//! An image with its objects, on the way from the file to the batch.

use image::RgbImage;
use image::imageops;

use crate::data::dataset::{Annotation, ClassIndex, Dataset, MIN_SIDE_PX};
use crate::data::decode::DecodeError;

/// A box that was cut needs sides of so many pixels to be kept.
pub const MIN_VISIBLE_PX: f32 = 1.0;

/// An image and what is to be found in it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::data) struct Sample {
    pub(in crate::data) image: RgbImage,
    pub(in crate::data) objects: Vec<Object>,
    /// Weight in the losses of what is matched with no object.
    pub(in crate::data) background: f32,
}

/// An object of a [`Sample`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::data) struct Object {
    /// `[x1, y1, x2, y2]` in pixels of the image, within it.
    pub(in crate::data) xyxy: [f32; 4],
    pub(in crate::data) class: ClassIndex,
    /// A detector is trained to find it; else it is a crowd or to be ignored.
    pub(in crate::data) is_positive: bool,
    /// Weight in the losses of what is matched with it.
    pub(in crate::data) weight: f32,
}

/// A part of an image, in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Window {
    pub(super) fn xyxy(&self) -> [f32; 4] {
        let Self { left, top, width, height } = *self;
        [left, top, left + width, top + height].map(|side| side as f32)
    }
}

impl Sample {
    /// The image at index `image` of `dataset`, with its objects cut to it.
    ///
    /// # Errors
    /// If the image cannot be had.
    pub(in crate::data) fn of(dataset: &Dataset, image: usize) -> Result<Self, DecodeError> {
        let pixels = dataset.pixels(image)?;
        let (width, height) = pixels.dimensions();
        let object = |annotation: &Annotation| {
            // The data set dropped what leaves no box; parts put together by hand may still have one.
            let xyxy = annotation.clipped(width, height)?;
            let (class, is_positive) = (annotation.category, annotation.is_positive());
            Some(Object { xyxy, class, is_positive, weight: annotation.weight })
        };
        let objects = dataset.annotations(image).iter().filter_map(object).collect();
        Ok(Self { image: pixels, objects, background: dataset.images[image].weight })
    }

    /// The part of the image in `window`, with the objects of which enough is visible there.
    pub(super) fn cropped(self, window: Window, min_visible: f64) -> Self {
        let Window { left, top, width, height } = window;
        let image = imageops::crop_imm(&self.image, left, top, width, height).to_image();
        let [x, y] = [left, top].map(|side| -(side as f32));
        let objects = self.objects.into_iter();
        let seen = objects
            .filter_map(|object| object.moved([1.0, 1.0], [x, y]).seen_in((width, height), min_visible));
        Self { objects: seen.collect(), image, background: self.background }
    }

    /// The objects whose centre lies within `window`; crowds and ignored ones all stay.
    pub(super) fn of_centres_in(mut self, window: Window) -> Self {
        self.objects.retain(|object| !object.is_positive || object.is_centred_in(window));
        self
    }

    /// The image turned upside down.
    pub(super) fn upside_down(mut self) -> Self {
        imageops::flip_vertical_in_place(&mut self.image);
        let height = self.image.height() as f32;
        for Object { xyxy: [_, y1, _, y2], .. } in &mut self.objects {
            (*y1, *y2) = (height - *y2, height - *y1);
        }
        self
    }
}

impl Object {
    /// The object scaled by the factors (across, down) and then moved.
    pub(super) fn moved(self, [across, down]: [f32; 2], [x, y]: [f32; 2]) -> Self {
        let [x1, y1, x2, y2] = self.xyxy;
        Self { xyxy: [x1 * across + x, y1 * down + y, x2 * across + x, y2 * down + y], ..self }
    }

    /// The object cut to an image of this size, if enough of it is left.
    pub(super) fn seen_in(self, (width, height): (u32, u32), min_visible: f64) -> Option<Self> {
        let [right, bottom] = [width, height].map(|side| side as f32);
        let [x1, y1, x2, y2] = self.xyxy;
        let xyxy = [x1.clamp(0.0, right), y1.clamp(0.0, bottom), x2.clamp(0.0, right), y2.clamp(0.0, bottom)];
        let sides = |[x1, y1, x2, y2]: [f32; 4]| [x2 - x1, y2 - y1];
        let ([w, h], [whole_w, whole_h]) = (sides(xyxy), sides(self.xyxy));
        let is_seen = match self.is_positive && xyxy != self.xyxy {
            true => {
                let share = f64::from(w) * f64::from(h) / (f64::from(whole_w) * f64::from(whole_h));
                w >= MIN_VISIBLE_PX && h >= MIN_VISIBLE_PX && share >= min_visible
            }
            false => w >= MIN_SIDE_PX && h >= MIN_SIDE_PX,
        };
        is_seen.then_some(Self { xyxy, ..self })
    }

    pub(super) fn is_centred_in(&self, window: Window) -> bool {
        let ([x1, y1, x2, y2], [left, top, right, bottom]) = (self.xyxy, window.xyxy());
        let [x, y] = [0.5 * (x1 + x2), 0.5 * (y1 + y2)];
        left < x && x < right && top < y && y < bottom
    }
}

#[cfg(test)]
pub(super) mod tests {
    use image::Rgb;

    use super::*;

    /// A dark image with boxes of class `class` painted on it, each in a colour of its own.
    pub(in crate::data::box_augment) fn painted(
        width: u32,
        height: u32,
        boxes: &[[f32; 4]],
        class: u32,
    ) -> Sample {
        let mut image = RgbImage::new(width, height);
        let mut objects = Vec::new();
        for (number, &xyxy) in boxes.iter().enumerate() {
            let colour = Rgb([100 + 20 * class as u8, 100 + 50 * number as u8, 255]);
            let [x1, y1, x2, y2] = xyxy.map(|side| side as u32);
            (y1..y2).for_each(|y| (x1..x2).for_each(|x| image.put_pixel(x, y, colour)));
            objects.push(Object { xyxy, class: ClassIndex(class), is_positive: true, weight: 1.0 });
        }
        Sample { image, objects, background: 1.0 }
    }

    /// Checks that each box holds the paint of its class and ends where the paint ends, to a pixel; counts the boxes.
    #[track_caller]
    pub(in crate::data::box_augment) fn assert_painted(sample: &Sample) -> usize {
        let (width, height) = sample.image.dimensions();
        let paint = |x: f32, y: f32| -> Option<[u8; 3]> {
            let is_within = x >= 0.0 && y >= 0.0 && x < width as f32 && y < height as f32;
            is_within.then(|| sample.image.get_pixel(x as u32, y as u32).0)
        };
        for object in &sample.objects {
            let [x1, y1, x2, y2] = object.xyxy;
            assert!(0.0 <= x1 && x1 < x2 && x2 <= width as f32, "{:?} of {width} x {height}", object.xyxy);
            assert!(0.0 <= y1 && y1 < y2 && y2 <= height as f32, "{:?} of {width} x {height}", object.xyxy);
            if x2 - x1 < 4.0 || y2 - y1 < 4.0 {
                continue;
            }
            let own = 100 + 20 * object.class.0 as u8;
            let [x, y] = [(x1 + x2) / 2.0, (y1 + y2) / 2.0];
            let centre = paint(x, y).unwrap();
            assert!(centre[0].abs_diff(own) <= 2 && centre[2] > 250, "{centre:?} in {object:?}");
            // A pixel and a half inside there is paint, a pixel and a half outside there is none: dark, or the grey of a mosaic.
            for (inside, outside) in [
                ((x1 + 1.5, y), (x1 - 1.5, y)),
                ((x2 - 1.5, y), (x2 + 1.5, y)),
                ((x, y1 + 1.5), (x, y1 - 1.5)),
                ((x, y2 - 1.5), (x, y2 + 1.5)),
            ] {
                assert!(paint(inside.0, inside.1).unwrap()[2] > 250, "inside of {object:?}");
                if let Some(colour) = paint(outside.0, outside.1) {
                    let is_another = sample.objects.iter().any(|other| {
                        let [a, b, c, d] = other.xyxy;
                        other != object
                            && a <= outside.0
                            && outside.0 <= c
                            && b <= outside.1
                            && outside.1 <= d
                    });
                    // Beyond the seam of a mosaic may lie what is left of a dropped object.
                    assert!(
                        colour[2] < 200 || is_another || colour[0].abs_diff(own) > 2,
                        "outside of {object:?}"
                    );
                }
            }
        }
        sample.objects.len()
    }

    fn object(xyxy: [f32; 4]) -> Object {
        Object { xyxy, class: ClassIndex(0), is_positive: true, weight: 1.0 }
    }

    #[test]
    fn a_crop_moves_and_cuts_boxes_and_drops_what_is_hardly_seen() {
        // By hand, in the window x 10..40, y 20..40.
        let window = Window { left: 10, top: 20, width: 30, height: 20 };
        let boxes = [
            [15.0, 25.0, 35.0, 35.0], // within
            [0.0, 25.0, 20.0, 35.0],  // half of it
            [30.0, 30.0, 60.0, 60.0], // 100 of 900
            [35.0, 35.0, 60.0, 60.0], // 25 of 625, below a tenth
            [50.0, 0.0, 60.0, 10.0],  // outside
            [10.0, 39.5, 30.0, 40.5], // half a pixel high
        ];
        let cropped = painted(64, 64, &boxes, 0).cropped(window, 0.1);
        assert_eq!(cropped.image.dimensions(), (30, 20));
        let kept: Vec<[f32; 4]> = cropped.objects.iter().map(|object| object.xyxy).collect();
        assert_eq!(kept, [[5.0, 5.0, 25.0, 15.0], [0.0, 5.0, 10.0, 15.0], [20.0, 10.0, 30.0, 20.0]]);
        let third = painted(64, 64, &boxes, 0).cropped(window, 0.12).objects;
        assert_eq!(third.len(), 2, "at 0.12 a ninth is too little");
    }

    #[test]
    fn what_is_not_to_be_learned_is_kept_whatever_is_left() {
        let crowd = Object { is_positive: false, ..object([-90.0, 0.0, 0.5, 10.0]) };
        assert_eq!(crowd.seen_in((20, 20), 0.5).unwrap().xyxy, [0.0, 0.0, 0.5, 10.0]);
        assert_eq!(Object { xyxy: [-5.0, 0.0, 0.0, 10.0], ..crowd }.seen_in((20, 20), 0.0), None);
        assert_eq!(object([-90.0, 0.0, 0.5, 10.0]).seen_in((20, 20), 0.0), None);
    }

    #[test]
    fn a_box_that_was_not_cut_is_kept_however_small() {
        let small = object([3.0, 3.0, 3.25, 3.25]);
        assert_eq!(small.seen_in((20, 20), 1.0), Some(small));
        assert_eq!(object([3.0, 3.0, 3.25, 3.001]).seen_in((20, 20), 0.0), None, "it would vanish in f32");
    }

    #[test]
    fn upside_down_twice_is_the_image_and_boxes_follow() {
        let sample = painted(30, 20, &[[3.0, 2.0, 11.0, 9.0]], 1);
        let turned = sample.clone().upside_down();
        assert_eq!(turned.objects[0].xyxy, [3.0, 11.0, 11.0, 18.0]);
        assert_eq!(assert_painted(&turned), 1);
        assert_eq!(turned.upside_down(), sample);
    }
}
