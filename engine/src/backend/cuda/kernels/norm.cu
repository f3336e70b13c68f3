// Norms. One block of whole warps a row. Where `residual` is not null, x += residual comes first, and stays in x; a thread reads
// only what it wrote itself, so no barrier stands between. Weights and biases are f32 in all dtypes, as some checkpoints have them.

__device__ __forceinline__ void add_residual(T *x, const T *residual, int width) {
    if (residual == 0) return;
    for (int i = threadIdx.x; i < width; i += blockDim.x) narrow(widen(x[i]) + widen(residual[i]), &x[i]);
}

// y[rows, width] = (x - mean) / sqrt(variance + eps) * weight + bias.
extern "C" __global__ void layer_norm(T *y, T *x, const T *residual, const float *weight, const float *bias, float eps, int width) {
    __shared__ float room[32];  // block_sum's.
    i64 start = (i64)blockIdx.x * width;
    x += start;
    add_residual(x, residual == 0 ? residual : residual + start, width);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += widen(x[i]);
    float mean = block_sum(sum, room) / width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += (widen(x[i]) - mean) * (widen(x[i]) - mean);
    float scale = 1.0f / sqrtf(block_sum(squares, room) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        narrow((widen(x[i]) - mean) * scale * weight[i] + bias[i], &y[start + i]);
}

// y[rows, width] = x / sqrt(mean of squares + eps) * weight.
extern "C" __global__ void rms_norm(T *y, T *x, const T *residual, const float *weight, float eps, int width) {
    __shared__ float room[32];  // block_sum's.
    i64 start = (i64)blockIdx.x * width;
    x += start;
    add_residual(x, residual == 0 ? residual : residual + start, width);
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += widen(x[i]) * widen(x[i]);
    float scale = 1.0f / sqrtf(block_sum(squares, room) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) narrow(widen(x[i]) * scale * weight[i], &y[start + i]);
}
