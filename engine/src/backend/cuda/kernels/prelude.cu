// Put before every source. Bare NVRTC has no headers: types, conversions and reductions are here. T is float or bf16, by
// -DELEMENT=; a macro named T would break NVRTC's own templates, which come later.
// No inline PTX: a bf16 is converted by plain C, which the compiler makes two or three integer instructions of.

typedef unsigned int u32;
typedef long long i64;

struct bf16 {
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

#define WARP 32
#define ALL_LANES 0xffffffffu
#define NO_SCORE (-__int_as_float(0x7f800000))

__device__ __forceinline__ float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// Sum over a block of whole warps, at most 32. `room` has a float a warp.
__device__ __forceinline__ float block_sum(float x, float *room) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();  // Every warp's sum is in `room`.
    float sum = 0.0f;
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
