//! What ranks are asked beside steps, and their answers.

use super::{RuntimeExecutor, TICK};
use crate::clock::monotonic_ns;
use crate::model::LayerTimes;
use crate::runtime::loss::{Heard, Loss};
use crate::runtime::protocol::{Exchange, ExchangeKind, Order, Report};
use crate::runtime::step::Step;
use crate::selftest::Check;
use crate::shard::Dtype;

impl RuntimeExecutor {
    /// Nanoseconds of an exchange, in each row of them.
    pub fn exchange(&mut self, exchange: &Exchange) -> Result<Vec<u64>, Loss> {
        self.ask(&Order::Exchange(exchange.clone()))?;
        loop {
            if let Some((_, Report::Exchanged { ns })) = self.hear_answer()? {
                return Ok(ns);
            }
        }
    }

    /// Nanoseconds of each of `times` exchanges of `values` values a rank among the ranks of a stage, by stage, one stage after another.
    pub fn exchange_in_stages(
        &mut self,
        kind: ExchangeKind,
        values: u32,
        times: u32,
    ) -> Result<Vec<Vec<u64>>, Loss> {
        let exchange = |ranks| Exchange { kind, ranks, values, in_a_row: 1, times };
        let stages = (0..self.parallel.pp).map(|stage| exchange(self.parallel.stage_ranks(stage)));
        stages.collect::<Vec<_>>().iter().map(|exchange| self.exchange(exchange)).collect()
    }

    /// Sums, gathers and messages among all ranks: how far what each of them got is from what was sent, by rank. `dtype`: of the weights.
    pub fn check_exchanges(&mut self, dtype: Dtype) -> Result<Vec<Vec<Check>>, Loss> {
        self.ask(&Order::CheckExchanges(dtype))?;
        let mut found = vec![None; self.workers.world()];
        while found.iter().any(Option::is_none) {
            if let Some((rank, Report::Checked { checks })) = self.hear_answer()? {
                found[rank] = Some(checks);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Nanoseconds of products and attention of layers, one after the other, on a batch that was the last step.
    pub(in super::super) fn order_layers(&mut self, step: Step) -> Result<Vec<LayerTimes>, Loss> {
        self.ask_of(Order::Layers, &step)?;
        loop {
            if let Some((_, Report::Layers { times })) = self.hear_answer()? {
                return Ok(times);
            }
        }
    }

    /// What checks of each rank's core took since the last time, nanoseconds; [`slowed`](crate::runtime::slowed) makes something of them. None on GPUs.
    pub fn core_checks(&mut self) -> Result<Vec<Vec<u32>>, Loss> {
        self.ask(&Order::Speed)?;
        let mut found: Vec<Option<Vec<u32>>> = vec![None; self.workers.world()];
        while found.iter().any(Option::is_none) {
            if let Some((rank, Report::Speed { checks })) = self.hear_answer()? {
                found[rank] = Some(checks);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Bytes that are free in each rank's device memory now, by rank; `None`: ranks compute in their hosts'.
    pub fn free_bytes(&mut self) -> Result<Option<Vec<u64>>, Loss> {
        self.ask(&Order::Memory)?;
        let mut found = vec![None; self.workers.world()];
        while found.iter().any(Option::is_none) {
            if let Some((rank, Report::Memory { free_bytes })) = self.hear_answer()? {
                found[rank] = Some(free_bytes);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// What a rank answers beside steps, if one does within a tick.
    fn hear_answer(&mut self) -> Result<Option<(usize, Report)>, Loss> {
        let heard = self.workers.hear(TICK);
        let now = monotonic_ns();
        self.health.present_ns(now);
        let report = match heard {
            Some((rank, Heard::Report(Report::Alive(beat)))) => {
                self.health.beat(rank, beat, now);
                None
            }
            Some((rank, Heard::Report(report))) if report.is_answer() => {
                self.health.heard(rank, now);
                Some((rank, report))
            }
            // Of a batch that nobody waits for any more.
            Some((rank, Heard::Report(Report::Stage { .. }))) => {
                self.health.heard(rank, now);
                None
            }
            Some((rank, heard)) => return Err(self.workers.loss(rank, heard)),
            None => None,
        };
        self.judge(true, now)?;
        Ok(report)
    }
}
