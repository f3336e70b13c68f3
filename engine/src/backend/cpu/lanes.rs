//! Sixteen f32 lanes on each instruction set, and code that is compiled once for each. Knows nothing of tensors.
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
    /// AVX-512F and the dot product of bf16 pairs, which products with bf16 weights then use.
    Avx512Bf16,
}

/// Work that runs on lanes of any instruction set.
pub(super) trait Kernel {
    /// Has to be inlined, or it is compiled for the portable set.
    fn run<L: Lanes>(self);
}

impl Isa {
    /// All that this machine runs, the best last.
    pub fn available() -> Vec<Self> {
        let mut isas = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 = avx2 && has!("avx512f");
            isas.extend(avx2.then_some(Self::Avx2));
            isas.extend(avx512.then_some(Self::Avx512));
            isas.extend((avx512 && has!("avx512bf16")).then_some(Self::Avx512Bf16));
        }
        isas
    }

    /// The one whose products are fastest here. Chosen by what the processor is, not by a clock: how a bf16 product rounds hangs on it.
    ///
    /// AMD's Zen 4 and 5 take a dot product of pairs as often as a multiplication, Intel's Sapphire and Emerald Rapids half as
    /// often as two multiplications (docs/cpu-backend.md).
    pub fn best() -> Self {
        let mut available = Self::available();
        if !is_amd() {
            available.retain(|isa| *isa != Self::Avx512Bf16);
        }
        available.pop().expect("the portable kernels run everywhere")
    }

    /// Rows of the largest tile of a product.
    pub(super) fn tile_rows(self) -> usize {
        match self {
            Self::Portable => <[f32; 16]>::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => x86::Avx512::TILE_ROWS,
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("only x86-64 has these"),
        }
    }

    /// Runs a kernel on this instruction set, which the machine has: a `Cpu` is made of no other.
    pub(super) fn run(self, kernel: impl Kernel) {
        match self {
            Self::Portable => kernel.run::<[f32; 16]>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` found AVX2, FMA and F16C.
            Self::Avx2 => unsafe { x86::avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` found AVX-512F.
            Self::Avx512 => unsafe { x86::avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` found AVX-512F and its bf16 extension.
            Self::Avx512Bf16 => unsafe { x86::avx512_bf16(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("only x86-64 has these"),
        }
    }
}

fn is_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // The vendor's name stands in three registers.
        let id = std::arch::x86_64::__cpuid(0);
        [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Sixteen values. `add_product` rounds once on every instruction set, so that results agree bit for bit.
pub(super) trait Lanes: Copy {
    /// Rows of the largest tile whose sums stay in registers, two vectors a row.
    const TILE_ROWS: usize;

    fn load(values: &[f32; 16]) -> Self;
    fn load_bf16(bits: &[u16; 16]) -> Self;
    fn load_f16(bits: &[u16; 16]) -> Self;
    /// The lower and the upper bf16 of each pair.
    fn load_bf16_pairs(pairs: &[u32; 16]) -> [Self; 2];
    /// As they are, for `add_dot`.
    fn load_bits(bits: &[u32; 16]) -> Self;
    fn splat(value: f32) -> Self;
    fn mul(self, other: Self) -> Self;
    fn add_product(self, a: Self, b: Self) -> Self;
    /// Adds the products of a pair of bf16 with the pairs of each lane. Only where the instruction set is `Avx512Bf16`.
    fn add_dot(self, pair: u32, bits: Self) -> Self;
    fn store(self, values: &mut [f32; 16]);
    /// Asks for the cache line where a value begins, which is read soon. The address need not be valid.
    fn prefetch<T>(_: *const T) {}
}

impl Lanes for [f32; 16] {
    const TILE_ROWS: usize = 2;

    #[inline(always)]
    fn load(values: &[f32; 16]) -> Self {
        *values
    }
    #[inline(always)]
    fn load_bf16(bits: &[u16; 16]) -> Self {
        bits.map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn load_f16(bits: &[u16; 16]) -> Self {
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn load_bf16_pairs(pairs: &[u32; 16]) -> [Self; 2] {
        [pairs.map(|pair| f32::from_bits(pair << 16)), pairs.map(|pair| f32::from_bits(pair & 0xffff_0000))]
    }
    #[inline(always)]
    fn load_bits(bits: &[u32; 16]) -> Self {
        bits.map(f32::from_bits)
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 16]
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i].mul_add(b[i], self[i]))
    }
    #[inline(always)]
    fn add_dot(self, pair: u32, bits: Self) -> Self {
        let [low, high] = Self::load_bf16_pairs(&bits.map(f32::to_bits));
        let [x_low, x_high] = Self::load_bf16_pairs(&[pair; 16]);
        self.add_product(x_high, high).add_product(x_low, low)
    }
    #[inline(always)]
    fn store(self, values: &mut [f32; 16]) {
        *values = self;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, Lanes};

    /// # Safety
    /// The machine must have these features.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2(kernel: impl Kernel) {
        kernel.run::<Avx2>();
    }

    /// # Safety
    /// The machine must have these features.
    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    pub(super) unsafe fn avx512(kernel: impl Kernel) {
        kernel.run::<Avx512>();
    }

    /// # Safety
    /// The machine must have these features.
    #[target_feature(enable = "avx512bf16,avx512f,avx2,fma,f16c")]
    pub(super) unsafe fn avx512_bf16(kernel: impl Kernel) {
        kernel.run::<Avx512>();
    }

    /// Used only inside kernels with AVX2, FMA and F16C enabled.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        const TILE_ROWS: usize = 3;

        #[inline(always)]
        fn load(v: &[f32; 16]) -> Self {
            // SAFETY: 16 values lie at the pointer; the instruction set was detected.
            unsafe { Self(_mm256_loadu_ps(v.as_ptr()), _mm256_loadu_ps(v.as_ptr().add(8))) }
        }
        #[inline(always)]
        fn load_bf16(v: &[u16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(v.as_ptr().cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(v.as_ptr().add(8).cast()));
                Self(
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
                )
            }
        }
        #[inline(always)]
        fn load_f16(v: &[u16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let low = _mm_loadu_si128(v.as_ptr().cast());
                Self(_mm256_cvtph_ps(low), _mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().add(8).cast())))
            }
        }
        #[inline(always)]
        fn load_bf16_pairs(v: &[u32; 16]) -> [Self; 2] {
            // SAFETY: 16 values of 4 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
                let (a, b) =
                    (_mm256_loadu_si256(v.as_ptr().cast()), _mm256_loadu_si256(v.as_ptr().add(8).cast()));
                let low = Self(
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
                );
                let high = Self(
                    _mm256_castsi256_ps(_mm256_and_si256(a, upper)),
                    _mm256_castsi256_ps(_mm256_and_si256(b, upper)),
                );
                [low, high]
            }
        }
        #[inline(always)]
        fn load_bits(v: &[u32; 16]) -> Self {
            Self::load(&v.map(f32::from_bits))
        }
        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
        #[inline(always)]
        fn add_dot(self, _: u32, _: Self) -> Self {
            unreachable!("AVX2 has no dot product of bf16 pairs")
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
    pub(super) struct Avx512(__m512);

    impl Lanes for Avx512 {
        const TILE_ROWS: usize = 12;

        #[inline(always)]
        fn load(v: &[f32; 16]) -> Self {
            // SAFETY: 16 values lie at the pointer; the instruction set was detected.
            unsafe { Self(_mm512_loadu_ps(v.as_ptr())) }
        }
        #[inline(always)]
        fn load_bf16(v: &[u16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(v.as_ptr().cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
            }
        }
        #[inline(always)]
        fn load_f16(v: &[u16; 16]) -> Self {
            // SAFETY: 16 values of 2 bytes lie at the pointer; the instruction set was detected.
            unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().cast()))) }
        }
        #[inline(always)]
        fn load_bf16_pairs(v: &[u32; 16]) -> [Self; 2] {
            // SAFETY: 16 values of 4 bytes lie at the pointer; the instruction set was detected.
            unsafe {
                let bits = _mm512_loadu_si512(v.as_ptr().cast());
                let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
                let low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits));
                [Self(low), Self(_mm512_castsi512_ps(_mm512_and_si512(bits, upper)))]
            }
        }
        #[inline(always)]
        fn load_bits(v: &[u32; 16]) -> Self {
            // SAFETY: 16 values of 4 bytes lie at the pointer; the instruction set was detected.
            unsafe { Self(_mm512_castsi512_ps(_mm512_loadu_si512(v.as_ptr().cast()))) }
        }
        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm512_set1_ps(value)) }
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the instruction set was detected.
            unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }
        #[inline(always)]
        fn add_dot(self, pair: u32, bits: Self) -> Self {
            // SAFETY: both are 64 bytes of any bits; the caller has found the bf16 extension.
            unsafe {
                let pair = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair.cast_signed()));
                let bits = std::mem::transmute::<__m512, __m512bh>(bits.0);
                Self(_mm512_dpbf16_ps(self.0, pair, bits))
            }
        }
        #[inline(always)]
        fn store(self, v: &mut [f32; 16]) {
            // SAFETY: 16 values lie at the pointer; the instruction set was detected.
            unsafe { _mm512_storeu_ps(v.as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn prefetch<T>(value: *const T) {
            // SAFETY: a hint, which reads nothing and faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(value.cast()) }
        }
    }
}
