//! What a kernel for tensor cores is made of, as NVRTC passes it on: asynchronous copies, `ldmatrix`, `mma`, in one small kernel.

use chariot_ptx::Argument::Buffer;
use chariot_ptx::{Fault, LaunchError};

use crate::card::{Card, Element};
use crate::nvrtc::compiled;

/// d[16, 8] = a[16, 16] b[16, 8], one warp.
const SOURCE: &str = r#"
extern "C" __global__ void __launch_bounds__(32) tile(float *d, const T *a, const T *b) {
    __shared__ __align__(16) T room_a[16 * 16], room_b[16 * 8];
    u32 to_a = (u32)__cvta_generic_to_shared(room_a), to_b = (u32)__cvta_generic_to_shared(room_b), lane = threadIdx.x;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to_a + lane * 16), "l"(a + lane * 8));
    if (lane < 16) asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" :: "r"(to_b + lane * 16), "l"(b + lane * 8));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
    u32 as[4], bs[2];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(as[0]), "=r"(as[1]), "=r"(as[2]), "=r"(as[3]) : "r"(to_a + (lane % 16 * 16 + lane / 16 * 8) * 2));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(bs[0]), "=r"(bs[1]) : "r"(to_b + lane % 16 * 16));
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(as[0]), "r"(as[1]), "r"(as[2]), "r"(as[3]), "r"(bs[0]), "r"(bs[1]));
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}
"#;

/// Runs it, and checks d.
fn tile(ptx: &str) -> Result<(), LaunchError> {
    let mut card = Card::of(ptx, Element::Bf16);
    let (a, b) = (Element::Bf16.noise(1, 16 * 16), Element::Bf16.noise(2, 16 * 8));
    let [a_there, b_there] = [&a, &b].map(|values| Buffer(card.put(values)));
    let d = card.memory.room(16 * 8 * 4);
    card.try_run("tile", [1, 1, 1], 32, &[Buffer(d), a_there, b_there])?;
    for (at, found) in card.memory.take::<f32>(d).unwrap().into_iter().enumerate() {
        let (row, column) = (at / 8, at % 8);
        let product = |k: usize| f64::from(a[row * 16 + k]) * f64::from(b[k * 8 + column]);
        let expected: f64 = (0..16).map(product).sum();
        assert!((f64::from(found) - expected).abs() < 1e-6, "{row}, {column}: {expected}, {found}");
    }
    Ok(())
}

#[test]
fn tiles_multiply_and_a_missing_wait_or_barrier_is_found() {
    let Some(ptx) = compiled(SOURCE, Element::Bf16) else { return };
    tile(&ptx).unwrap();
    for needed in ["cp.async.wait_group 0;", "bar.warp.sync"] {
        let line = ptx.lines().find(|line| line.contains(needed)).unwrap();
        let found = tile(&ptx.replace(line, ""));
        let is_found = |fault: &Fault| matches!(fault, Fault::Race { .. } | Fault::Unwritten { .. });
        assert!(
            matches!(&found, Err(LaunchError::Fault { fault, .. }) if is_found(fault)),
            "{needed}: {found:?}"
        );
    }
}
