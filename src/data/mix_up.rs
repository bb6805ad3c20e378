//! Mix-up of images alone: whole images of a batch blended with each other (Zhang et al. 2018, arXiv 1710.09412, without
//! its labels), for networks that learn from a teacher which sees the same blend.

/// Blends each image of a batch with another one, x' = `share` x + (1 - `share`) x\[order\].
///
/// # Shapes
/// `pixels` (images, any) as one slice; `order` names an image for each.
///
/// # Panics
/// If the pixels are not as many for each image, or `order` names an image that is not there.
pub fn mix_up(pixels: &mut [f32], order: &[usize], share: f32) {
    assert!(
        !order.is_empty() && pixels.len().is_multiple_of(order.len()),
        "{} pixels, {order:?}",
        pixels.len()
    );
    let (before, size) = (pixels.to_vec(), pixels.len() / order.len());
    for (image, &other) in pixels.chunks_exact_mut(size.max(1)).zip(order) {
        let others = &before[other * size..][..size];
        image.iter_mut().zip(others).for_each(|(own, other)| *own = share * *own + (1.0 - share) * other);
    }
}
