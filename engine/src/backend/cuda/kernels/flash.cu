// Attention of prompts' chunks straight over the paged cache (layout: rotary.cu), by tensor cores: all chunks of a step in one launch.
// bf16 and f16 only, and heads of 64 and 128 values, one kernel each; other heads, and f32, take GEMMs and causal_softmax.
//
// A block has 64 rows, a row being one token's query of one head. The query heads of a KV head stand side by side in the rows, so that
// they share its keys whatever their number: row r of a KV head's is token r / group, head r % group. A warp has 16 of the rows, and
// keeps their queries, sums and weighted values in registers. Keys and values come 64 tokens at a time: values travel while scores
// are computed, the next keys while values are weighted.

static_assert(sizeof(T) == 2, "tensor cores take bf16 and f16");

#define ROWS 64
#define KEYS 64
#define FLASH_WARPS 4
// Of a key or value in shared memory: 16 bytes more than it has, so that the eight rows of a tile lie in different banks.
#define STRIDE (DIM + 8)

// The part of a chunk that a block works on.
struct Chunk {
    const T *queries;  // Of the chunk's first token and the KV head's first query head.
    T *out;            // The same place of the result.
    const u32 *table;
    int tokens, context, group;
    i64 query_width, out_width;  // From a token to the next.
};

struct Cache {
    const T *keys, *values;
    int kv_head, kv_heads, block_size;
};

// A block's shared memory.
struct Room {
    T *keys, *values;     // [KEYS, STRIDE]
    int (*places)[KEYS];  // Of these keys, and of the next.
};

// Where in the cache each of 64 tokens from `first` on lies, in heads from its start; -1 from `end` on.
__device__ __forceinline__ void find_places(int *places, const u32 *table, int first, int end, const Cache &cache) {
    if (threadIdx.x >= KEYS) return;
    int position = first + threadIdx.x, size = cache.block_size;
    int place = -1;
    if (position < end) place = ((int)table[position / size] * cache.kv_heads + cache.kv_head) * size + position % size;
    places[threadIdx.x] = place;
}

// Starts copies of 64 keys, or values; zeros where there is none, for 0 times what is unwritten may be NaN.
template <int DIM> __device__ __forceinline__ void start_copies(T *room, const T *cache, const int *places) {
#pragma unroll
    for (int i = 0; i < KEYS * DIM / 8 / (FLASH_WARPS * WARP); i++) {
        int piece = i * FLASH_WARPS * WARP + threadIdx.x;
        int key = piece / (DIM / 8), at = piece % (DIM / 8) * 8;
        int place = places[key];
        copy_16(room + key * STRIDE + at, cache + (i64)(place < 0 ? 0 : place) * DIM + at, place >= 0);
    }
}

// scores[16, 64] of the warp's queries and the keys: scores[n] has columns 8 n on.
template <int DIM> __device__ __forceinline__ void score(float (&scores)[KEYS / 8][4], const u32 (&queries)[DIM / 16][4], const T *keys) {
    int lane = threadIdx.x % WARP;
    const T *row = keys + (lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = scores[n + 1][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            u32 tiles[4];
            load_tiles(tiles, row + n * 8 * STRIDE + k * 16);
            multiply(scores[n], queries[k], tiles[0], tiles[1], T());
            multiply(scores[n + 1], queries[k], tiles[2], tiles[3], T());
        }
    }
}

// out[16, DIM] += shares[16, 64] values, the shares rounded to T as GEMMs would have them.
template <int DIM> __device__ __forceinline__ void weigh(float (&out)[DIM / 8][4], const float (&shares)[KEYS / 8][4], const T *values) {
    int lane = threadIdx.x % WARP;
    const T *row = values + lane % 16 * STRIDE + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        const float(&low)[4] = shares[2 * k], (&high)[4] = shares[2 * k + 1];
        u32 rows[4] = {pack(low[0], low[1], T()), pack(low[2], low[3], T()), pack(high[0], high[1], T()), pack(high[2], high[3], T())};
#pragma unroll
        for (int n = 0; n < DIM / 8; n += 2) {
            u32 tiles[4];
            load_tiles_swapped(tiles, row + k * 16 * STRIDE + n * 8);
            multiply(out[n], rows, tiles[0], tiles[1], T());
            multiply(out[n + 1], rows, tiles[2], tiles[3], T());
        }
    }
}

// Scores of tokens from `first` on that a row does not see: it sees those below seen[2].
__device__ __forceinline__ void hide(float (&scores)[KEYS / 8][4], const int (&seen)[2], int first) {
    int column = first + threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (column + n * 8 + i % 2 >= seen[i / 2]) scores[n][i] = NO_SCORE;
    }
}

// Scores become shares 2^(scale (score - largest)), with scale > 0; out and sums are brought to the new largest score.
template <int DIM>
__device__ __forceinline__ void soften(float (&scores)[KEYS / 8][4], float (&out)[DIM / 8][4], float (&most)[2], float (&sum)[2],
                                       float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float next = most[half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) next = fmaxf(next, scores[n][i]);
        }
        // A row's columns are spread over four lanes.
        next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 1));
        next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 2));
        float largest = next * scale;  // Rounded, and so taken off everything alike.
        float keep = power_of_two(fmaf(most[half], scale, -largest));
        most[half] = next;
        sum[half] *= keep;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = power_of_two(fmaf(scores[n][i], scale, -largest));
                sum[half] += scores[n][i];
            }
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            out[n][2 * half] *= keep;
            out[n][2 * half + 1] *= keep;
        }
    }
}

template <int DIM>
__device__ __forceinline__ void flash(const Chunk &chunk, const Cache &cache, const Room &room, int first_row, float scale) {
    int lane = threadIdx.x % WARP, column = lane % 4 * 2, group = chunk.group;
    int last = (first_row + ROWS - 1) / group;  // The block's last token: what it sees, the block needs.
    if (last >= chunk.tokens) last = chunk.tokens - 1;
    int end = chunk.context + last + 1, all_see = chunk.context + first_row / group + 1;
    int seen[2];
    i64 at[2];
    bool there[2];
    u32 queries[DIM / 16][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = first_row + threadIdx.x / WARP * 16 + half * 8 + lane / 4;
        int token = row / group, head = row % group;
        there[half] = token < chunk.tokens;
        if (!there[half]) token = chunk.tokens - 1;  // Computed for nobody.
        seen[half] = chunk.context + token + 1;
        at[half] = token * chunk.out_width + head * DIM + column;
        const T *query = chunk.queries + token * chunk.query_width + head * DIM + column;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            queries[k][half] = *(const u32 *)(query + k * 16);
            queries[k][half + 2] = *(const u32 *)(query + k * 16 + 8);
        }
    }
    float out[DIM / 8][4], most[2] = {NO_SCORE, NO_SCORE}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
    find_places(room.places[0], chunk.table, 0, end, cache);
    __syncthreads();  // The first places are found.
    start_copies<DIM>(room.keys, cache.keys, room.places[0]);
    for (int first = 0; first < end; first += KEYS) {
        int turn = first / KEYS % 2;
        float scores[KEYS / 8][4];
        wait_for_copies();
        __syncthreads();  // Keys are there, and everybody has read the values before.
        start_copies<DIM>(room.values, cache.values, room.places[turn]);
        score<DIM>(scores, queries, room.keys);
        if (first + KEYS > all_see) hide(scores, seen, first);
        soften<DIM>(scores, out, most, sum, scale);
        find_places(room.places[1 - turn], chunk.table, first + KEYS, end, cache);
        wait_for_copies();
        __syncthreads();  // Values are there, the next places are found, and everybody has read the keys.
        if (first + KEYS < end) start_copies<DIM>(room.keys, cache.keys, room.places[1 - turn]);
        weigh<DIM>(out, scores, room.values);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 1);
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 2);
        if (!there[half]) continue;
        float factor = 1.0f / sum[half];
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            *(u32 *)(chunk.out + at[half] + n * 8) = pack(out[n][2 * half] * factor, out[n][2 * half + 1] * factor, T());
    }
}

// A block's place in the grid, and its work.
template <int DIM>
__device__ __forceinline__ void prefill(T *out, const T *qkv, const Cache &cache, const Room &room, const u32 *tiles, const u32 *spans,
                                        const u32 *tables, int table_width, int query_heads, float scale) {
    u32 number = tiles[2 * blockIdx.x], first_token = tiles[2 * blockIdx.x + 1];
    const u32 *span = spans + 3 * number;
    int group = query_heads / cache.kv_heads;
    // Rows of 64 tokens are as many tiles of rows as a KV head has query heads.
    int first_row = first_token * group + blockIdx.y % group * ROWS;
    if (first_row / group >= (int)span[1]) return;
    i64 query_width = (i64)(query_heads + 2 * cache.kv_heads) * DIM, out_width = (i64)query_heads * DIM;
    int head = cache.kv_head * group;
    Chunk chunk = {qkv + span[0] * query_width + head * DIM,
                   out + span[0] * out_width + head * DIM,
                   tables + (i64)number * table_width,
                   (int)span[1],
                   (int)span[2],
                   group,
                   query_width,
                   out_width};
    flash<DIM>(chunk, cache, room, first_row, scale * 1.4426950408889634f);  // To powers of two.
}

// out[rows, query_heads head_dim] of qkv[rows, (query_heads + 2 kv_heads) head_dim], which rotate_store has turned and stored. Chunk s
// is the spans[s, 1] rows from spans[s, 0] on, behind spans[s, 2] tokens that the cache already had; its blocks are
// tables[s, table_width]. Grid (n, query_heads): tiles[n, 2] has each chunk's number with each 64th of its tokens, 0, 64 and so on.
// Blocks of FLASH_WARPS warps.
extern "C" __global__ void __launch_bounds__(FLASH_WARPS * WARP)
flash_prefill_64(T *out, const T *qkv, const T *keys, const T *values, const u32 *tiles, const u32 *spans, const u32 *tables,
                 int table_width, int block_size, int query_heads, int kv_heads, float scale) {
    __shared__ __align__(16) T room_keys[KEYS * (64 + 8)], room_values[KEYS * (64 + 8)];
    __shared__ int places[2][KEYS];
    Cache cache = {keys, values, (int)blockIdx.y / (query_heads / kv_heads), kv_heads, block_size};
    prefill<64>(out, qkv, cache, {room_keys, room_values, places}, tiles, spans, tables, table_width, query_heads, scale);
}

extern "C" __global__ void __launch_bounds__(FLASH_WARPS * WARP)
flash_prefill_128(T *out, const T *qkv, const T *keys, const T *values, const u32 *tiles, const u32 *spans, const u32 *tables,
                 int table_width, int block_size, int query_heads, int kv_heads, float scale) {
    __shared__ __align__(16) T room_keys[KEYS * (128 + 8)], room_values[KEYS * (128 + 8)];
    __shared__ int places[2][KEYS];
    Cache cache = {keys, values, (int)blockIdx.y / (query_heads / kv_heads), kv_heads, block_size};
    prefill<128>(out, qkv, cache, {room_keys, room_values, places}, tiles, spans, tables, table_width, query_heads, scale);
}
