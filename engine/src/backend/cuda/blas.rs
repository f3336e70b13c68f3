//! Products of matrices by cuBLAS, row-major as everywhere here: cuBLAS sees each matrix transposed. Sums are f32. Knows no layer.
#![expect(unsafe_code, reason = "cuBLAS is a C library")]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasMath_t, cublasOperation_t, cublasSetMathMode, cudaDataType,
};
use cudarc::cublas::{CudaBlas, result};
use cudarc::driver::CudaStream;

use super::compile::Element;
use super::error::{CudaError, blas};

/// A handle on one stream.
#[derive(Debug)]
pub(super) struct Blas {
    handle: CudaBlas,
    element: cudaDataType,
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
        let handle = CudaBlas::new(Arc::clone(stream)).map_err(blas("open cuBLAS"))?;
        // SAFETY: a live handle.
        unsafe { cublasSetMathMode(*handle.handle(), cublasMath_t::CUBLAS_DEFAULT_MATH) }
            .result()
            .map_err(blas("open cuBLAS"))?;
        let element = match element {
            Element::F32 => cudaDataType::CUDA_R_32F,
            Element::Bf16 => cudaDataType::CUDA_R_16BF,
            Element::F16 => cudaDataType::CUDA_R_16F,
        };
        Ok(Self { handle, element })
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
            result::gemm_strided_batched_ex(
                *self.handle.handle(),
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
        queued.map_err(blas(what))
    }
}

fn int(length: usize) -> c_int {
    c_int::try_from(length).expect("a matrix has fewer than 2^31 rows and columns")
}
