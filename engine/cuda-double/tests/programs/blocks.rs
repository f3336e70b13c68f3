//! Threads of a block: barriers, shuffles, atomics.

use crate::{passes, ramp, reports, run};

const REVERSE: &str = r#"extern "C" __global__ void __launch_bounds__(64) k(const float *in, float *out) {
    extern __shared__ float room[];
    __shared__ float twice[64];
    room[threadIdx.x] = in[threadIdx.x];
    twice[threadIdx.x] = 2.0f * in[threadIdx.x];
    __syncthreads();
    int other = blockDim.x - 1 - threadIdx.x;
    out[threadIdx.x] = room[other] + twice[other];
}"#;

#[test]
fn shared_memory_and_barrier() {
    passes("blocks::shared_memory_and_barrier", || {
        let expected: Vec<f32> = (0..64).rev().map(|i| 3.0 * i as f32).collect();
        assert_eq!(run(REVERSE, &ramp(64), 64, 256).unwrap(), expected);
    });
}

#[test]
fn missing_barrier_shows() {
    reports("blocks::missing_barrier_shows", "", || {
        let wrong = run(&REVERSE.replace("__syncthreads();", ""), &ramp(64), 64, 256).unwrap();
        assert!(wrong[0].is_nan(), "thread 0 reads what thread 63 has not yet written: {wrong:?}");
    });
}

#[test]
fn shuffles() {
    passes("blocks::shuffles", || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            float x = in[threadIdx.x], y = x;
            for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
            float down = __shfl_down_sync(0xffffffffu, y, 1);
            unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x & 1);
            out[threadIdx.x] = odd == 0xaaaaaaaau ? 1000.0f * x + down : -1.0f;
        }"#;
        let got = run(source, &ramp(64), 64, 0).unwrap();
        let expected = |i: usize| {
            let (sum, down) = (if i < 32 { 496.0 } else { 1520.0 }, if i % 32 == 31 { i } else { i + 1 });
            1000.0 * sum + down as f32
        };
        assert_eq!(got, (0..64).map(expected).collect::<Vec<f32>>());
    });
}

#[test]
fn atomics() {
    passes("blocks::atomics", || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            if (threadIdx.x == 0) out[0] = 0.0f;
            __syncthreads();
            atomicAdd(out, in[threadIdx.x]);
        }"#;
        assert_eq!(run(source, &ramp(100), 1, 0).unwrap(), [4950.0]);
    });
}

#[test]
fn divergent_barrier_is_found() {
    reports(
        "blocks::divergent_barrier_is_found",
        "kernel k, block [0, 0, 0]: divergent barrier: thread 0",
        || {
            let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            if (threadIdx.x < 3) __syncthreads();
            out[threadIdx.x] = in[threadIdx.x];
        }"#;
            assert!(run(source, &ramp(8), 8, 0).is_err());
        },
    );
}
