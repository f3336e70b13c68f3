//! The backend by itself, on CUDA's double: what goes up in small pieces, and recordings that make room for others.

use std::borrow::Cow;

use chariot_engine::backend::cuda::{Cuda, Options, kernel_folder};
use chariot_engine::backend::{AttentionShape, Backend as _, Part, Span};
use chariot_engine::shard::Dtype;

use crate::double::Double;

/// Values of a row.
const WIDTH: usize = 33;

/// A table `[rows, WIDTH]` of values of which no two are the same, in any table.
fn values(table: usize, rows: usize) -> Vec<f32> {
    (0..rows * WIDTH).map(|index| (table * 1000 + index) as f32 + 0.5).collect()
}

fn part(values: &[f32]) -> Part<'static> {
    let shape = vec![(values.len() / WIDTH) as u32, WIDTH as u32];
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Part { dtype: Dtype::Float32, shape, bytes: Cow::Owned(bytes) }
}

fn open(options: Options) -> Cuda {
    Cuda::open(0, &kernel_folder(), options).unwrap()
}

/// How often this process has waited for the double.
fn waits() -> usize {
    let folder = std::env::var("CHARIOT_DOUBLE_TRACE").unwrap();
    let calls = fs_err::read_to_string(format!("{folder}/{}", std::process::id())).unwrap_or_default();
    calls.lines().filter(|call| *call == "wait").count()
}

const ATTENTION: AttentionShape = AttentionShape { query_heads: 1, kv_heads: 1, head_dim: 8, scale: 1.0 };

#[test]
fn weights_larger_than_the_pieces_they_go_up_in_arrive_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let double = Double::new().with("CHARIOT_DOUBLE_TRACE", folder.path().to_str().unwrap());
    double.passes("inside::weights_larger_than_the_pieces_they_go_up_in_arrive_as_they_were", || {
        let mut cuda = open(Options { piece_bytes: 4 * WIDTH, ..Options::FAST });
        // Kernels are loaded with the first one. A piece takes a row.
        let rows = [1, 1, 9, 7, 1, 5];
        let mut tables = vec![cuda.linear(&[part(&values(0, rows[0]))]).unwrap()];
        let before = waits();
        tables.push(cuda.linear(&[part(&values(1, rows[1]))]).unwrap());
        assert_eq!(waits(), before, "there is a second piece, and nothing was waited for at a tensor's end");
        // Two parts of one weight.
        let (all, upper) = (values(2, rows[2]), 4 * WIDTH);
        tables.push(cuda.linear(&[part(&all[..upper]), part(&all[upper..])]).unwrap());
        tables
            .extend((3..rows.len()).map(|table| cuda.linear(&[part(&values(table, rows[table]))]).unwrap()));
        let _cache = cuda.kv_cache(&ATTENTION, 1, 1, 4, Dtype::Float32, 0).unwrap();
        for (table, head) in tables.iter().enumerate() {
            let tokens: Vec<u32> = (0..rows[table] as u32).collect();
            let span = [Span { first_row: 0, tokens: tokens.len(), context: 0, table: &[] }];
            let batch = cuda.begin(&span, &tokens).unwrap();
            let (mut x, mut found) = (cuda.tensor(), Vec::new());
            cuda.embed_head(head, 0, &batch, &mut x).unwrap();
            let padded = cuda.rows(&batch);
            cuda.logits(&x, 1, padded, WIDTH, WIDTH, &mut found).unwrap();
            assert_eq!(found[..rows[table] * WIDTH], values(table, rows[table]), "table {table}");
        }
    });
}

#[test]
fn recordings_are_of_so_many_kinds_and_the_one_not_seen_for_longest_goes() {
    let name = "inside::recordings_are_of_so_many_kinds_and_the_one_not_seen_for_longest_goes";
    Double::new().passes(name, || {
        let mut cuda = open(Options { graphs_max: 2, ..Options::FAST });
        let all = values(1, 50);
        let head = cuda.linear(&[part(&all)]).unwrap();
        let _cache = cuda.kv_cache(&ATTENTION, 1, 2, 4, Dtype::Float32, 0).unwrap();
        let (mut x, mut token) = (cuda.tensor(), 0);
        let mut replays = |rows: usize| {
            // Other tokens each time.
            let tokens: Vec<u32> = (0..rows as u32).map(|row| (token + row) % 50).collect();
            token += 7;
            let span = |row| Span { first_row: row, tokens: 1, context: 0, table: &[0] };
            let spans: Vec<Span<'_>> = (0..rows).map(span).collect();
            let batch = cuda.begin(&spans, &tokens).unwrap();
            cuda.run(&batch, || cuda.embed_head(&head, 0, &batch, &mut x)).unwrap();
            let mut found = Vec::new();
            cuda.logits(&x, 1, rows, WIDTH, WIDTH, &mut found).unwrap();
            let expected: Vec<f32> =
                tokens.iter().flat_map(|token| all[*token as usize * WIDTH..][..WIDTH].to_vec()).collect();
            assert_eq!(found, expected, "{rows} rows, {tokens:?}");
            cuda.replays()
        };
        // Runs, is recorded, is replayed; the same with another kind; the first one is there still.
        assert_eq!([4, 4, 4, 2, 2, 2, 4].map(&mut replays), [0, 0, 1, 1, 1, 2, 3]);
        // A third kind comes, and the second goes, which was not seen for longest: it runs as it does when it is new.
        assert_eq!([1, 4, 2, 2, 2].map(&mut replays), [3, 4, 4, 4, 5]);
    });
}
