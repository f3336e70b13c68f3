//! Products of matrices by cuBLAS, of CUDA 12 or 13, row-major as everywhere here: cuBLAS sees each matrix transposed. Sums are f32. Knows no layer.
#![expect(unsafe_code, reason = "cuBLAS is a C library")]

use std::ffi::{c_int, c_longlong, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasMath_t, cublasOperation_t, cudaDataType,
};
use cudarc::driver::CudaStream;

use super::compile::Element;
use super::error::{CudaError, driver};
use super::library::{Library, Missing, entry};

type Handle = *mut c_void;
type Gemm = unsafe extern "C" fn(
    Handle,
    cublasOperation_t,
    cublasOperation_t,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    cudaDataType,
    c_int,
    c_longlong,
    *const c_void,
    cudaDataType,
    c_int,
    c_longlong,
    *const c_void,
    *mut c_void,
    cudaDataType,
    c_int,
    c_longlong,
    c_int,
    cublasComputeType_t,
    cublasGemmAlgo_t,
) -> c_int;

/// The library's entry points that are used here.
struct Api {
    create: unsafe extern "C" fn(*mut Handle) -> c_int,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    set_stream: unsafe extern "C" fn(Handle, *mut c_void) -> c_int,
    set_math_mode: unsafe extern "C" fn(Handle, cublasMath_t) -> c_int,
    gemm: Gemm,
}

impl Api {
    fn load() -> Result<Self, Missing> {
        // SAFETY: types as in cuBLAS's header, which has kept them since CUDA 11.
        unsafe {
            Ok(Self {
                create: entry(Library::Cublas, "cublasCreate_v2")?,
                destroy: entry(Library::Cublas, "cublasDestroy_v2")?,
                set_stream: entry(Library::Cublas, "cublasSetStream_v2")?,
                set_math_mode: entry(Library::Cublas, "cublasSetMathMode")?,
                gemm: entry(Library::Cublas, "cublasGemmStridedBatchedEx")?,
            })
        }
    }
}

/// A handle on one stream.
pub(super) struct Blas {
    api: Api,
    handle: Handle,
    element: cudaDataType,
    /// The handle's, and so alive as long.
    stream: Arc<CudaStream>,
}

impl std::fmt::Debug for Blas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blas").field("element", &self.element).finish_non_exhaustive()
    }
}

/// A batch of matrices: the address of the first value, values from row to row, and values from matrix to matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrices {
    pub(super) pointer: u64,
    pub(super) row: usize,
    pub(super) next: usize,
}

/// Whether the right factor stands as it is multiplied, or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// `b[k, n]`.
    AsIs,
    /// `b[n, k]`.
    Transposed,
}

/// Type of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// As the factors.
    Element,
    /// Not rounded.
    F32,
}

/// `out[batch, m, n] = a[batch, m, k] b`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) what: &'static str,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) batch: usize,
    pub(super) a: Matrices,
    pub(super) b: Matrices,
    pub(super) right: Right,
    pub(super) out: Matrices,
    pub(super) output: Output,
}

impl Blas {
    /// Products of f32 are computed in f32, not in TF32: the CPU is their oracle.
    pub(super) fn new(stream: &Arc<CudaStream>, element: Element) -> Result<Self, CudaError> {
        let what = "open cuBLAS";
        let element = match element {
            Element::F32 => cudaDataType::CUDA_R_32F,
            Element::Bf16 => cudaDataType::CUDA_R_16BF,
            Element::F16 => cudaDataType::CUDA_R_16F,
        };
        let mut blas = Self { api: Api::load()?, handle: null_mut(), element, stream: Arc::clone(stream) };
        stream.context().bind_to_thread().map_err(driver(what))?;
        // SAFETY: a handle is written to a variable of its type, in the context that is this thread's.
        check(what, unsafe { (blas.api.create)(&raw mut blas.handle) })?;
        // SAFETY: a live handle and a live stream, which the handle keeps.
        check(what, unsafe { (blas.api.set_stream)(blas.handle, blas.stream.cu_stream().cast()) })?;
        // SAFETY: a live handle.
        check(what, unsafe { (blas.api.set_math_mode)(blas.handle, cublasMath_t::CUBLAS_DEFAULT_MATH) })?;
        Ok(blas)
    }

    /// Queues a product. Nothing is done where one side has no values.
    pub(super) fn product(&self, product: &Product) -> Result<(), CudaError> {
        let Product { what, m, n, k, batch, a, b, right, out, output } = *product;
        if m * n * batch == 0 {
            return Ok(());
        }
        let [m, n, k, batch] = [m, n, k, batch].map(int);
        let (one, zero) = (1.0_f32, 0.0_f32);
        // Row-major out[m, n] is column-major out[n, m], and so the factors change places.
        let first = match right {
            Right::AsIs => cublasOperation_t::CUBLAS_OP_N,
            Right::Transposed => cublasOperation_t::CUBLAS_OP_T,
        };
        let out_type = match output {
            Output::Element => self.element,
            Output::F32 => cudaDataType::CUDA_R_32F,
        };
        // SAFETY: the callers in this folder pass matrices that lie in their buffers; tests run every product over guarded memory.
        let queued = unsafe {
            (self.api.gemm)(
                self.handle,
                first,
                cublasOperation_t::CUBLAS_OP_N,
                n,
                m,
                k,
                (&raw const one).cast::<c_void>(),
                b.pointer as *const c_void,
                self.element,
                int(b.row),
                b.next as i64,
                a.pointer as *const c_void,
                self.element,
                int(a.row),
                a.next as i64,
                (&raw const zero).cast::<c_void>(),
                out.pointer as *mut c_void,
                out_type,
                int(out.row),
                out.next as i64,
                batch,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        check(what, queued)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: a live handle, destroyed once. A failure would leak it, no more.
            let _ = unsafe { (self.api.destroy)(self.handle) };
        }
    }
}

/// A status that is not 0 is an error, with its name in cuBLAS's header.
fn check(what: &'static str, status: c_int) -> Result<(), CudaError> {
    let status = match status {
        0 => return Ok(()),
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        16 => "CUBLAS_STATUS_LICENSE_ERROR",
        _ => "a status that is not known here",
    };
    Err(CudaError::Blas { what, status })
}

fn int(length: usize) -> c_int {
    c_int::try_from(length).expect("a matrix has fewer than 2^31 rows and columns")
}
