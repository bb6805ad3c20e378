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

    /// Its PTX for GPUs of `architecture` and newer ones.
    fn ptx(self, architecture: &str) -> std::result::Result<String, CompileError> {
        let (family, text) = self.name_and_text();
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into()];
        // Thresholds of boxes fall as on the host.
        if self == Self::Suppression {
            options.push("--fmad=false".into());
        }
        let options = CompileOptions { options, name: Some(family.into()), ..Default::default() };
        match compile_ptx_with_opts(text, options) {
            Ok(ptx) => Ok(ptx.to_src()),
            Err(error) => {
                Err(CompileError { family, architecture: architecture.into(), reason: format!("{error:?}") })
            }
        }
    }

    /// Its PTX from the user's cache folder, or compiled and put there.
    fn cached_ptx(self, architecture: &str) -> std::result::Result<String, CompileError> {
        let (name, text) = self.name_and_text();
        let mut hasher = DefaultHasher::new();
        (text, architecture, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        let file = format!("{name}-{architecture}-{:016x}.ptx", hasher.finish());
        if let Some(ptx) = cache::read(&file) {
            return Ok(ptx);
        }
        let ptx = self.ptx(architecture)?;
        cache::keep(&file, &ptx);
        Ok(ptx)
    }
}

/// Compiles all kernels for `architecture` (compute_80, say), without a GPU and without the cache.
///
/// # Errors
/// Message of the compiler.
pub fn compile_all(architecture: &str) -> std::result::Result<Vec<(&'static str, String)>, CompileError> {
    Family::ALL.into_iter().map(|family| Ok((family.name_and_text().0, family.ptx(architecture)?))).collect()
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
    F32s,
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

/// Kernels by device, family and name.
type Loaded = HashMap<(usize, Family, &'static str), Kernel>;

/// Kernels that were used before. Looking one up costs no call of the driver.
static LOADED: LazyLock<Mutex<Loaded>> = LazyLock::new(Mutex::default);

/// The kernel `name` of `family`; the family is compiled when the first one of it is asked for.
pub(crate) fn kernel(device: &CudaDevice, family: Family, name: &'static str) -> Result<Kernel> {
    let context = device.cuda_stream().context().clone();
    let key = (context.ordinal(), family, name);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kernel) = loaded.get(&key) {
        return Ok(kernel.clone());
    }
    let (module, text) = family.name_and_text();
    let parameters = parameters(text, name)
        .ok_or_else(|| Error::invalid("kernel", format!("{module} has no kernel {name} that can be read")))?;
    let (major, minor) = context.compute_capability().w()?;
    // candle loads a module once for its name, whatever text comes with it.
    let ptx = family.cached_ptx(&format!("compute_{major}{minor}"))?;
    let function = device.get_or_load_custom_func(name, module, &ptx)?.into_cuda_function();
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
        let text = "extern \"C\" __global__ void __launch_bounds__(256)\nf(const float *x, u8 *y, int n, float s,\n\
                    \x20 long long m, const Part *parts, double *z) { f2(x); }";
        let wanted = [
            Parameter::F32s,
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
