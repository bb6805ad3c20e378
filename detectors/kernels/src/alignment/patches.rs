//! Kernel alignment of feature maps, patch by patch (RCKA's form for detection, called PCKA).
//!
//! Groups of neighbouring channels run in parallel, each on one thread. A map is read once: patches are
//! resized while they are cut, and besides the gradient a thread holds the matrices of its group only.

use candle_core::Tensor;
use rayon::prelude::*;

use super::kernel::{Kernel, RowNorm, Wanted};
use super::matrices::{Ratio, align, center_columns};
use crate::dispatch::{self, Host};
use crate::gram::Gram;
use crate::linear::product_on_this_thread;
use crate::memory::{channels_last, elements, from_channels_last, from_elements};
use crate::patches::{GROUP, Patches, Strides};
use crate::scalar::nothing;
use crate::{Error, Result, Value};

/// Numbers of a cache line.
const LINE: usize = 16;

/// Rows of the kernel of a map cut into patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchRows {
    /// Patches: which places of the grid look alike (the authors' intra term).
    Patches,
    /// Columns, an image and a pixel of the patch each (their inter term).
    Pixels,
}

/// The mean over channels of 1 - ka of two feature maps, patch by patch.
///
/// A map is resized (bilinear) up to a multiple of the patch's side and cut into n patches. Channel c of
/// a batch becomes the matrix X_c (n, N patch²): a row is a position of the grid, a column an image and a
/// pixel of the patch; [`PatchRows::Pixels`] takes the transposes. 0 if the map is a single patch or empty. A channel
/// that is zero in either map counts 1, without a gradient.
///
/// # Shapes
/// `x` and `y` (N, C, H, W); a scalar in [0, 1].
///
/// # Errors
/// Shapes that differ or are not maps; patches without pixels.
pub fn patch_misalignment(
    x: &Tensor,
    y: &Value,
    rows: PatchRows,
    patch: usize,
    kernel: Kernel,
) -> Result<Value> {
    let dims = y.tensor().dims4()?;
    if x.dims() != y.dims() {
        let reason = format!("maps {:?} and {:?} differ", x.dims(), y.dims());
        return Err(Error::invalid("patch_misalignment", reason));
    }
    let patches = Patches::new(dims, patch)?;
    if y.tensor().elem_count() == 0 || patches.count() == 1 {
        return nothing(y);
    }
    let wanted = Wanted::of(y);
    let maps = Maps { x, y: y.tensor(), dims, patches, rows, kernel, wanted };
    let Compared { loss, backward } = dispatch::run(y.tensor(), maps)?;
    Ok(Value::operation(&[y], loss, move |incoming| Ok(vec![Some(backward(incoming)?)])))
}

/// Two feature maps (N, C, H, W).
pub(super) struct Maps<'a> {
    pub(super) x: &'a Tensor,
    pub(super) y: &'a Tensor,
    /// (N, C, H, W).
    pub(super) dims: (usize, usize, usize, usize),
    pub(super) patches: Patches,
    pub(super) rows: PatchRows,
    pub(super) kernel: Kernel,
    pub(super) wanted: Wanted,
}

/// Makes the gradient by the second map of the loss's.
type Backward = Box<dyn FnOnce(&Tensor) -> Result<Tensor> + Send>;

/// Loss of two maps, and what makes the gradient by the second map of the loss's.
pub(super) struct Compared {
    pub(super) loss: Tensor,
    pub(super) backward: Backward,
}

impl Host for Maps<'_> {
    type Output = Compared;

    fn on_host(self) -> Result<Compared> {
        let Self { patches, rows, kernel, wanted, dims: (images, channels, height, width), .. } = self;
        let shape = Shape::new(&patches, rows, kernel);
        let (x, y) = (channels_last(self.x)?, channels_last(self.y)?);
        let (x, y) = (elements(&x)?, elements(&y)?);
        let task = |scratch: &mut Scratch, index: usize| {
            let group = index * GROUP..((index + 1) * GROUP).min(channels);
            let width = group.len();
            patches.cut(&x, group.clone(), shape.strides, &mut scratch.x);
            patches.cut(&y, group, shape.strides, &mut scratch.y);
            let values = scratch.align(&shape, width, wanted);
            // The gradient of a group of channels is a map of its own: every task owns what it writes.
            let mut gradient = Vec::new();
            if wanted == Wanted::ValueAndGradient {
                gradient.resize(width * patches.plane(), 0f32);
                patches.paste(&scratch.x, width, shape.strides, &mut gradient);
            }
            (values, gradient)
        };
        let tasks = (0..channels.div_ceil(GROUP)).into_par_iter();
        // Few pieces, as each makes a scratch of its own.
        let tasks = tasks.with_min_len(channels.div_ceil(GROUP * 2 * rayon::current_num_threads()));
        let done = tasks.map_init(|| Scratch::new(&shape), task);
        let (values, gradients): (Vec<Vec<f64>>, Vec<Vec<f32>>) = done.unzip();
        let loss = 1.0 - values.iter().flatten().sum::<f64>() / channels as f64;
        let backward = move |incoming: &Tensor| {
            let share = incoming.reshape(())?.to_scalar::<f32>()? / -(channels as f32);
            let gradient = patches.join(&gradients, share);
            from_channels_last(gradient, (images, height, width, channels), incoming)
        };
        Ok(Compared { loss: from_elements(vec![loss as f32], (), self.y)?, backward: Box::new(backward) })
    }
}

/// The matrix of a channel, and how matrices are compared.
struct Shape {
    rows: usize,
    width: usize,
    /// Numbers of a matrix.
    size: usize,
    strides: Strides,
    kernel: Kernel,
    form: Form,
}

/// Layout of a channel's matrices in memory, by the way their kernels are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Column after column, each filled up for [`Gram`]: through the kernels themselves, which are symmetric.
    Columns,
    /// Row after row: the general case.
    Rows,
}

impl Shape {
    fn new(patches: &Patches, rows: PatchRows, kernel: Kernel) -> Self {
        let (count, pixels) = (patches.count(), patches.pixels());
        let (rows_count, width) = match rows {
            PatchRows::Patches => (count, pixels),
            PatchRows::Pixels => (pixels, count),
        };
        // Many short rows are compared through their columns, which `align` can.
        let form = match kernel.row_norm {
            RowNorm::Off if 3 * rows_count <= 5 * width => Form::Columns,
            _ => Form::Rows,
        };
        let (row, column, size) = match form {
            Form::Columns => (1, Gram::padded(rows_count), width * Gram::padded(rows_count)),
            Form::Rows => (width, 1, rows_count * width),
        };
        // A line more: matrices at a distance of whole pages would displace each other from the first cache.
        let matrix = size.next_multiple_of(LINE) + LINE;
        let strides = match rows {
            PatchRows::Patches => Strides { patch: row, pixel: column, matrix },
            PatchRows::Pixels => Strides { patch: column, pixel: row, matrix },
        };
        Self { rows: rows_count, width, size, strides, kernel, form }
    }
}

/// Scratch of a thread: the matrices of a group of channels, and two kernels.
struct Scratch {
    x: Vec<f32>,
    y: Vec<f32>,
    kernels: Option<(Gram, Gram)>,
}

impl Scratch {
    fn new(shape: &Shape) -> Self {
        // Zeros fill columns up; nothing else is ever written there.
        let zeros = || vec![0f32; GROUP * shape.strides.matrix];
        let kernels = (shape.form == Form::Columns).then(|| (Gram::new(shape.rows), Gram::new(shape.rows)));
        Self { x: zeros(), y: zeros(), kernels }
    }

    /// The alignments of the first `channels` pairs of matrices; the derivatives by those in `y` take the
    /// place of those in `x`, if wanted.
    fn align(&mut self, shape: &Shape, channels: usize, wanted: Wanted) -> Vec<f64> {
        let Self { x, y, kernels } = self;
        let stride = shape.strides.matrix;
        let pairs = x.chunks_exact_mut(stride).zip(y.chunks_exact_mut(stride)).take(channels);
        let align_pair = |(x, y): (&mut [f32], &mut [f32])| match kernels {
            Some((k, l)) => align_columns(x, y, shape, (k, l), wanted),
            None => {
                let sizes = (shape.rows, shape.width, shape.width);
                let pair = (x.to_vec(), y.to_vec());
                let aligned = align(pair.0, pair.1, sizes, shape.kernel, wanted, product_on_this_thread);
                if let Some(gradient) = aligned.gradient {
                    x.copy_from_slice(&gradient);
                }
                aligned.value
            }
        };
        pairs.map(|(x, y)| (&mut x[..shape.size], &mut y[..shape.size])).map(align_pair).collect()
    }
}

/// Alignment without row norms, [`align`] of matrices given by columns; `x` becomes the derivatives by `y`,
/// if wanted.
fn align_columns(
    x: &mut [f32],
    y: &mut [f32],
    shape: &Shape,
    (k, l): (&mut Gram, &mut Gram),
    wanted: Wanted,
) -> f64 {
    let center = |columns: &mut [f32]| {
        if shape.kernel.center {
            for column in columns.chunks_exact_mut(Gram::padded(shape.rows)) {
                center_columns(&mut column[..shape.rows], 1);
            }
        }
    };
    center(x);
    center(y);
    k.set_to_products(x);
    l.set_to_products(y);
    let ratio = Ratio::of(k.inner_product(l), k.inner_product(k), l.inner_product(l));
    if wanted == Wanted::ValueAndGradient {
        // L is Y Yᵀ: its derivative counts twice.
        k.combine(2.0 * ratio.by_cross as f32, l, 2.0 * ratio.by_own as f32);
        k.multiply(y, x);
        center(x);
    }
    ratio.value
}
