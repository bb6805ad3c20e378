//! Kernel alignment of feature maps, patch by patch (RCKA's form for detection, called PCKA;
//! Zhou et al., arXiv 2401.11824).
//!
//! A map is resized (bilinear) up to a multiple of the patch's side and cut into n patches. Channel c of
//! a batch becomes the matrix X_c (n, N patch²): a row is a position of the grid, a column an image and a
//! pixel of the patch. The loss is the mean over channels of 1 - ka(X_c of the teacher, X_c of the
//! student); between columns it takes the transposes. The authors minimise -ka: the gradient is the same.
//!
//! Groups of neighbouring channels run in parallel, each on one thread. A map is read once: patches are
//! resized while they are cut, and besides the gradient a thread holds the matrices of its group only.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::gram::Gram;
use ckd_kernels::linear::product_on_this_thread;
use ckd_kernels::memory::{channels_last, elements, from_channels_last};
use ckd_kernels::patches::{GROUP, Patches, Strides};
use ckd_settings::{Check, section};
use rayon::prelude::*;

use super::distiller::{DistillError, Distiller};
use super::ka::{Kernel, Ratio, RowNorm, Wanted, align, center_columns};
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;
use super::scalar::{nothing, scalar_of};

const NAME: &str = "rcka";

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

section! {
    /// Relaxed centred kernel alignment in its patch form, PCKA: per level and
    /// channel, the similarities between the patches of the student are to equal the teacher's.
    pub struct Rcka with place: Maps {
        /// Weight of the term between patches (intra).
        pub weight: f32 = 10.0,
        /// Weight of the term between pixels of a patch (inter); 0 leaves it out. A weight of its own: in the
        /// authors' code it only switches the term on.
        pub weight_inter: f32 = 0.0,
        /// Height and width of a patch in cells of the level.
        pub patch: usize = 16,
        /// Centre the kernels. The authors' code does not, in spite of the name.
        pub center: bool = false,
        /// Effect of the length of a row. The authors' detection configurations leave it alone.
        pub row_norm: RowNorm = RowNorm::Off,
    }
}

impl Rcka {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("patch", self.patch);
    }
}

impl Method for Rcka {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Zhou et al., IJCAI 2024, arXiv 2401.11824";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight), ("weight_inter", self.weight_inter)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let (patch, kernel) = (self.patch, Kernel { center: self.center, row_norm: self.row_norm });
        let mut maps = OnMaps::new(NAME, &self.place)?;
        let kinds =
            [("intra", PatchRows::Patches, self.weight), ("inter", PatchRows::Pixels, self.weight_inter)];
        for (kind, rows, weight) in
            kinds.into_iter().filter(|(kind, _, weight)| *kind == "intra" || *weight != 0.0)
        {
            maps = maps.kind(kind, weight.into(), move |_, teacher, student| {
                patch_cka(teacher, student, rows, patch, kernel)
            });
        }
        Ok(Box::new(maps))
    }
}

/// The mean over channels of 1 - ka of two feature maps, patch by patch.
///
/// 0 if the map is a single patch or empty. A channel that is zero in either map counts 1, without a
/// gradient.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar in [0, 1].
///
/// # Errors
/// Shapes that differ or are not maps; patches without pixels.
pub fn patch_cka(
    teacher: &Tensor,
    student: &Value,
    rows: PatchRows,
    patch: usize,
    kernel: Kernel,
) -> Result<Value, DistillError> {
    let dims = check(teacher, student, patch)?;
    let (images, channels, height, width) = dims;
    let patches = Patches::new(dims, patch)?;
    if student.tensor().elem_count() == 0 || patches.count() == 1 {
        return nothing(student);
    }
    let shape = Shape::new(&patches, rows, kernel);
    let (teacher, host) = (channels_last(teacher)?, channels_last(student.tensor())?);
    let (teacher, map) = (elements(&teacher)?, elements(&host)?);
    let wanted = if student.is_tracked() { Wanted::ValueAndGradient } else { Wanted::Value };
    let task = |scratch: &mut Scratch, index: usize| {
        let group = index * GROUP..((index + 1) * GROUP).min(channels);
        let width = group.len();
        patches.cut(&teacher, group.clone(), shape.strides, &mut scratch.x);
        patches.cut(&map, group, shape.strides, &mut scratch.y);
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
    if !student.is_tracked() {
        return scalar_of(student, loss, None);
    }
    let tensor = Tensor::new(loss as f32, student.tensor().device())?;
    Ok(Value::operation(&[student], tensor, move |incoming| {
        let share = incoming.reshape(())?.to_scalar::<f32>()? / -(channels as f32);
        let gradient = patches.join(&gradients, share);
        Ok(vec![Some(from_channels_last(gradient, (images, height, width, channels), incoming)?)])
    }))
}

/// (N, C, H, W) of both maps.
fn check(
    teacher: &Tensor,
    student: &Value,
    patch: usize,
) -> Result<(usize, usize, usize, usize), DistillError> {
    let (&[n, c, h, w], &[teacher_n, teacher_c, teacher_h, teacher_w]) = (student.dims(), teacher.dims())
    else {
        let reason = format!(
            "maps (N, C, H, W) expected, got teacher {:?} and student {:?}",
            teacher.dims(),
            student.dims()
        );
        return Err(DistillError::invalid(NAME, reason));
    };
    let shapes = || format!("teacher {:?}, student {:?}", teacher.dims(), student.dims());
    if teacher_c != c {
        let reason =
            format!("both maps need the same channels: {}; give both pyramids the same width", shapes());
        return Err(DistillError::invalid(NAME, reason));
    }
    if (teacher_n, teacher_h, teacher_w) != (n, h, w) {
        let reason = format!("both maps need the same images and sizes: {}", shapes());
        return Err(DistillError::invalid(NAME, reason));
    }
    if patch == 0 {
        return Err(DistillError::invalid(NAME, "a patch needs at least one cell"));
    }
    Ok((n, c, h, w))
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
