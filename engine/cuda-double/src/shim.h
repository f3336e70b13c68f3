// Put before every kernel source when g++ takes NVRTC's place. State is filled in by the double (fiber.rs).
#include <math.h>
#include <stdint.h>
#include <string.h>
#define CHARIOT_DOUBLE 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("chariot_shared")))
struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
struct ChariotState {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    void (*wait)(unsigned kind, unsigned mask, unsigned site);
    char *dynamic;
    uint64_t slot[1024];
};
extern "C" { ChariotState chariot_state; }
// So that a source without shared memory has the section too.
__shared__ char chariot_anchor[16] __attribute__((used));
extern "C" char __start_chariot_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_chariot_shared[] __attribute__((visibility("hidden")));
extern "C" void chariot_shared_range(char **from, char **to) { *from = __start_chariot_shared; *to = __stop_chariot_shared; }
#define threadIdx (chariot_state.thread)
#define blockIdx (chariot_state.block)
#define blockDim (chariot_state.block_dim)
#define gridDim (chariot_state.grid_dim)
static const int warpSize = 32;
static inline unsigned chariot_flat() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
#define __syncthreads() chariot_state.wait(0, 0, __LINE__)
static inline void __syncwarp(unsigned mask = 0xffffffffu) { chariot_state.wait(1, mask, 0); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
// Every lane puts its value down; all of the mask have when the wait returns.
template <class V> static inline V chariot_exchange(unsigned mask, V v, unsigned from) {
    unsigned flat = chariot_flat();
    static_assert(sizeof(V) <= 8, "at most 8 bytes travel between lanes");
    chariot_state.slot[flat] = 0;
    memcpy(&chariot_state.slot[flat], &v, sizeof v);
    chariot_state.wait(1, mask, 1);
    V out;
    memcpy(&out, &chariot_state.slot[(flat & ~31u) | (from & 31u)], sizeof out);
    chariot_state.wait(1, mask, 2);
    return out;
}
#define CHARIOT_LANE (chariot_flat() & 31u)
template <class V> static inline V __shfl_sync(unsigned mask, V v, int from, int width = 32) {
    return chariot_exchange(mask, v, (CHARIOT_LANE & ~(unsigned)(width - 1)) | ((unsigned)from & (width - 1)));
}
template <class V> static inline V __shfl_xor_sync(unsigned mask, V v, int bits, int width = 32) {
    unsigned lane = CHARIOT_LANE, from = lane ^ (unsigned)bits;
    return chariot_exchange(mask, v, from / width > lane / width ? lane : from);
}
template <class V> static inline V __shfl_down_sync(unsigned mask, V v, unsigned by, int width = 32) {
    unsigned lane = CHARIOT_LANE, in = lane & (width - 1);
    return chariot_exchange(mask, v, in + by < (unsigned)width ? lane + by : lane);
}
template <class V> static inline V __shfl_up_sync(unsigned mask, V v, unsigned by, int width = 32) {
    unsigned lane = CHARIOT_LANE, in = lane & (width - 1);
    return chariot_exchange(mask, v, in >= by ? lane - by : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int vote) {
    unsigned bits = 0, flat = chariot_flat();
    chariot_state.slot[flat] = vote != 0;
    chariot_state.wait(1, mask, 3);
    for (unsigned lane = 0; lane < 32; lane++)
        if ((mask >> lane & 1) && (flat & ~31u) + lane < blockDim.x * blockDim.y * blockDim.z)
            bits |= (unsigned)chariot_state.slot[(flat & ~31u) | lane] << lane;
    chariot_state.wait(1, mask, 4);
    return bits;
}
static inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
static inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }
// One fiber runs at a time, and none is interrupted: plain read-modify-write is atomic here.
template <class V> static inline V atomicAdd(V *at, V v) { V old = *at; *at = old + v; return old; }
template <class V> static inline V atomicSub(V *at, V v) { V old = *at; *at = old - v; return old; }
template <class V> static inline V atomicMax(V *at, V v) { V old = *at; if (v > old) *at = v; return old; }
template <class V> static inline V atomicMin(V *at, V v) { V old = *at; if (v < old) *at = v; return old; }
template <class V> static inline V atomicOr(V *at, V v) { V old = *at; *at = old | v; return old; }
template <class V> static inline V atomicExch(V *at, V v) { V old = *at; *at = v; return old; }
template <class V> static inline V atomicCAS(V *at, V is, V v) { V old = *at; if (old == is) *at = v; return old; }
template <class V> static inline V __ldg(const V *at) { return *at; }
template <class To, class From> static inline To chariot_bits(From v) { To out; memcpy(&out, &v, sizeof out); return out; }
static inline unsigned __float_as_uint(float v) { return chariot_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return chariot_bits<int>(v); }
static inline float __uint_as_float(unsigned v) { return chariot_bits<float>(v); }
static inline float __int_as_float(int v) { return chariot_bits<float>(v); }
static inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
// glibc has functions of these names.
#define __expf expf
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// Rounded one by one, as g++ is told not to contract.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
template <class V> static inline V min(V a, V b) { return b < a ? b : a; }
template <class V> static inline V max(V a, V b) { return a < b ? b : a; }
// Calls a kernel with arguments that lie packed one after another, each at a multiple of 16.
template <int... I> struct ChariotIndices {};
template <int N, int... I> struct ChariotUpTo : ChariotUpTo<N - 1, N - 1, I...> {};
template <int... I> struct ChariotUpTo<0, I...> { typedef ChariotIndices<I...> all; };
template <class... A, int... I> static void chariot_apply(void (*f)(A...), void **p, ChariotIndices<I...>) { f(*(A *)p[I]...); }
template <class... A> static void chariot_call(void (*f)(A...), void **p) { chariot_apply(f, p, typename ChariotUpTo<sizeof...(A)>::all()); }
template <class... A> static int chariot_sizes(void (*)(A...), int *out) {
    int sizes[] = {(int)sizeof(A)..., 0};
    memcpy(out, sizes, sizeof...(A) * sizeof(int));
    return sizeof...(A);
}
#line 1 "kernel.cu"
