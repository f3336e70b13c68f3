// Causal softmax for the prefill by GEMMs, and decode attention over the paged cache (layout: rotary.cu).

// shares[heads tokens, keys] = softmax(scale scores), of one chunk whose first token has `context` tokens before it: row r is token
// r % tokens and sees context + token + 1 keys; the others' shares are 0. One block of whole warps a row.
extern "C" __global__ void causal_softmax(T *shares, const float *scores, float scale, int tokens, int keys, int context) {
    __shared__ float room[32];  // block_max's and block_sum's.
    i64 start = (i64)blockIdx.x * keys;
    int seen = context + blockIdx.x % tokens + 1;
    if (seen > keys) seen = keys;
    float most = NO_SCORE;
    for (int i = threadIdx.x; i < seen; i += blockDim.x) most = fmaxf(most, scores[start + i] * scale);
    most = block_max(most, room);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < seen; i += blockDim.x) sum += expf(scores[start + i] * scale - most);
    sum = block_sum(sum, room);
    for (int i = threadIdx.x; i < keys; i += blockDim.x)
        narrow(i < seen ? expf(scores[start + i] * scale - most) / sum : 0.0f, &shares[start + i]);
}

#define HEADS 8         // Query heads of one KV head that share a read of its keys.
#define LANE_VALUES 8   // Values of a head that a lane holds: heads of at most 256.
#define DECODE_WARPS 4

// One new token a sequence. Grid (splits, kv_heads * ceil(group / HEADS), seqs), group = query_heads / kv_heads; blocks of
// DECODE_WARPS warps. Warp w of split s takes every (splits DECODE_WARPS)-th key from s DECODE_WARPS + w on, and leaves in
// partial[seqs, query_heads, splits DECODE_WARPS, head_dim + 2] the largest score, the sum of exponents, and the weighted values.
// Warps meet only in `combine`, so there is no shared memory and no barrier.
extern "C" __global__ void paged_decode(float *partial, const T *qkv, const T *keys, const T *values, const u32 *lengths,
                                        const u32 *tables, int table_width, int block_size, int query_heads, int kv_heads,
                                        int head_dim, float scale) {
    int group = query_heads / kv_heads, tiles = (group + HEADS - 1) / HEADS;
    int kv_head = blockIdx.y / tiles, first = blockIdx.y % tiles * HEADS;
    int count = group - first < HEADS ? group - first : HEADS;
    int lane = threadIdx.x % WARP, parts = gridDim.x * DECODE_WARPS, part = blockIdx.x * DECODE_WARPS + threadIdx.x / WARP;
    const u32 *table = tables + (i64)blockIdx.z * table_width;
    const T *queries = qkv + (i64)blockIdx.z * (query_heads + 2 * kv_heads) * head_dim + (kv_head * group + first) * head_dim;
    float query[HEADS][LANE_VALUES], out[HEADS][LANE_VALUES], most[HEADS], sum[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        most[h] = NO_SCORE;
        sum[h] = 0.0f;
#pragma unroll
        for (int j = 0; j < LANE_VALUES; j++) {
            int i = j * WARP + lane;
            out[h][j] = 0.0f;
            query[h][j] = h < count && i < head_dim ? widen(queries[h * head_dim + i]) * scale : 0.0f;
        }
    }
    for (int position = part; position < (int)lengths[blockIdx.z]; position += parts) {
        i64 block = table[position / block_size];
        i64 at = ((block * kv_heads + kv_head) * block_size + position % block_size) * head_dim;
        float key[LANE_VALUES], value[LANE_VALUES];
#pragma unroll
        for (int j = 0; j < LANE_VALUES; j++) {
            int i = j * WARP + lane;
            key[j] = i < head_dim ? widen(keys[at + i]) : 0.0f;
            value[j] = i < head_dim ? widen(values[at + i]) : 0.0f;
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h >= count) break;  // The same in all lanes.
            float score = 0.0f;
#pragma unroll
            for (int j = 0; j < LANE_VALUES; j++) score += query[h][j] * key[j];
            score = warp_sum(score);
            float next = fmaxf(most[h], score);
            float keep = expf(most[h] - next), share = expf(score - next);
            most[h] = next;
            sum[h] = sum[h] * keep + share;
#pragma unroll
            for (int j = 0; j < LANE_VALUES; j++) out[h][j] = out[h][j] * keep + share * value[j];
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h >= count) break;
        float *to = partial + (((i64)blockIdx.z * query_heads + kv_head * group + first + h) * parts + part) * (head_dim + 2);
        if (lane == 0) {
            to[0] = most[h];
            to[1] = sum[h];
        }
#pragma unroll
        for (int j = 0; j < LANE_VALUES; j++)
            if (j * WARP + lane < head_dim) to[2 + j * WARP + lane] = out[h][j];
    }
}

// out[seqs query_heads, head_dim] of partial[seqs query_heads, parts, head_dim + 2]. One block a row of out. A part without keys has
// the largest score minus infinity and counts nothing; at least one part has a key.
extern "C" __global__ void combine(T *out, const float *partial, int parts, int head_dim) {
    const float *from = partial + (i64)blockIdx.x * parts * (head_dim + 2);
    float most = NO_SCORE;
    for (int part = 0; part < parts; part++) most = fmaxf(most, from[part * (head_dim + 2)]);
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) {
        float sum = 0.0f, value = 0.0f;
        for (int part = 0; part < parts; part++) {
            const float *one = from + part * (head_dim + 2);
            float factor = expf(one[0] - most);
            sum += one[1] * factor;
            value += one[2 + i] * factor;
        }
        narrow(value / sum, &out[(i64)blockIdx.x * head_dim + i]);
    }
}
