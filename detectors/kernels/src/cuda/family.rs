//! Kernels as text, compiled by NVRTC for the GPU that is there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::CudaDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaFunction;
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use super::cache;
use crate::{CompileError, Error, Result};

/// A file of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Alignment,
    Channels,
    Conv,
    Elementwise,
    Losses,
    Maps,
    Norm,
    Optimisers,
    Pool,
    Ranking,
    Relations,
    RoiAlign,
    RowLosses,
    Rows,
    Sampling,
    Suppression,
}

/// Type of a map's numbers in memory, `element` in the kernels' text: a family is compiled for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F32,
    Bf16,
}

macro_rules! text {
    ($($file:literal),+) => {
        concat!(include_str!("kernels/prelude.cuh"), $(include_str!(concat!("kernels/", $file))),+)
    };
}

impl Family {
    const ALL: [Self; 16] = [
        Self::Alignment,
        Self::Channels,
        Self::Conv,
        Self::Elementwise,
        Self::Losses,
        Self::Maps,
        Self::Norm,
        Self::Optimisers,
        Self::Pool,
        Self::Ranking,
        Self::Relations,
        Self::RoiAlign,
        Self::RowLosses,
        Self::Rows,
        Self::Sampling,
        Self::Suppression,
    ];

    /// Name of its module, and its text.
    fn name_and_text(self) -> (&'static str, &'static str) {
        match self {
            Self::Alignment => ("ckd_alignment", text!("alignment.cu")),
            Self::Channels => ("ckd_channels", text!("channels.cu")),
            Self::Conv => ("ckd_conv", text!("conv.cu")),
            Self::Elementwise => ("ckd_elementwise", text!("elementwise.cu")),
            Self::Losses => ("ckd_losses", text!("losses.cu")),
            Self::Maps => ("ckd_maps", text!("maps.cu")),
            Self::Norm => ("ckd_norm", text!("norm.cu")),
            Self::Optimisers => ("ckd_optimisers", text!("optimisers.cu")),
            Self::Pool => ("ckd_pool", text!("pool.cu")),
            Self::Ranking => ("ckd_ranking", text!("selection.cuh", "ranking.cu")),
            Self::Relations => ("ckd_relations", text!("softmax.cuh", "relations.cu")),
            Self::RoiAlign => ("ckd_roi_align", text!("roi_align.cu")),
            Self::RowLosses => ("ckd_row_losses", text!("softmax.cuh", "row_losses.cu")),
            Self::Rows => ("ckd_rows", text!("rows.cu")),
            Self::Sampling => ("ckd_sampling", text!("sampling.cu")),
            Self::Suppression => ("ckd_suppression", text!("selection.cuh", "suppression.cu")),
        }
    }

    /// Name of its module for maps of `element`, and its text.
    fn module(self, element: Element) -> (String, &'static str) {
        let (name, text) = self.name_and_text();
        match element {
            Element::F32 => (name.to_owned(), text),
            Element::Bf16 => (format!("{name}_bf16"), text),
        }
    }

    /// Types of maps that its kernels take.
    fn elements(self) -> &'static [Element] {
        match self.name_and_text().1.contains("element *") {
            true => &[Element::F32, Element::Bf16],
            false => &[Element::F32],
        }
    }

    /// Its PTX for maps of `element`, for GPUs of `architecture` and newer ones.
    fn ptx(self, element: Element, architecture: &str) -> std::result::Result<String, CompileError> {
        let (family, text) = self.module(element);
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into()];
        // Thresholds of boxes fall as on the host.
        if self == Self::Suppression {
            options.push("--fmad=false".into());
        }
        if element == Element::Bf16 {
            options.push("--define-macro=ELEMENTS_ARE_BF16".into());
        }
        let options = CompileOptions { options, name: Some(family.clone()), ..Default::default() };
        match compile_ptx_with_opts(text, options) {
            Ok(ptx) => Ok(ptx.to_src()),
            Err(error) => {
                Err(CompileError { family, architecture: architecture.into(), reason: format!("{error:?}") })
            }
        }
    }

    /// Its PTX from the user's cache folder, or compiled and put there.
    fn cached_ptx(self, element: Element, architecture: &str) -> std::result::Result<String, CompileError> {
        let (name, text) = self.module(element);
        let mut hasher = DefaultHasher::new();
        (text, architecture, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        let file = format!("{name}-{architecture}-{:016x}.ptx", hasher.finish());
        if let Some(ptx) = cache::read(&file) {
            return Ok(ptx);
        }
        let ptx = self.ptx(element, architecture)?;
        cache::keep(&file, &ptx);
        Ok(ptx)
    }
}

/// Compiles all kernels for `architecture` (compute_80, say), without a GPU and without the cache.
///
/// # Errors
/// Message of the compiler.
pub fn compile_all(architecture: &str) -> std::result::Result<Vec<(String, String)>, CompileError> {
    let modules = |family: Family| family.elements().iter().map(move |&element| (family, element));
    let compiled = |(family, element): (Family, Element)| {
        Ok((family.module(element).0, family.ptx(element, architecture)?))
    };
    Family::ALL.into_iter().flat_map(modules).map(compiled).collect()
}

/// A kernel of a GPU, and what its text wants.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub(crate) function: CudaFunction,
    pub(crate) parameters: std::sync::Arc<[Parameter]>,
}

/// Kind of a kernel's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// Numbers of a map: f32 or bf16, as the kernel was compiled.
    Elements,
    F32s,
    Bf16s,
    F64s,
    Bytes,
    I32s,
    I64s,
    Structs,
    F32,
    F64,
    I32,
    I64,
}

/// Kernels by device, family, type of maps and name.
type Loaded = HashMap<(usize, Family, Element, &'static str), Kernel>;

/// Kernels that were used before. Looking one up costs no call of the driver.
static LOADED: LazyLock<Mutex<Loaded>> = LazyLock::new(Mutex::default);

/// The kernel `name` of `family` for maps of `element`; the family is compiled when the first one of it is asked for.
pub(crate) fn kernel(
    device: &CudaDevice,
    family: Family,
    element: Element,
    name: &'static str,
) -> Result<Kernel> {
    let context = device.cuda_stream().context().clone();
    let key = (context.ordinal(), family, element, name);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kernel) = loaded.get(&key) {
        return Ok(kernel.clone());
    }
    let (module, text) = family.module(element);
    let parameters = parameters(text, name)
        .ok_or_else(|| Error::invalid("kernel", format!("{module} has no kernel {name} that can be read")))?;
    let (major, minor) = context.compute_capability().w()?;
    // candle loads a module once for its name, whatever text comes with it.
    let ptx = family.cached_ptx(element, &format!("compute_{major}{minor}"))?;
    let function = device.get_or_load_custom_func(name, &module, &ptx)?.into_cuda_function();
    let kernel = Kernel { function, parameters: parameters.into() };
    loaded.insert(key, kernel.clone());
    Ok(kernel)
}

/// Kinds of the parameters that the text of kernel `name` declares.
fn parameters(text: &str, name: &str) -> Option<Vec<Parameter>> {
    let start = text.match_indices(name).find_map(|(at, _)| {
        let before = text[..at].trim_end();
        let declares = before.ends_with("void") || before.ends_with(')');
        (declares && text[at + name.len()..].starts_with('(')).then_some(at + name.len() + 1)
    })?;
    let declared = &text[start..start + text[start..].find(')')?];
    declared.split(',').map(|parameter| kind(parameter.trim())).collect()
}

fn kind(parameter: &str) -> Option<Parameter> {
    let (of, _) = parameter.rsplit_once([' ', '*'])?;
    let of = of.trim().trim_start_matches("const ").trim();
    let pointer = parameter.contains('*');
    Some(match (of.trim_end_matches('*').trim(), pointer) {
        ("element", true) => Parameter::Elements,
        ("float", true) => Parameter::F32s,
        ("double", true) => Parameter::F64s,
        ("u8", true) => Parameter::Bytes,
        ("int", true) => Parameter::I32s,
        ("long long", true) => Parameter::I64s,
        (_, true) => Parameter::Structs,
        ("float", false) => Parameter::F32,
        ("double", false) => Parameter::F64,
        ("int", false) => Parameter::I32,
        ("long long", false) => Parameter::I64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_of_a_kernel_are_those_of_its_text() {
        let text = "extern \"C\" __global__ void __launch_bounds__(256)\nf(const float *x, element *w, u8 *y, int n, float s,\n\
                    \x20 long long m, const Part *parts, double *z) { f2(x); }";
        let wanted = [
            Parameter::F32s,
            Parameter::Elements,
            Parameter::Bytes,
            Parameter::I32,
            Parameter::F32,
            Parameter::I64,
            Parameter::Structs,
            Parameter::F64s,
        ];
        assert_eq!(parameters(text, "f").unwrap(), wanted);
        assert_eq!(parameters(text, "g"), None);
    }
}
