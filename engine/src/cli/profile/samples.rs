//! Every time that a profile measured, as CSV: for those who want to see how its tables came about.

use std::io::Write;

use camino::Utf8Path;
use chariot_engine::profile::SampleRow;
use chariot_engine::shard::Parallel;

use super::super::files::Output;

/// A file that appears when all is measured.
pub(super) struct Samples(Output);

impl Samples {
    pub(super) fn create(path: &Utf8Path) -> anyhow::Result<Self> {
        let mut output = Output::create(path)?;
        writeln!(output, "model,tp,pp,all_stages_busy,visit,at_s,batch,tokens,stage,run,us,disturbed")?;
        Ok(Self(output))
    }

    pub(super) fn write(
        &mut self,
        model: &str,
        parallel: Parallel,
        rows: &[SampleRow],
    ) -> anyhow::Result<()> {
        let Parallel { tp, pp } = parallel;
        for row in rows {
            let SampleRow { busy, visit, at_s, batch, tokens, stage, run, us, disturbed } = row;
            writeln!(
                self.0,
                "{model},{tp},{pp},{busy},{visit},{at_s:.3},{batch},{tokens},{stage},{run},{us:.1},{disturbed}"
            )?;
        }
        Ok(())
    }

    pub(super) fn publish(self) -> anyhow::Result<()> {
        self.0.publish()
    }
}
