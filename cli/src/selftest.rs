//! `pinhole selftest`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::SelftestArgs;
use crate::{open, output};

pub(crate) fn run(args: &SelftestArgs) -> Result<ExitCode> {
    let classifier = open::classifier(&args.bundle)?;
    let result = classifier.self_test()?;
    let mut out = output::stdout();
    for image in &result.images {
        let verdict = if image.cosine >= result.min_cosine {
            "ok"
        } else {
            "DIFFERS"
        };
        writeln!(
            out,
            "{verdict:<8} cosine {:.7}  {}",
            image.cosine, image.file
        )?;
    }
    if !result.passed() {
        bail!(
            "self-test: expected cosines of at least {} with kernels {}; PINHOLE_KERNELS=scalar tells whether a \
             kernel is at fault",
            result.min_cosine,
            classifier.kernels()
        );
    }
    writeln!(
        out,
        "passed with kernels {}, {} threads",
        classifier.kernels(),
        classifier.threads()
    )?;
    Ok(ExitCode::SUCCESS)
}
