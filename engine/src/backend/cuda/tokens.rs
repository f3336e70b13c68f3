//! From logits on the GPU to tokens on the host: the largest, those that are drawn, or all logits. Waits for them. Knows no layer.

use super::card::Card;
use super::compile::Element;
use super::error::CudaError;
use super::launch::Argument;
use super::scratch::{Scratch, Upload};
use super::tensor::Tensor;
use crate::backend::draw::{Draw, TOKENS_MAX};

/// Bytes of a token and its logit.
const FOUND: usize = 8;

/// Threads of a block that widens or looks for the largest.
const THREADS: u32 = 256;

/// Threads of a block that draws: it reads a row some ten times, and nobody else is at work.
const DRAWING: u32 = 1024;

/// Every rank's part `[rows, held]` of `vocab` logits a row, padding behind the last of them, in order of ranks.
pub(super) struct Logits<'a> {
    pub(super) all: &'a Tensor,
    pub(super) ranks: usize,
    pub(super) rows: usize,
    pub(super) held: usize,
    pub(super) vocab: usize,
}

/// Room that logits and tokens take, kept from step to step.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Logits as f32.
    wide: Scratch,
    /// Of each rank its tokens of the largest logits `[rows]`, then these `[rows]`.
    found: Scratch,
    /// How each row's token is drawn.
    how: Upload,
    /// Tokens that were drawn.
    drawn: Scratch,
}

/// Tokens of rank `rank`'s part of the vocabulary that are no padding.
fn own(rank: usize, held: usize, vocab: usize) -> usize {
    held.min(vocab.saturating_sub(rank * held))
}

impl Tokens {
    /// `all[ranks rows, held]` as f32 on the device.
    fn widen(&mut self, card: &Card, all: &Tensor) -> Result<u64, CudaError> {
        if card.element() == Element::F32 {
            return Ok(all.pointer());
        }
        let n = all.values();
        let to = self.wide.room(card, 4 * n)?;
        let arguments = [Argument::Pointer(to), Argument::Pointer(all.pointer()), Argument::I64(n as i64)];
        card.launch("to_f32", [n.div_ceil(THREADS as usize), 1, 1], THREADS, &arguments)?;
        Ok(to)
    }

    /// `out[rows, vocab]` on the host.
    pub(super) fn logits(
        &mut self,
        card: &Card,
        logits: &Logits<'_>,
        out: &mut Vec<f32>,
    ) -> Result<(), CudaError> {
        let &Logits { all, ranks, rows, held, vocab } = logits;
        self.widen(card, all)?;
        let buffer = match card.element() {
            Element::F32 => all.buffer.as_ref(),
            Element::Bf16 | Element::F16 => self.wide.buffer.as_ref(),
        };
        let mut there = vec![0.0_f32; ranks * rows * held];
        if let Some(buffer) = buffer.filter(|_| !there.is_empty()) {
            card.read(buffer, &mut there, "logits")?;
        }
        out.clear();
        for row in 0..rows {
            for rank in 0..ranks {
                let part = &there[(rank * rows + row) * held..][..own(rank, held, vocab)];
                out.extend_from_slice(part);
            }
        }
        Ok(())
    }

    /// Of `parts[ranks rows, held]`, of ranks from `first` on, a token and its logit of each row remain: 8 bytes, whatever the type of the
    /// tensor that they lie in.
    pub(super) fn keep_largest(
        &mut self,
        card: &Card,
        parts: &mut Tensor,
        [first, ranks, vocab]: [usize; 3],
    ) -> Result<(), CudaError> {
        let (rows, held) = (parts.rows / ranks, parts.width);
        if rows == 0 {
            return Ok(());
        }
        let logits = self.widen(card, parts)?;
        let there = self.found.room(card, FOUND * ranks * rows)?;
        for rank in 0..ranks {
            // Nobody reads what a rank of padding alone has found.
            let own = own(first + rank, held, vocab);
            if own == 0 {
                continue;
            }
            let tokens = there + (FOUND * rank * rows) as u64;
            card.launch(
                "argmax",
                [rows, 1, 1],
                THREADS,
                &[
                    Argument::Pointer(tokens),
                    Argument::Pointer(tokens + 4 * rows as u64),
                    Argument::Pointer(logits + (4 * rank * rows * held) as u64),
                    Argument::U32(((first + rank) * held) as u32),
                    Argument::I32(held as i32),
                    Argument::I32(own as i32),
                ],
            )?;
        }
        parts.reshape(card, ranks * rows, FOUND / card.value_bytes())?;
        card.copy(self.found.buffer.as_ref(), parts.buffer.as_ref(), FOUND * ranks * rows)
    }

    /// `tokens[rows]` of the largest logits, of which every rank has kept its own.
    pub(super) fn greedy(
        &self,
        card: &Card,
        largest: &Logits<'_>,
        tokens: &mut Vec<u32>,
    ) -> Result<(), CudaError> {
        let &Logits { all, ranks, rows, held, vocab } = largest;
        tokens.clear();
        let Some(buffer) = all.buffer.as_ref().filter(|_| rows > 0) else { return Ok(()) };
        assert_eq!(
            all.values() * card.value_bytes(),
            FOUND * ranks * rows,
            "expected the largest logits alone"
        );
        let mut words = vec![0_u32; 2 * ranks * rows];
        card.read(buffer, &mut words, "tokens")?;
        let of_rank = |rank: usize| words[2 * rank * rows..][..2 * rows].split_at(rows);
        let logit = |row: usize, rank: usize| f32::from_bits(of_rank(rank).1[row]);
        // Of equal logits the first: a later rank's must be larger.
        let larger = |row, best, rank| if logit(row, rank) > logit(row, best) { rank } else { best };
        let with_any = (1..ranks).filter(|&rank| own(rank, held, vocab) > 0);
        let best = |row| with_any.clone().fold(0, |best, rank| larger(row, best, rank));
        tokens.extend((0..rows).map(|row| of_rank(best(row)).0[row]));
        Ok(())
    }

    /// `tokens[rows]`, drawn as `how[rows]` says. A token a row comes down, and no logit.
    pub(super) fn draw(
        &mut self,
        card: &Card,
        logits: &Logits<'_>,
        how: &[Draw],
        tokens: &mut Vec<u32>,
    ) -> Result<(), CudaError> {
        let &Logits { all, ranks, rows, held, vocab } = logits;
        tokens.clear();
        if rows == 0 {
            return Ok(());
        }
        assert_eq!(all.values(), ranks * rows * held, "expected logits of {ranks} ranks");
        assert!(vocab <= TOKENS_MAX && vocab <= ranks * held, "expected at most {TOKENS_MAX} logits a row");
        let how = self.how.send(card, &[&how.iter().flat_map(words).collect::<Vec<u32>>()])?;
        let drawn = self.drawn.room(card, 4 * rows)?;
        card.launch(
            "draw",
            [rows, 1, 1],
            DRAWING,
            &[
                Argument::Pointer(drawn),
                Argument::Pointer(all.pointer()),
                Argument::Pointer(how),
                Argument::I32(held as i32),
                Argument::I32(vocab as i32),
            ],
        )?;
        tokens.resize(rows, 0);
        match &self.drawn.buffer {
            Some(buffer) => card.read(buffer, tokens, "tokens"),
            None => Ok(()),
        }
    }
}

/// As the kernel reads it: its 64 bits with the lower half first, and a word that fills up.
fn words(how: &Draw) -> [u32; 6] {
    let halves = |bits: u64| [bits as u32, (bits >> 32) as u32];
    let ([top_p, top_p_upper], [random, random_upper]) = (halves(how.top_p), halves(how.random));
    [top_p, top_p_upper, random, random_upper, how.scale.to_bits(), 0]
}
