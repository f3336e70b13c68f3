// Greedy decoding. Draws by temperature and top_p take their logits to the host: engine/src/model/sampler.rs sorts stably and sums in
// f64, and another order of the sum would draw other tokens.

// tokens[rows] and largest[rows] of logits[rows, stride], token 0 being `first`, the rank's first; of equal logits the first, as the
// CPU takes it. Of a row `vocab` values count: a rank's share of the vocabulary may be padded. One block of whole warps a row.
extern "C" __global__ void argmax(u32 *tokens, float *largest, const float *logits, u32 first, int stride, int vocab) {
    __shared__ float most_of[32];  // A warp's largest,
    __shared__ int index_of[32];   // and where it is.
    const float *row = logits + (i64)blockIdx.x * stride;
    float most = NO_SCORE;
    int index = vocab;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        if (row[i] > most || index == vocab) {
            most = row[i];
            index = i;
        }
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
        float other = __shfl_xor_sync(ALL_LANES, most, step);
        int other_index = __shfl_xor_sync(ALL_LANES, index, step);
        if (other > most || (other == most && other_index < index)) {
            most = other;
            index = other_index;
        }
    }
    if (threadIdx.x % WARP == 0) {
        most_of[threadIdx.x / WARP] = most;
        index_of[threadIdx.x / WARP] = index;
    }
    __syncthreads();  // Every warp's largest is there.
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < (int)blockDim.x / WARP; warp++) {
        if (most_of[warp] > most || (most_of[warp] == most && index_of[warp] < index)) {
            most = most_of[warp];
            index = index_of[warp];
        }
    }
    tokens[blockIdx.x] = first + index;
    largest[blockIdx.x] = most;
}
