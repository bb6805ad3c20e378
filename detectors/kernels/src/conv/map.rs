//! Channels-last maps as the convolutions read them.

/// A channels-last map (n, h, w, c).
#[derive(Clone, Copy)]
pub(super) struct Map<'a> {
    pub(super) values: &'a [f32],
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
}
