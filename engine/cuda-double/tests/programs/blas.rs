//! cuBLAS's products against plain loops in f64.
#![expect(unsafe_code, reason = "calls cuBLAS")]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublas::sys::{self, cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType};
use cudarc::cublas::{CudaBlas, result::CublasError};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use half::{bf16, f16};

use crate::{passes, passes_with, reports};

const TYPES: [cudaDataType; 3] =
    [cudaDataType::CUDA_R_32F, cudaDataType::CUDA_R_16F, cudaDataType::CUDA_R_16BF];

fn encode(values: &[f32], kind: cudaDataType) -> Vec<u8> {
    let bytes = |value: &f32| match kind {
        cudaDataType::CUDA_R_32F => value.to_ne_bytes().to_vec(),
        cudaDataType::CUDA_R_16F => f16::from_f32(*value).to_ne_bytes().to_vec(),
        _ => bf16::from_f32(*value).to_ne_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

fn decode(bytes: &[u8], kind: cudaDataType) -> Vec<f32> {
    match kind {
        cudaDataType::CUDA_R_32F => bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect(),
        cudaDataType::CUDA_R_16F => {
            bytes.as_chunks().0.iter().map(|b| f16::from_ne_bytes(*b).to_f32()).collect()
        }
        _ => bytes.as_chunks().0.iter().map(|b| bf16::from_ne_bytes(*b).to_f32()).collect(),
    }
}

/// A batch of products of m x k and k x n, two columns longer than they need be.
struct Case {
    ops: [bool; 2],
    kind: cudaDataType,
    out: cudaDataType,
    sizes: [usize; 3],
    batch: usize,
    factors: [f32; 2],
}

const PAD: usize = 2;

impl Case {
    /// Leading dimension and values of a batch's matrix of these rows and columns, transposed or not.
    fn shape(rows: usize, columns: usize, is_transposed: bool) -> [usize; 2] {
        let (rows, columns) = if is_transposed { (columns, rows) } else { (rows, columns) };
        [rows + PAD, (rows + PAD) * columns]
    }

    fn shapes(&self) -> [[usize; 2]; 3] {
        let [m, n, k] = self.sizes;
        [Self::shape(m, k, self.ops[0]), Self::shape(k, n, self.ops[1]), Self::shape(m, n, false)]
    }

    fn queue(
        &self,
        blas: &CudaBlas,
        stream: &Arc<CudaStream>,
        [a, b, c]: [&CudaSlice<u8>; 3],
    ) -> Result<(), CublasError> {
        let op = |is: bool| if is { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N };
        let [m, n, k] = self.sizes.map(|size| size as i32);
        let [lda, ldb, ldc] = self.shapes().map(|[leading, _]| leading as i32);
        let [sa, sb, sc] = self.shapes().map(|[_, stride]| stride as i64);
        let [a, b, c] = [a, b, c].map(|slice| slice.device_ptr(stream).0 as *mut c_void);
        let [alpha, beta] = self.factors.each_ref().map(|factor| std::ptr::from_ref(factor).cast::<c_void>());
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let algorithm = cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        // SAFETY: live slices and numbers; what does not fit is what the double finds.
        unsafe {
            sys::cublasGemmStridedBatchedEx(
                *blas.handle(),
                op(self.ops[0]),
                op(self.ops[1]),
                m,
                n,
                k,
                alpha,
                a,
                self.kind,
                lda,
                sa,
                b,
                self.kind,
                ldb,
                sb,
                beta,
                c,
                self.out,
                ldc,
                sc,
                self.batch as i32,
                compute,
                algorithm,
            )
            .result()
        }
    }

    fn values(&self, seed: usize, which: usize) -> Vec<f32> {
        let count = self.batch * self.shapes()[which][1];
        let kind = if which == 2 { self.out } else { self.kind };
        let values: Vec<f32> = (0..count).map(|i| ((i * 37 + seed) % 61) as f32 / 61.0 - 0.5).collect();
        decode(&encode(&values, kind), kind)
    }

    fn expected(&self, a: &[f32], b: &[f32], c: &[f32]) -> Vec<(usize, f64)> {
        let ([m, n, k], [sa, sb, sc]) = (self.sizes, self.shapes());
        let at = |[leading, stride]: [usize; 2], batch, i, j, is: bool| {
            batch * stride + if is { i * leading + j } else { j * leading + i }
        };
        let mut expected = Vec::new();
        for batch in 0..self.batch {
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let term = |t| {
                    let (a, b) = (a[at(sa, batch, i, t, self.ops[0])], b[at(sb, batch, t, j, self.ops[1])]);
                    f64::from(a) * f64::from(b)
                };
                let place = at(sc, batch, i, j, false);
                let old = if self.factors[1] == 0.0 { 0.0 } else { f64::from(self.factors[1] * c[place]) };
                expected.push((place, f64::from(self.factors[0]) * (0..k).map(term).sum::<f64>() + old));
            }
        }
        expected
    }

    fn run(&self) {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let blas = CudaBlas::new(stream.clone()).unwrap();
        let [a, b, c] = [0, 1, 2].map(|which| self.values(11 * which, which));
        let put = |values: &[f32], kind| stream.clone_htod(&encode(values, kind)).unwrap();
        let (a_there, b_there, mut c_there) = (put(&a, self.kind), put(&b, self.kind), put(&c, self.out));
        if self.factors[1] == 0.0 {
            // SAFETY: poison, which nothing reads where beta is 0.
            c_there = unsafe { stream.alloc(c_there.len()).unwrap() };
        }
        self.queue(&blas, &stream, [&a_there, &b_there, &c_there]).unwrap();
        let found = decode(&stream.clone_dtoh(&c_there).unwrap(), self.out);
        let tolerance = match self.out {
            cudaDataType::CUDA_R_32F => 1e-6,
            cudaDataType::CUDA_R_16F => 1.0 / 2048.0,
            _ => 1.0 / 256.0,
        };
        for (place, expected) in self.expected(&a, &b, &c) {
            let error = (f64::from(found[place]) - expected).abs();
            assert!(error <= tolerance * expected.abs() + 2e-6, "{place}: {} for {expected}", found[place]);
        }
    }
}

#[test]
fn products_of_all_types_and_operations() {
    passes("blas::products_of_all_types_and_operations", || {
        for (kind, out) in TYPES.iter().flat_map(|kind| [(*kind, *kind), (*kind, TYPES[0])]) {
            for (ops, factors) in [[false, false], [false, true], [true, false], [true, true]]
                .into_iter()
                .zip([[1.0, 0.0], [0.5, 0.0], [1.0, 1.0], [2.0, -0.5]])
            {
                Case { ops, kind, out, sizes: [67, 5, 33], batch: 3, factors }.run();
                Case { ops, kind, out, sizes: [1, 64, 7], batch: 1, factors }.run();
            }
        }
    });
}

fn plain(sizes: [usize; 3]) -> Case {
    let [kind, ..] = TYPES;
    Case { ops: [false; 2], kind, out: kind, sizes, batch: 1, factors: [1.0, 0.0] }
}

#[test]
fn an_operand_out_of_its_allocation_is_named() {
    let expected = "gemm of m 4, n 2, k 3: operand B (ld 5, batch 0) of 32 bytes: ends 4 bytes past the end of allocation 1 (28 bytes)";
    reports("blas::an_operand_out_of_its_allocation_is_named", expected, || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let blas = CudaBlas::new(stream.clone()).unwrap();
        let [a, b, c] = [18, 7, 12].map(|count| stream.alloc_zeros::<u8>(4 * count).unwrap());
        plain([4, 2, 3]).queue(&blas, &stream, [&a, &b, &c]).unwrap();
        assert!(stream.synchronize().is_err());
    });
}

#[test]
fn poison_of_an_operand_comes_out() {
    passes("blas::poison_of_an_operand_comes_out", || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let blas = CudaBlas::new(stream.clone()).unwrap();
        let a = stream.alloc_zeros::<u8>(4 * 6).unwrap();
        // SAFETY: poison, which is what is tested.
        let (b, c) = unsafe { (stream.alloc::<u8>(4 * 8).unwrap(), stream.alloc::<u8>(4 * 8).unwrap()) };
        plain([1, 2, 2]).queue(&blas, &stream, [&a, &b, &c]).unwrap();
        let found = decode(&stream.clone_dtoh(&c).unwrap(), TYPES[0]);
        assert!(found[0].is_nan() && found[3].is_nan(), "{found:?}");
    });
}

#[test]
fn a_short_leading_dimension_is_refused() {
    reports(
        "blas::a_short_leading_dimension_is_refused",
        "leading dimension of A is 3, less than its 4 rows",
        || {
            let context = CudaContext::new(0).unwrap();
            let blas = CudaBlas::new(context.default_stream()).unwrap();
            let (op, one) = (cublasOperation_t::CUBLAS_OP_N, std::ptr::from_ref(&1f32).cast());
            let at = std::ptr::dangling_mut::<c_void>();
            let (compute, algorithm) =
                (cublasComputeType_t::CUBLAS_COMPUTE_32F, cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT);
            let gemm = |a: *mut c_void, lda, c: *mut c_void| {
                // SAFETY: refused before anything is read.
                let status = unsafe {
                    sys::cublasGemmEx(
                        *blas.handle(),
                        op,
                        op,
                        4,
                        4,
                        4,
                        one,
                        a,
                        TYPES[0],
                        lda,
                        at,
                        TYPES[0],
                        4,
                        one,
                        c,
                        TYPES[0],
                        4,
                        compute,
                        algorithm,
                    )
                };
                assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE);
            };
            gemm(at, 3, at);
            gemm(std::ptr::null_mut(), 4, at);
            gemm(at, 4, std::ptr::null_mut());
        },
    );
}

#[test]
fn a_wrong_product_on_purpose() {
    passes_with("blas::a_wrong_product_on_purpose", &[("CHARIOT_DOUBLE_WRONG", "gemm")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let blas = CudaBlas::new(stream.clone()).unwrap();
        let [a, b, c] = [12, 8, 12].map(|count| stream.alloc_zeros::<u8>(4 * count).unwrap());
        plain([2, 2, 2]).queue(&blas, &stream, [&a, &b, &c]).unwrap();
        let found = decode(&stream.clone_dtoh(&c).unwrap(), TYPES[0]);
        assert_eq!(found[..2], [1.0, 0.0]);
    });
}
