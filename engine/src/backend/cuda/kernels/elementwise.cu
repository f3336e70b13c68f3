// Activations, sums and casts over n values, one thread a value. No shared memory.

__device__ __forceinline__ i64 index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

// x[n] = x Phi(x), by the error function.
extern "C" __global__ void gelu(T *x, i64 n) {
    i64 i = index();
    if (i >= n) return;
    float value = widen(x[i]);
    narrow(0.5f * value * (1.0f + erff(value * 0.70710678f)), &x[i]);
}

// out[m, f] = silu(gate) up, n = m f, where a row of gate_up[m, 2 f] is the gate's f values, then up's.
extern "C" __global__ void silu_mul(T *out, const T *gate_up, int f, i64 n) {
    i64 i = index();
    if (i >= n) return;
    const T *row = gate_up + i / f * 2 * f + i % f;
    float gate = widen(row[0]);
    narrow(gate / (1.0f + expf(-gate)) * widen(row[f]), &out[i]);
}

// x[n] += y[n].
extern "C" __global__ void add(T *x, const T *y, i64 n) {
    i64 i = index();
    if (i < n) narrow(widen(x[i]) + widen(y[i]), &x[i]);
}

extern "C" __global__ void to_f32(float *out, const T *x, i64 n) {
    i64 i = index();
    if (i < n) out[i] = widen(x[i]);
}
