//! Images of other crates: the `image` crate's, and arrays of `ndarray`.

use std::borrow::Cow;

use image::{DynamicImage, RgbImage};

/// An image that a data set made in code gives, or that a [`Student`](crate::export::student::Student) takes.
pub trait Pixels {
    /// The image in RGB, 8 bits a channel.
    ///
    /// # Errors
    /// If it has no pixels, or another shape.
    fn rgb(&self) -> Result<Cow<'_, RgbImage>, PixelsError>;
}

/// An image that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PixelsError {
    /// Height or width is 0.
    #[error("the image has no pixels: it is {width} x {height}")]
    Empty {
        /// Width of the image.
        width: u32,
        /// Height of the image.
        height: u32,
    },
    /// An array of another shape.
    #[error("an image is an array (height, width, 3), not {shape:?}; permute (3, height, width) first")]
    Shape {
        /// The shape.
        shape: Vec<usize>,
    },
}

fn checked(image: Cow<'_, RgbImage>) -> Result<Cow<'_, RgbImage>, PixelsError> {
    let (width, height) = image.dimensions();
    match width == 0 || height == 0 {
        true => Err(PixelsError::Empty { width, height }),
        false => Ok(image),
    }
}

impl Pixels for RgbImage {
    fn rgb(&self) -> Result<Cow<'_, RgbImage>, PixelsError> {
        checked(Cow::Borrowed(self))
    }
}

impl Pixels for DynamicImage {
    /// Alpha is dropped, grey is repeated, 16 bits become 8.
    fn rgb(&self) -> Result<Cow<'_, RgbImage>, PixelsError> {
        checked(self.as_rgb8().map_or_else(|| Cow::Owned(self.to_rgb8()), Cow::Borrowed))
    }
}

#[cfg(feature = "ndarray")]
impl<S: ndarray::Data<Elem = u8>> Pixels for ndarray::ArrayBase<S, ndarray::Ix3> {
    /// # Shapes
    /// (height, width, 3), in any memory order.
    fn rgb(&self) -> Result<Cow<'_, RgbImage>, PixelsError> {
        let shape = || PixelsError::Shape { shape: self.shape().to_vec() };
        let (height, width, 3) = self.dim() else { return Err(shape()) };
        let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
            return Err(shape());
        };
        let values: Vec<u8> = self.iter().copied().collect();
        checked(Cow::Owned(RgbImage::from_raw(width, height, values).ok_or_else(shape)?))
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayAlphaImage, LumaA, Rgb};

    use super::*;

    #[test]
    fn a_grey_image_with_alpha_is_seen_in_rgb() {
        let grey = DynamicImage::ImageLumaA8(GrayAlphaImage::from_pixel(2, 1, LumaA([7, 9])));
        assert_eq!(*grey.rgb().unwrap(), RgbImage::from_pixel(2, 1, Rgb([7, 7, 7])));
        let rgb = DynamicImage::ImageRgb8(RgbImage::new(2, 2));
        assert!(matches!(rgb.rgb().unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn an_image_without_pixels_is_refused() {
        assert_eq!(RgbImage::new(0, 5).rgb().unwrap_err(), PixelsError::Empty { width: 0, height: 5 });
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn an_array_is_an_image_in_any_memory_order() {
        use ndarray::{Array3, ShapeBuilder};

        let image = RgbImage::from_fn(4, 3, |x, y| Rgb([x as u8, y as u8, 100]));
        let value = |(y, x, channel): (usize, usize, usize)| image.get_pixel(x as u32, y as u32)[channel];
        assert_eq!(*Array3::from_shape_fn((3, 4, 3), value).rgb().unwrap(), image);
        let columns_first = Array3::from_shape_fn((3, 4, 3).f(), value);
        assert_eq!(*columns_first.view().rgb().unwrap(), image);
        // As PyTorch keeps images: a permuted view, no copy.
        let planes = Array3::from_shape_fn((3, 3, 4), |(channel, y, x)| value((y, x, channel)));
        assert_eq!(*planes.view().permuted_axes([1, 2, 0]).rgb().unwrap(), image);
        assert_eq!(planes.rgb().unwrap_err(), PixelsError::Shape { shape: vec![3, 3, 4] });
        assert!(matches!(Array3::<u8>::zeros((0, 4, 3)).rgb(), Err(PixelsError::Empty { .. })));
    }
}
