//! Sixteen f32 lanes on each instruction set. Knows nothing of tensors.
#![expect(unsafe_code, reason = "intrinsics of an instruction set that was detected")]

use half::{bf16, f16};

/// Instruction set of the kernels, found once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// What the compiler makes of plain loops.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512F.
    Avx512,
}

impl Isa {
    /// All that this machine runs, the best last.
    pub fn available() -> Vec<Self> {
        let mut isas = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            isas.extend(avx2.then_some(Self::Avx2));
            isas.extend((avx2 && has!("avx512f")).then_some(Self::Avx512));
        }
        isas
    }
}

/// Sixteen values. `add_product` rounds once on every instruction set, so that results agree bit for bit.
pub(super) trait Lanes: Copy {
    fn load(values: &[f32; 16]) -> Self;
    fn load_bf16(values: &[bf16; 16]) -> Self;
    fn load_f16(values: &[f16; 16]) -> Self;
    fn splat(value: f32) -> Self;
    fn add_product(self, a: Self, b: Self) -> Self;
    fn store(self, values: &mut [f32; 16]);
}

/// A stored weight's type.
pub(super) trait Stored: Copy + Send + Sync {
    fn lanes<L: Lanes>(values: &[Self; 16]) -> L;
}

impl Stored for f32 {
    #[inline(always)]
    fn lanes<L: Lanes>(values: &[Self; 16]) -> L {
        L::load(values)
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn lanes<L: Lanes>(values: &[Self; 16]) -> L {
        L::load_bf16(values)
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn lanes<L: Lanes>(values: &[Self; 16]) -> L {
        L::load_f16(values)
    }
}

impl Lanes for [f32; 16] {
    #[inline(always)]
    fn load(values: &[f32; 16]) -> Self {
        *values
    }
    #[inline(always)]
    fn load_bf16(values: &[bf16; 16]) -> Self {
        values.map(bf16::to_f32)
    }
    #[inline(always)]
    fn load_f16(values: &[f16; 16]) -> Self {
        values.map(f16::to_f32)
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 16]
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i].mul_add(b[i], self[i]))
    }
    #[inline(always)]
    fn store(self, values: &mut [f32; 16]) {
        *values = self;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::Lanes;

    /// Used only inside kernels with AVX2, FMA and F16C enabled.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        #[inline(always)]
        fn load(v: &[f32; 16]) -> Self {
            // SAFETY: 16 values lie at the pointer; the instruction set was detected.
            unsafe { Self(_mm256_loadu_ps(v.as_ptr()), _mm256_loadu_ps(v.as_ptr().add(8))) }
        }
        #[inline(always)]
        fn load_bf16(v: &[bf16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let widen = |p| {
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p))))
                };
                Self(widen(v.as_ptr().cast()), widen(v.as_ptr().add(8).cast()))
            }
        }
        #[inline(always)]
        fn load_f16(v: &[f16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let widen = |p| _mm256_cvtph_ps(_mm_loadu_si128(p));
                Self(widen(v.as_ptr().cast()), widen(v.as_ptr().add(8).cast()))
            }
        }
        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
        #[inline(always)]
        fn store(self, v: &mut [f32; 16]) {
            // SAFETY: 16 values lie at the pointer; the instruction set was detected.
            unsafe {
                _mm256_storeu_ps(v.as_mut_ptr(), self.0);
                _mm256_storeu_ps(v.as_mut_ptr().add(8), self.1);
            }
        }
    }

    /// Used only inside kernels with AVX-512F enabled.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    impl Lanes for Avx512 {
        #[inline(always)]
        fn load(v: &[f32; 16]) -> Self {
            // SAFETY: 16 values lie at the pointer; the instruction set was detected.
            unsafe { Self(_mm512_loadu_ps(v.as_ptr())) }
        }
        #[inline(always)]
        fn load_bf16(v: &[bf16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(v.as_ptr().cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
            }
        }
        #[inline(always)]
        fn load_f16(v: &[f16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().cast()))) }
        }
        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm512_set1_ps(value)) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }
        #[inline(always)]
        fn store(self, v: &mut [f32; 16]) {
            // SAFETY: 16 values lie at the pointer; the instruction set was detected.
            unsafe { _mm512_storeu_ps(v.as_mut_ptr(), self.0) }
        }
    }
}
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};
