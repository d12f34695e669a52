//! `pinhole-train base-to-new`.

use anyhow::Result;
use clap::Args;
use pinhole_training::{
    base_to_new::{BaseToNewOptions, run as run_protocol},
    prompt_learning::Method,
};

use super::protocol::{ProtocolArgs, show};

/// Arguments of `base-to-new`.
#[derive(Args)]
#[command(
    after_help = "Without --methods: all prompt-learning methods. Linear heads and caches know the base classes alone; they \
                  classify the new classes by the zero-shot prompts.\n\nExample: pinhole-train base-to-new --clip \
                  my-clip/checkpoint --data shapes --out report"
)]
pub(crate) struct BaseToNewArgs {
    #[command(flatten)]
    protocol: ProtocolArgs,
    /// Training images per base class
    #[arg(long, default_value_t = 16)]
    shots: usize,
}

pub(crate) fn run(args: &BaseToNewArgs) -> Result<()> {
    let protocol = &args.protocol;
    let opened = protocol.open()?;
    let defaults: Vec<&str> = Method::all().iter().map(|method| method.key()).collect();
    let options = BaseToNewOptions {
        model: protocol.model_name(),
        shots: args.shots,
        seeds: protocol.seeds(),
        methods: protocol.methods(args.shots, &defaults),
    };
    let (out, start) = (&protocol.out, protocol.start());
    let report = run_protocol(&opened.materials(), &options, out, start, &mut show())?;
    protocol.print(&report.json(), &report.summary())
}
