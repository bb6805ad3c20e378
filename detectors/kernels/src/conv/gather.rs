//! Gathering the taps of pixels into the rows of a matrix, and how much of it a task takes.

use super::geometry::{Geometry, Tap};

/// A channels-last map to gather from, restricted to one group of channels.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) values: &'a [f32],
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
    pub(super) first: usize,
    pub(super) channels: usize,
}

impl Source<'_> {
    /// Appends the taps of `count` pixels (base row `y`, base columns `x0`, `x0 + step`, ...) of image `n`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn gather(
        &self,
        taps: &[Tap],
        n: usize,
        y: isize,
        x0: isize,
        step: isize,
        count: usize,
        rows: &mut [f32],
    ) {
        let width = taps.len() * self.channels;
        for (t, tap) in taps.iter().enumerate() {
            let at_y = y + tap.dy;
            let inside_y = at_y >= 0 && (at_y as usize) < self.h;
            for i in 0..count {
                let at_x = x0 + i as isize * step + tap.dx;
                let to = &mut rows[i * width + t * self.channels..][..self.channels];
                if inside_y && at_x >= 0 && (at_x as usize) < self.w {
                    let pixel = (n * self.h + at_y as usize) * self.w + at_x as usize;
                    to.copy_from_slice(&self.values[pixel * self.c + self.first..][..self.channels]);
                } else {
                    to.fill(0.0);
                }
            }
        }
    }
}

/// Floats of one gathered tile: half of a typical 1 MiB L2 cache.
const TILE: usize = 128 * 1024;

/// Output pixels per tile for rows of `width` gathered floats.
pub(super) fn tile_pixels(width: usize) -> usize {
    (TILE / width.max(1)).clamp(16, 1024)
}

/// Rows of maps of width `w`, over `rows` rows, that one task takes: about four tiles, and enough tasks for all threads.
pub(super) fn band_rows(rows: usize, w: usize, width: usize) -> usize {
    let whole = (4 * tile_pixels(width)).div_ceil(w.max(1));
    whole.min(rows.div_ceil(4 * rayon::current_num_threads())).max(1)
}

/// Gathers the taps of `count` output pixels from flat pixel `first` on.
pub(super) fn gather_pixels(
    source: &Source,
    taps: &[Tap],
    first: usize,
    count: usize,
    geometry: &Geometry,
    tile: &mut [f32],
) {
    let &Geometry { config, oh, ow, .. } = geometry;
    let width = taps.len() * source.channels;
    let mut done = 0;
    while done < count {
        let pixel = first + done;
        let (image_row, column) = (pixel / ow, pixel % ow);
        let run = (ow - column).min(count - done);
        let y = ((image_row % oh) * config.stride[0]) as isize;
        let x = (column * config.stride[1]) as isize;
        let rows = &mut tile[done * width..];
        source.gather(taps, image_row / oh, y, x, config.stride[1] as isize, run, rows);
        done += run;
    }
}
