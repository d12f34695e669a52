//! `pinhole-train few-shot`.

use anyhow::Result;
use clap::Args;
use pinhole_training::few_shot::{FewShotOptions, run as run_protocol};

use super::protocol::{ProtocolArgs, keys, show};

/// Arguments of `few-shot`.
#[derive(Args)]
#[command(
    after_help = "Without --methods: all methods. Writes report.md, report.json, accuracy.csv and plot.svg.\n\nExample: \
                  pinhole-train few-shot --clip my-clip/checkpoint --data shapes-outline --methods tip-adapter,linear --out \
                  report"
)]
pub(crate) struct FewShotArgs {
    #[command(flatten)]
    protocol: ProtocolArgs,
    /// Numbers of training images per class, separated by commas or spaces
    #[arg(long, num_args = 1.., value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
    shots: Vec<usize>,
}

pub(crate) fn run(args: &FewShotArgs) -> Result<()> {
    let protocol = &args.protocol;
    let opened = protocol.open()?;
    let methods = |shots: &usize| (*shots, protocol.methods(*shots, &keys()));
    let options = FewShotOptions {
        model: protocol.model_name(),
        seeds: protocol.seeds(),
        shots: args.shots.iter().map(methods).collect(),
    };
    let (out, start) = (&protocol.out, protocol.start());
    let report = run_protocol(&opened.materials(), &options, out, start, &mut show())?;
    protocol.print(&report.json(), &report.summary())
}
