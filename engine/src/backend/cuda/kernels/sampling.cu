// From logits to tokens: the largest, and draws by temperature and top_p. A NaN counts as minus infinity.

// tokens[rows] and largest[rows] of logits[rows, stride], token 0 being `first`, the rank's first; of equal logits the first, as the
// CPU takes it. Of a row `vocab` values count: a rank's share of the vocabulary may be padded. One block of whole warps a row.
extern "C" __global__ void argmax(u32 *tokens, float *largest, const float *logits, u32 first, int stride, int vocab) {
    __shared__ float most_of[32];  // A warp's largest,
    __shared__ int index_of[32];   // and where it is.
    const float *row = logits + (i64)blockIdx.x * stride;
    float most = NO_SCORE;
    int index = vocab;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        if (row[i] > most) {
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
    // Where all are minus infinity nobody has found one.
    tokens[blockIdx.x] = first + (index < vocab ? index : 0);
    largest[blockIdx.x] = most;
}

// Draws. What is computed: engine/src/backend/draw.rs, to the bit. Weights are integers, whose sums have no order; they come from f32
// by operations that are rounded one by one.

#define HEAVIEST (1ull << 39)  // What a largest logit weighs.
#define FAINTEST -39.0f        // A power of two below which a weight is 0.
#define ROUND 12582912.0f      // Added and taken off again, leaves the nearest whole number; 1.5 2^23.
#define DIGIT 8                // Bits of a weight that are looked at at once, of 40.
#define BINS (1 << DIGIT)

struct Draw {
    u64 top_p, random;
    float scale;
    u32 unused;
};

// One row's logits, in the ranks' parts of `held`, `next` apart.
struct Row {
    const T *logits;
    i64 next;
    int held, vocab;
    float most, scale;
};

__device__ __forceinline__ u64 weight(const Row &row, float logit) {
    logit = fmaxf(logit, NO_SCORE);
    if (logit == row.most) return HEAVIEST;
    float power = __fmul_rn(__fsub_rn(logit, row.most), row.scale);
    if (power < FAINTEST) return 0;
    float shifted = __fadd_rn(power, ROUND);
    float rest = __fsub_rn(power, __fsub_rn(shifted, ROUND));
    // 2^rest, by the series of the exponential function.
    float size = 0.0001540353f;
    size = __fadd_rn(__fmul_rn(size, rest), 0.0013333558f);
    size = __fadd_rn(__fmul_rn(size, rest), 0.009618129f);
    size = __fadd_rn(__fmul_rn(size, rest), 0.05550411f);
    size = __fadd_rn(__fmul_rn(size, rest), 0.2402265f);
    size = __fadd_rn(__fmul_rn(size, rest), 0.6931472f);
    size = __fadd_rn(__fmul_rn(size, rest), 1.0f);
    u32 bits = __float_as_uint(size);
    int whole = (int)(__float_as_uint(shifted) - __float_as_uint(ROUND));
    return (u64)((bits & 0x007fffffu) | 0x00800000u) << 39 >> (150 - (int)(bits >> 23) - whole);
}

// Shows `visit` all logits of a row, of which each thread has its own.
template <class Visit> __device__ __forceinline__ void each_logit(const Row &row, Visit visit) {
    const T *part = row.logits;
    for (int first = 0; first < row.vocab; first += row.held, part += row.next) {
        int own = min(row.held, row.vocab - first);
        for (int i = threadIdx.x; i < own; i += blockDim.x) visit(widen(part[i]));
    }
}

// Sums up to each lane's value.
template <class V> __device__ __forceinline__ V warp_sums(V x) {
    int lane = threadIdx.x % WARP;
    for (int step = 1; step < WARP; step *= 2) {
        V before = __shfl_up_sync(ALL_LANES, x, step);
        if (lane >= step) x += before;
    }
    return x;
}

// The next digit of the least kept weight, whose sums over weights are in `bins` but for digit 0: the largest such that it and all larger
// ones, and what is `heavier` anyway, weigh `wanted`. What then is heavier than the digit is added to that. Every warp does the same.
__device__ __forceinline__ int next_digit(const u64 *bins, u64 wanted, u64 &heavier) {
    int own = BINS / WARP, first = threadIdx.x % WARP * own;
    u64 sum = 0;
    for (int digit = first; digit < first + own; digit++) sum += bins[digit];
    u64 up_to = warp_sums(sum);
    u64 above = heavier + __shfl_sync(ALL_LANES, up_to, WARP - 1) - up_to;
    bool is_here = above < wanted && (first == 0 || above + sum >= wanted);
    int digit = 0;
    if (is_here) {
        digit = first + own - 1;
        for (; digit > 0 && above + bins[digit] < wanted; digit--) above += bins[digit];
    }
    heavier = warp_sum(is_here ? above : 0);
    return warp_sum(digit);
}

// Which tokens of a row may be drawn: all that are heavier than the least weight, and the first so many of just that.
struct Kept {
    u64 least, sum;
    u32 of_least;
};

// The fewest that weigh `top_p` 2^-64 of the total. `bins` is room.
__device__ __forceinline__ Kept keep(const Row &row, u64 total, u64 top_p, u64 *bins) {
    u64 wanted = __umul64hi(total, top_p) + (total * top_p != 0);
    if (wanted == 0) wanted = 1;
    if (wanted == total) return {0, total, 0};
    u64 least = 0, heavier = 0;
    #pragma unroll 1
    for (int shift = 40 - DIGIT; shift >= 0; shift -= DIGIT) {
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
        __syncthreads();  // All bins are empty.
        each_logit(row, [&](float logit) {
            u64 w = weight(row, logit);
            int digit = (int)(w >> shift & (BINS - 1));
            // What is in no larger digit is in digit 0, where most are, which would wait for each other there.
            if (w >> shift >> DIGIT == least && digit > 0) atomicAdd(&bins[digit], w);
        });
        __syncthreads();  // All weights are in their bins.
        least = least << DIGIT | next_digit(bins, wanted, heavier);
        __syncthreads();  // Everybody has read the bins.
    }
    u32 of_least = (u32)((wanted - heavier + least - 1) / least);
    return {least, heavier + of_least * least, of_least};
}

// tokens[rows], drawn from all[ranks, rows, held], `vocab` logits a row, as draws[rows] say. One block of whole warps a row, at least two.
extern "C" __global__ void __launch_bounds__(1024)
draw(u32 *tokens, const T *all, const Draw *draws, int held, int vocab) {
    __shared__ float largest[32];  // Of a warp.
    __shared__ u64 sums[32];       // Of a warp's weights; of those that are heavier than the least,
    __shared__ u32 of_least[32];   // and how many weigh just that.
    __shared__ u64 bins[BINS];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    Draw how = draws[blockIdx.x];
    Row row = {all + (i64)blockIdx.x * held, (i64)gridDim.x * held, held, vocab, NO_SCORE, how.scale};

    float most = NO_SCORE;
    each_logit(row, [&](float logit) { most = fmaxf(most, logit); });
    row.most = block_max(most, largest);
    u64 total = 0;
    each_logit(row, [&](float logit) { total += weight(row, logit); });
    total = block_sum(total, sums);

    Kept kept = keep(row, total, how.top_p, bins);

    // The token at which the running sum of kept weights exceeds `rest` is from `from` on and before `to`: warps share these until they are
    // a warp's. `rest` and `left` are what remains behind all before.
    u64 rest = __umul64hi(how.random, kept.sum), least = kept.least;
    u32 left = kept.of_least;
    int from = 0, to = vocab;
    #pragma unroll 1
    for (;;) {
        int length = ((to - from + warps - 1) / warps + WARP - 1) / WARP * WARP;
        int end = min(from + (warp + 1) * length, to);
        u64 sum = 0;
        u32 equal = 0;
        for (int i = from + warp * length + lane; i < end; i += WARP) {
            u64 w = weight(row, widen(row.logits[i / held * row.next + i % held]));
            if (w > least) sum += w;
            if (w == least) equal++;
        }
        sum = warp_sum(sum);
        equal = warp_sum(equal);
        if (lane == 0) {
            sums[warp] = sum;
            of_least[warp] = equal;
        }
        __syncthreads();  // Every warp's sum is there.
        for (int part = 0; part < warps - 1; part++) {
            u32 equal = min(left, of_least[part]);
            u64 sum = sums[part] + equal * least;
            if (rest < sum) break;
            rest -= sum;
            left -= equal;
            from += length;
        }
        to = min(from + length, to);
        if (length == WARP) break;
        __syncthreads();  // Everybody has read them.
    }
    if (warp > 0) return;
    int i = from + lane;
    u64 w = i < to ? weight(row, widen(row.logits[i / held * row.next + i % held])) : 0;
    u32 equal = i < to && w == least, number = warp_sums(equal);
    if (w < least || (equal && number > left)) w = 0;
    u64 sum = warp_sums(w);
    if (rest < sum && rest >= sum - w) tokens[blockIdx.x] = i;
}
