//! The backend's own kernels on the double, in each dtype and every order of threads, against plain loops in f64.
#![expect(unsafe_code, reason = "launches kernels")]

mod card;
mod draw_rows;
mod draws;
mod flash;

use cudarc::driver::PushKernelArg;

use self::card::{BARRIER, PRELUDE, WITHOUT, in_all, noise, run, wide};
use super::child;

/// Each kernel's test turns red without any of its barriers, in one order of threads at least.
#[test]
fn no_barrier_is_idle() {
    let barriers = |text: &str| text.matches(BARRIER).count();
    let sources = [
        include_str!("../../../src/backend/cuda/kernels/attention.cu"),
        include_str!("../../../src/backend/cuda/kernels/elementwise.cu"),
        include_str!("../../../src/backend/cuda/kernels/embedding.cu"),
        include_str!("../../../src/backend/cuda/kernels/norm.cu"),
        include_str!("../../../src/backend/cuda/kernels/rotary.cu"),
    ];
    let sampling = include_str!("../../../src/backend/cuda/kernels/sampling.cu");
    // Of block_sum, of block_max; argmax's one, and five of draw.
    assert_eq!((barriers(PRELUDE), sources.map(barriers), barriers(sampling)), (4, [0; 5], 6));
    let flash = include_str!("../../../src/backend/cuda/kernels/flash.cu");
    assert_eq!(barriers(flash), 3);
    for (test, barrier) in [
        ("kernels::norms", 0),
        ("kernels::norms", 1),
        ("kernels::shares_of_a_chunk", 0),
        // Nothing writes after the chunk's sum, so its second barrier is idle there.
        ("kernels::shares_of_a_chunk", 2),
        ("kernels::shares_of_a_chunk", 3),
        ("kernels::largest_logits", 4),
        ("kernels::draws::tokens", 0),
        ("kernels::draws::tokens", 1),
        ("kernels::draws::tokens", 2),
        ("kernels::draws::tokens", 5),
        ("kernels::draws::tokens", 6),
        ("kernels::draws::tokens", 7),
        ("kernels::draws::tokens", 8),
        ("kernels::draws::tokens", 9),
        ("kernels::flash::few_chunks", 4),
        ("kernels::flash::few_chunks", 5),
        ("kernels::flash::few_chunks", 6),
    ] {
        let fails = |order: &&str| !child(test, order, &[(WITHOUT, barrier.to_string())]).status.success();
        let red: Vec<&str> =
            ["forward", "reverse", "random:7", "random:8"].into_iter().filter(|o| fails(o)).collect();
        assert!(!red.is_empty(), "{test} passes without barrier {barrier}");
        println!("{test} without barrier {barrier}: red in {}", red.join(", "));
    }
}

#[test]
fn norms() {
    in_all!("kernels::norms", "norm.cu", |card| {
        let (rows, width) = (3, 100);
        let (x, residual, weight, bias) = (
            card.noise(1, rows * width),
            card.noise(2, rows * width),
            // f32 in all dtypes: finer than the dtype.
            noise(3, width),
            noise(4, width),
        );
        let sums: Vec<f64> =
            x.iter().zip(&residual).map(|(x, r)| f64::from(card.element.round(x + r))).collect();
        let [weight_there, bias_there] = [&weight, &bias].map(|v| card.put_plain(v));
        let residual_there = card.put(&residual);
        for is_layer_norm in [true, false] {
            let (mut x_there, mut y) = (card.put(&x), card.room(rows * width));
            let (grid, eps, columns) = ((rows as u32, 1, 1), 1e-5_f32, width as i32);
            if is_layer_norm {
                run!(
                    card,
                    "layer_norm",
                    grid,
                    64,
                    &mut y,
                    &mut x_there,
                    &residual_there,
                    &weight_there,
                    &bias_there,
                    &eps,
                    &columns,
                );
            } else {
                run!(
                    card,
                    "rms_norm",
                    grid,
                    64,
                    &mut y,
                    &mut x_there,
                    &residual_there,
                    &weight_there,
                    &eps,
                    &columns,
                );
            }
            card.near(&x_there, &sums);
            let mut expected = Vec::new();
            for row in sums.chunks(width) {
                let mean = if is_layer_norm { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let bias = |i: usize| if is_layer_norm { f64::from(bias[i]) } else { 0.0 };
                let one = |(i, x): (usize, &f64)| {
                    (x - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i]) + bias(i)
                };
                expected.extend(row.iter().enumerate().map(one));
            }
            card.near(&y, &expected);
        }
    });
}

#[test]
fn elementwise() {
    in_all!("kernels::elementwise", "elementwise.cu", |card| {
        let (rows, f) = (3, 25);
        let count = rows * f;
        let gate_up: Vec<f32> = card.noise(5, 2 * count).iter().map(|x| 4.0 * x).collect();
        let (there, mut out) = (card.put(&gate_up), card.room(count));
        run!(card, "silu_mul", (2, 1, 1), 64, &mut out, &there, &(f as i32), &(count as i64));
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let one = |i: usize| {
            let row = &gate_up[i / f * 2 * f..];
            silu(f64::from(row[i % f])) * f64::from(row[f + i % f])
        };
        card.near(&out, &(0..count).map(one).collect::<Vec<_>>());
        let (x, y) = (card.noise(6, count), card.noise(7, count));
        let (mut sum, y_there) = (card.put(&x), card.put(&y));
        run!(card, "add", (2, 1, 1), 64, &mut sum, &y_there, &(count as i64));
        card.near(&sum, &wide(&x).iter().zip(wide(&y)).map(|(x, y)| x + y).collect::<Vec<_>>());
        let mut there = card.put(&[-3.0_f32, -1.0, 0.0, 0.5, 2.0]);
        run!(card, "gelu", (1, 1, 1), 32, &mut there, &5_i64);
        // x Phi(x), from tables of the normal distribution.
        card.near(
            &there,
            &[-3.0 * 0.001_349_898, -0.158_655_254, 0.0, 0.5 * 0.691_462_461, 2.0 * 0.977_249_868],
        );
    });
}

#[test]
fn widening() {
    in_all!("kernels::widening", "elementwise.cu", |card| {
        let x = card.noise(17, 75);
        let (there, mut out) = (card.put(&x), card.room_plain::<f32>(75));
        run!(card, "to_f32", (3, 1, 1), 32, &mut out, &there, &75_i64);
        assert_eq!(card.take_plain(&out), x);
    });
}

#[test]
fn narrowing() {
    in_all!("kernels::narrowing", text include_str!("kernels/narrow.cu"), |card| {
        let mut finer = noise(18, 70);
        // A tie down and one up, the least subnormal of f16 and less than half of it, what overflows in f16.
        finer.extend([1.003_906_3, 1.011_718_8, 5.960_464_5e-8, 2.9e-8, 65_520.0]);
        let (there, mut out) = (card.put_plain(&finer), card.room(75));
        run!(card, "narrow_all", (3, 1, 1), 32, &mut out, &there, &75_i64);
        assert_eq!(card.take(&out), finer.iter().map(|x| card.element.round(*x)).collect::<Vec<_>>());
    });
}

#[test]
fn rows_by_index() {
    in_all!("kernels::rows_by_index", "embedding.cu", |card| {
        let (first, rows, hidden) = (10_u32, 4_u32, 37);
        let table = card.noise(8, rows as usize * hidden);
        let tokens = [13_u32, 9, 10, 14, 0];
        let (table_there, tokens_there) = (card.put(&table), card.put_plain(&tokens));
        let mut out = card.room(tokens.len() * hidden);
        run!(
            card,
            "embed",
            (tokens.len() as u32, 1, 1),
            32,
            &mut out,
            &table_there,
            &tokens_there,
            &first,
            &rows,
            &(hidden as i32),
        );
        let row = |token: u32| match token.checked_sub(first).filter(|row| *row < rows) {
            Some(row) => table[row as usize * hidden..][..hidden].to_vec(),
            None => vec![0.0; hidden],
        };
        assert_eq!(card.take(&out), tokens.iter().flat_map(|&token| row(token)).collect::<Vec<_>>());
        let (indices, mut some) = (card.put_plain(&[3_u32, 0]), card.room(2 * hidden));
        run!(card, "gather_rows", (2, 1, 1), 32, &mut some, &table_there, &indices, &(hidden as i32));
        assert_eq!(card.take(&some), [&table[3 * hidden..4 * hidden], &table[..hidden]].concat());
    });
}

#[test]
fn largest_logits() {
    in_all!("kernels::largest_logits", "sampling.cu", |card| {
        let (vocab, stride) = (131, 136);
        let mut logits = noise(9, 6 * stride);
        // Two that are equal: the first counts, whichever thread has it.
        (logits[stride + 97], logits[stride + 33]) = (2.0, 2.0);
        logits[2 * stride] = 3.0;
        logits[3 * stride + vocab - 1] = 3.0;
        // What is no number is nothing, and where nothing else is there the first is taken.
        logits[4 * stride..5 * stride].fill(f32::NAN);
        logits[4 * stride + 70] = -5.0;
        logits[5 * stride..].fill(f32::NAN);
        // A rank's padding must not win.
        logits.chunks_mut(stride).for_each(|row| row[vocab..].fill(9.0));
        let there = card.put_plain(&logits);
        let (mut tokens, mut largest) = (card.room_plain::<u32>(6), card.room_plain::<f32>(6));
        run!(
            card,
            "argmax",
            (6, 1, 1),
            96,
            &mut tokens,
            &mut largest,
            &there,
            &1000_u32,
            &(stride as i32),
            &(vocab as i32),
        );
        let row = &logits[..vocab];
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let index = row.iter().position(|&logit| logit == most).unwrap() as u32;
        assert_eq!(card.take_plain(&tokens), [1000 + index, 1033, 1000, 1130, 1070, 1000]);
        assert_eq!(card.take_plain(&largest), [most, 2.0, 3.0, 3.0, -5.0, f32::NEG_INFINITY]);
    });
}

#[test]
fn shares_of_a_chunk() {
    in_all!("kernels::shares_of_a_chunk", "attention.cu", |card| {
        let (heads, tokens, context) = (2, 5, 40);
        let keys = context + tokens;
        let scores = noise(10, heads * tokens * keys);
        let (there, mut shares) = (card.put_plain(&scores), card.room(scores.len()));
        run!(
            card,
            "causal_softmax",
            ((heads * tokens) as u32, 1, 1),
            64,
            &mut shares,
            &there,
            &3.0_f32,
            &(tokens as i32),
            &(keys as i32),
            &(context as i32),
        );
        let mut expected = Vec::new();
        for (row, scores) in scores.chunks(keys).enumerate() {
            expected.extend(softmax(scores.iter().map(|&s| 3.0 * f64::from(s)), context + row % tokens + 1));
        }
        card.near(&shares, &expected);
    });
}

/// Shares of the first `seen`, zeros for the rest.
fn softmax(scores: impl Iterator<Item = f64>, seen: usize) -> Vec<f64> {
    let exponents: Vec<f64> = scores.enumerate().map(|(i, s)| if i < seen { s.exp() } else { 0.0 }).collect();
    let sum: f64 = exponents.iter().sum();
    exponents.iter().map(|exponent| exponent / sum).collect()
}

/// Heads and cache of the tests of attention: eleven query heads on each of two KV heads, more than share a tile.
const QUERY: usize = 22;
const KV: usize = 2;
const DIM: usize = 40;
const BLOCK: usize = 4;
const WIDTH: usize = (QUERY + 2 * KV) * DIM;

#[test]
fn turned_and_stored() {
    in_all!("kernels::turned_and_stored", "rotary.cu", |card| {
        let (qkv, cosines, sines) =
            (card.noise(11, 2 * WIDTH), noise(12, 8 * DIM / 2), noise(13, 8 * DIM / 2));
        let (positions, seqs, tables) = ([6_u32, 1], [0_u32, 1], [0_u32, 3, 2, 1]);
        let mut there = card.put(&qkv);
        let unwritten = vec![9.0_f32; 4 * BLOCK * KV * DIM];
        let (mut keys, mut values) = (card.put(&unwritten), card.put(&unwritten));
        let [cosines_there, sines_there] = [&cosines, &sines].map(|v| card.put_plain(v));
        let [positions_there, seqs_there] = [&positions, &seqs].map(|v| card.put_plain(v));
        let tables_there = card.put_plain(&tables);
        run!(
            card,
            "rotate_store",
            (2, 1, 1),
            64,
            &mut there,
            &mut keys,
            &mut values,
            &cosines_there,
            &sines_there,
            &positions_there,
            &seqs_there,
            &tables_there,
            &2_i32,
            &(BLOCK as i32),
            &(QUERY as i32),
            &(KV as i32),
            &(DIM as i32),
        );
        let (mut turned, mut stored) = (wide(&qkv), [wide(&unwritten), wide(&unwritten)]);
        for (row, position) in [6, 1].into_iter().enumerate() {
            for head in 0..QUERY + KV {
                for i in 0..DIM / 2 {
                    let at = row * WIDTH + head * DIM + i;
                    let (low, high) = (turned[at], turned[at + DIM / 2]);
                    let [cos, sin] = [&cosines, &sines].map(|v| f64::from(v[position * DIM / 2 + i]));
                    (turned[at], turned[at + DIM / 2]) = (low * cos - high * sin, high * cos + low * sin);
                }
            }
            let block = tables[row * 2 + position / BLOCK] as usize;
            for head in 0..KV {
                for i in 0..DIM {
                    let to = ((block * KV + head) * BLOCK + position % BLOCK) * DIM + i;
                    for (part, stored) in stored.iter_mut().enumerate() {
                        stored[to] = turned[row * WIDTH + (QUERY + part * KV + head) * DIM + i];
                    }
                }
            }
        }
        card.near(&there, &turned);
        card.near(&keys, &stored[0]);
        card.near(&values, &stored[1]);
    });
}

#[test]
fn gathered() {
    in_all!("kernels::gathered", "rotary.cu", |card| {
        let (count, tokens, table) = (3 * BLOCK * KV * DIM, 10, [2_u32, 0, 1]);
        let (keys, values) = (card.noise(19, count), card.noise(20, count));
        let [keys_there, values_there] = [&keys, &values].map(|v| card.put(v));
        let table_there = card.put_plain(&table);
        let [mut out_keys, mut out_values] = [0, 1].map(|_| card.room(KV * tokens * DIM));
        run!(
            card,
            "gather_kv",
            (tokens as u32, KV as u32, 1),
            32,
            &mut out_keys,
            &mut out_values,
            &keys_there,
            &values_there,
            &table_there,
            &(BLOCK as i32),
            &(KV as i32),
            &(DIM as i32),
        );
        for (pool, out) in [(&keys, &out_keys), (&values, &out_values)] {
            let row = |(head, position): (usize, usize)| {
                let block = table[position / BLOCK] as usize;
                &pool[((block * KV + head) * BLOCK + position % BLOCK) * DIM..][..DIM]
            };
            let places = (0..KV).flat_map(|head| (0..tokens).map(move |position| (head, position)));
            assert_eq!(card.take(out), places.map(row).collect::<Vec<_>>().concat());
        }
    });
}

#[test]
fn decodes_over_pages() {
    in_all!("kernels::decodes_over_pages", "attention.cu", |card| {
        let (lengths, tables, splits) = ([1_u32, 14], [2_u32, 0, 0, 0, 5, 1, 4, 3], 2_usize);
        let (qkv, keys, values) = (
            card.noise(14, 2 * WIDTH),
            card.noise(15, 6 * BLOCK * KV * DIM),
            card.noise(16, 6 * BLOCK * KV * DIM),
        );
        let [qkv_there, keys_there, values_there] = [&qkv, &keys, &values].map(|v| card.put(v));
        let (lengths_there, tables_there) = (card.put_plain(&lengths), card.put_plain(&tables));
        let parts = splits * 4;
        let mut partial = card.room_plain::<f32>(2 * QUERY * parts * (DIM + 2));
        let tiles = (QUERY / KV).div_ceil(8);
        run!(
            card,
            "paged_decode",
            (splits as u32, (KV * tiles) as u32, 2),
            128,
            &mut partial,
            &qkv_there,
            &keys_there,
            &values_there,
            &lengths_there,
            &tables_there,
            &4_i32,
            &(BLOCK as i32),
            &(QUERY as i32),
            &(KV as i32),
            &(DIM as i32),
            &0.5_f32,
        );
        let mut out = card.room(2 * QUERY * DIM);
        run!(
            card,
            "combine",
            ((2 * QUERY) as u32, 1, 1),
            32,
            &mut out,
            &partial,
            &(parts as i32),
            &(DIM as i32),
        );
        let mut expected = Vec::new();
        for seq in 0..2 {
            for head in 0..QUERY {
                let query = &qkv[seq * WIDTH + head * DIM..][..DIM];
                let page = |position: usize| {
                    let block = tables[seq * 4 + position / BLOCK] as usize;
                    ((block * KV + head / (QUERY / KV)) * BLOCK + position % BLOCK) * DIM
                };
                let length = lengths[seq] as usize;
                let score = |position: usize| {
                    let key = &keys[page(position)..][..DIM];
                    0.5 * query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
                };
                let shares = softmax((0..length).map(score), length);
                let value =
                    |i: usize| (0..length).map(|p| shares[p] * f64::from(values[page(p) + i])).sum::<f64>();
                expected.extend((0..DIM).map(value));
            }
        }
        card.near(&out, &expected);
    });
}
