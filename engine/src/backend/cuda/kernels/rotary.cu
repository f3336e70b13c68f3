// Rotary embedding and the paged KV cache. Keys and values lie as [blocks, kv_heads, block_size, head_dim]: a warp that reads one
// head's keys of a block reads whole lines, which the CPU's layout, vectors over tokens, would not give. No shared memory.

__device__ __forceinline__ i64 slot(const u32 *table, int position, int head, int kv_heads, int block_size, int head_dim) {
    i64 block = table[position / block_size];
    return ((block * kv_heads + head) * block_size + position % block_size) * head_dim;
}

// Turns query and key heads of qkv[rows, (query_heads + 2 kv_heads) head_dim] in place by cosines and sines [positions, head_dim / 2],
// and stores keys and values. Row r is token positions[r] of sequence seqs[r], whose blocks are tables[seqs[r], table_width].
extern "C" __global__ void rotate_store(T *qkv, T *keys, T *values, const float *cosines, const float *sines, const u32 *positions,
                                        const u32 *seqs, const u32 *tables, int table_width, int block_size, int query_heads,
                                        int kv_heads, int head_dim) {
    int half = head_dim / 2;
    int position = positions[blockIdx.x];
    const u32 *table = tables + (i64)seqs[blockIdx.x] * table_width;
    T *row = qkv + (i64)blockIdx.x * (query_heads + 2 * kv_heads) * head_dim;
    for (int pair = threadIdx.x; pair < (query_heads + kv_heads) * half; pair += blockDim.x) {
        int head = pair / half, i = pair % half;
        float cos = cosines[(i64)position * half + i], sin = sines[(i64)position * half + i];
        T *at = row + head * head_dim + i;
        float low = widen(at[0]), high = widen(at[half]);
        narrow(low * cos - high * sin, &at[0]);
        narrow(high * cos + low * sin, &at[half]);
        if (head >= query_heads) {
            T *key = keys + slot(table, position, head - query_heads, kv_heads, block_size, head_dim) + i;
            key[0] = at[0];
            key[half] = at[half];
        }
    }
    const T *from = row + (query_heads + kv_heads) * head_dim;
    for (int i = threadIdx.x; i < kv_heads * head_dim; i += blockDim.x)
        values[slot(table, position, i / head_dim, kv_heads, block_size, head_dim) + i % head_dim] = from[i];
}

// out_keys and out_values [kv_heads, tokens, head_dim]: the first `tokens` of one sequence. Grid (tokens, kv_heads).
extern "C" __global__ void gather_kv(T *out_keys, T *out_values, const T *keys, const T *values, const u32 *table, int block_size,
                                     int kv_heads, int head_dim) {
    i64 from = slot(table, blockIdx.x, blockIdx.y, kv_heads, block_size, head_dim);
    i64 to = ((i64)blockIdx.y * gridDim.x + blockIdx.x) * head_dim;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) {
        out_keys[to + i] = keys[from + i];
        out_values[to + i] = values[from + i];
    }
}
