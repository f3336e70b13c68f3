// Rows taken by index. One block a row of `out`; no shared memory.

// out[tokens, hidden] from table[rows, hidden], the rank's rows `first .. first + rows` of the vocabulary; zeros for other tokens.
extern "C" __global__ void embed(T *out, const T *table, const u32 *tokens, u32 first, u32 rows, int hidden) {
    u32 row = tokens[blockIdx.x] - first;  // Wraps below `first`, to beyond `rows`.
    T *to = out + (i64)blockIdx.x * hidden;
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        if (row < rows) to[i] = table[(i64)row * hidden + i];
        else narrow(0.0f, &to[i]);
    }
}

// out[n, hidden]: rows indices[n] of x[*, hidden], such as each sequence's last.
extern "C" __global__ void gather_rows(T *out, const T *x, const u32 *indices, int hidden) {
    const T *from = x + (i64)indices[blockIdx.x] * hidden;
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) out[(i64)blockIdx.x * hidden + i] = from[i];
}
