// Put before every source. Bare NVRTC has no headers: types, conversions, reductions and tiles are here. T is float, bf16 or f16, by
// -DELEMENT=; a macro named T would break NVRTC's own templates, which come later.
// A bf16 is converted by plain C, which the compiler makes two or three integer instructions of. Inline PTX has a plain twin, which
// the double runs (CHARIOT_DOUBLE).

typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

struct bf16 {
    unsigned short bits;
};
struct f16 {
    unsigned short bits;
};
typedef ELEMENT T;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// To the nearest, of two the even one; a NaN stays one.
__device__ __forceinline__ void narrow(float x, float *out) { *out = x; }
__device__ __forceinline__ void narrow(float x, bf16 *out) {
    u32 bits = __float_as_uint(x);
    u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out->bits = (unsigned short)(x != x ? 0x7fffu : rounded);
}

#ifndef CHARIOT_DOUBLE
__device__ __forceinline__ float widen(f16 x) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
}
__device__ __forceinline__ void narrow(float x, f16 *out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x)); }
#else
inline float widen(f16 x) {
    u32 sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 0x1fu, fraction = x.bits & 0x3ffu;
    float size = exponent == 31 ? __uint_as_float(0x7f800000u | fraction << 13)
                 : exponent == 0 ? fraction * 5.9604644775390625e-8f
                                 : __uint_as_float((exponent + 112) << 23 | fraction << 13);
    return __uint_as_float(__float_as_uint(size) | sign);
}
inline void narrow(float x, f16 *out) {
    u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    u32 half;
    if (size > 0x7f800000u) half = 0x7fffu, sign = 0;
    else if (size >= 0x477ff000u) half = 0x7c00u;  // From 65520 on, halfway beyond the largest.
    else if (size >= 0x38800000u) half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    else half = (u32)rintf(__uint_as_float(size) * 16777216.0f);  // A subnormal: steps of 2^-24, ties to even.
    out->bits = (unsigned short)(sign | half);
}
#endif

#define WARP 32
#define ALL_LANES 0xffffffffu
#define NO_SCORE (-__int_as_float(0x7f800000))

template <class V> __device__ __forceinline__ V warp_sum(V x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// Sum over a block of whole warps, at most 32. `room` has a value a warp.
template <class V> __device__ __forceinline__ V block_sum(V x, V *room) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();  // Every warp's sum is in `room`.
    V sum = 0;
    for (int warp = 0; warp < (int)blockDim.x / WARP; warp++) sum += room[warp];
    __syncthreads();  // Everybody has read `room`, which the next call writes.
    return sum;
}

// Largest over a block, as block_sum.
__device__ __forceinline__ float block_max(float x, float *room) {
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();  // Every warp's largest is in `room`.
    float most = room[0];
    for (int warp = 1; warp < (int)blockDim.x / WARP; warp++) most = fmaxf(most, room[warp]);
    __syncthreads();  // Everybody has read `room`, which the next call writes.
    return most;
}

// Tiles for tensor cores, sm_80 on. A register holds two values of T of 16 bits, the first lower.
#ifndef CHARIOT_DOUBLE
// 16 bytes to shared memory, on their way until wait_for_copies; zeros if not `there`.
__device__ __forceinline__ void copy_16(void *to, const void *from, bool there) {
    u32 shared = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(there ? 16 : 0) : "memory");
}
// The thread's own copies; others' are there after a barrier that follows their wait.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four tiles of 8 x 8, of rows in shared memory: lane 8 t + r has the address of row r of tile t. A lane gets of each tile values
// 2 (lane % 4) and the next of row lane / 4.
__device__ __forceinline__ void load_tiles(u32 (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}
// The same of the tiles with rows and columns swapped.
__device__ __forceinline__ void load_tiles_swapped(u32 (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}

// d[16, 8] += a[16, 16] b[16, 8], laid out over the lanes as PTX has it for m16n8k16.
#define MULTIPLY(E)                                                                                                              \
    __device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 low, u32 high, E) {                            \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." #E "." #E ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "              \
            "{%0, %1, %2, %3};"                                                                                                  \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                                      \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low), "r"(high));                                                   \
    }                                                                                                                            \
    __device__ __forceinline__ u32 pack(float low, float high, E) {                                                               \
        u32 out;                                                                                                                 \
        asm("cvt.rn." #E "x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));                                                 \
        return out;                                                                                                              \
    }
MULTIPLY(bf16)
MULTIPLY(f16)

// 2^x; a result below the normal numbers is 0.
__device__ __forceinline__ float power_of_two(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
#else
// What lanes lay down for each other between two meetings of their warp; one fiber runs at a time.
static u32 laid_registers[32][WARP][6];
static const unsigned short *laid_rows[32][WARP];

inline void copy_16(void *to, const void *from, bool there) {
    if (there) memcpy(to, from, 16);
    else memset(to, 0, 16);
}
inline void wait_for_copies() {}

inline void load_twin(u32 (&out)[4], const void *row, bool swapped) {
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, across = lane / 4, along = lane % 4 * 2;
    laid_rows[warp][lane] = (const unsigned short *)row;
    __syncwarp();
    for (u32 tile = 0; tile < 4; tile++) {
        const unsigned short **rows = &laid_rows[warp][8 * tile];
        u32 first = swapped ? rows[along][across] : rows[across][along];
        u32 second = swapped ? rows[along + 1][across] : rows[across][along + 1];
        out[tile] = second << 16 | first;
    }
    __syncwarp();
}
inline void load_tiles(u32 (&out)[4], const void *row) { load_twin(out, row, false); }
inline void load_tiles_swapped(u32 (&out)[4], const void *row) { load_twin(out, row, true); }

template <class E> inline double value_of(u32 pair, u32 which) {
    E value;
    value.bits = (unsigned short)(pair >> 16 * which);
    return widen(value);
}
template <class E> inline void multiply(float (&d)[4], const u32 (&a)[4], u32 low, u32 high, E) {
    u32 lane = threadIdx.x % WARP, mine[6] = {a[0], a[1], a[2], a[3], low, high};
    u32(*lanes)[6] = laid_registers[threadIdx.x / WARP];
    memcpy(lanes[lane], mine, sizeof mine);
    __syncwarp();
    for (u32 i = 0; i < 4; i++) {
        double sum = 0.0;
        for (u32 k = 0; k < 16; k++) {
            u32 row = lanes[lane / 4 * 4 + k % 8 / 2][k / 8 * 2 + i / 2];
            u32 column = lanes[(lane % 4 * 2 + i % 2) * 4 + k % 8 / 2][4 + k / 8];
            sum += value_of<E>(row, k % 2) * value_of<E>(column, k % 2);
        }
        d[i] = (float)(sum + d[i]);
    }
    __syncwarp();
}
template <class E> inline u32 pack(float low, float high, E) {
    E one, other;
    narrow(low, &one);
    narrow(high, &other);
    return (u32)other.bits << 16 | one.bits;
}
inline float power_of_two(float x) { return exp2f(x); }
#endif
