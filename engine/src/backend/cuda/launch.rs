//! Loads the kernels and launches them: the one place where arguments become a launch. Knows no tensor and no model.
#![expect(unsafe_code, reason = "launches kernels")]

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8Path;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::compile::{Element, cached, sources};
use super::error::{CudaError, driver};

/// An argument of a kernel, as its declaration says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    /// A device address; 0 is null.
    Pointer(u64),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
}

/// Kernels by file.
const KERNELS: [(&str, &[&str]); 7] = [
    ("attention", &["causal_softmax", "paged_decode", "combine"]),
    ("elementwise", &["gelu", "silu_mul", "add", "to_f32"]),
    ("embedding", &["embed", "gather_rows"]),
    ("flash", &["flash_prefill_64", "flash_prefill_128"]),
    ("norm", &["layer_norm", "rms_norm"]),
    ("rotary", &["rotate_store", "gather_kv"]),
    ("sampling", &["argmax", "draw"]),
];

/// The kernels of one dtype, loaded on one device.
#[derive(Debug)]
pub(super) struct Kernels {
    stream: Arc<CudaStream>,
    functions: BTreeMap<&'static str, CudaFunction>,
}

impl Kernels {
    /// Compiles what `folder` does not hold yet.
    pub(super) fn load(
        context: &Arc<CudaContext>,
        stream: &Arc<CudaStream>,
        folder: &Utf8Path,
        element: Element,
    ) -> Result<Self, CudaError> {
        let (major, minor) = context.compute_capability().map_err(driver("ask the GPU what it can do"))?;
        let capability = (10 * major + minor) as u32;
        let mut functions = BTreeMap::new();
        for source in sources(element) {
            let names = KERNELS.iter().find(|(file, _)| *file == source.name).map(|(_, names)| *names);
            let names = names.expect("every source's kernels are listed");
            let image = Ptx::from_binary(cached(folder, source, element, capability)?);
            let module = context.load_module(image).map_err(driver("load a kernel"))?;
            for name in names {
                let function = module.load_function(name).map_err(driver("find a kernel"))?;
                functions.insert(*name, function);
            }
        }
        Ok(Self { stream: Arc::clone(stream), functions })
    }

    /// Queues a kernel. Nothing is done for an empty grid.
    pub(super) fn launch(
        &self,
        name: &'static str,
        grid: [usize; 3],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let [x, y, z] = grid.map(|length| u32::try_from(length).expect("a grid is shorter than 2^32"));
        let function = &self.functions[name];
        let mut builder = self.stream.launch_builder(function);
        for argument in arguments {
            match argument {
                Argument::Pointer(value) => builder.arg(value),
                Argument::I32(value) => builder.arg(value),
                Argument::U32(value) => builder.arg(value),
                Argument::I64(value) => builder.arg(value),
                Argument::F32(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the callers in this folder pass what the kernel's declaration asks for, of memory as large as its comment says; tests
        // run every kernel over guarded memory.
        unsafe { builder.launch(config) }.map(|_| ()).map_err(driver(name))
    }
}
