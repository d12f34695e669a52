//! `pinhole preprocess`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use pinhole_fs::AtomicFile;

use crate::cli::PreprocessArgs;
use crate::open;

pub(crate) fn run(args: &PreprocessArgs) -> Result<ExitCode> {
    let bundle = open::bundle(&args.bundle)?;
    let preprocessing = &bundle.manifest().preprocessing;
    let options = open::decode_options(&args.decode, preprocessing);
    let image = open::image(&args.image, &options)?;
    let pixels = pinhole::preprocess(preprocessing, &image)?;
    let png = pixels.to_png()?;
    let out = &args.out;
    let write = || {
        let mut file = AtomicFile::create(out)?;
        file.file().write_all(&png)?;
        file.create_new()
    };
    write().with_context(|| format!("{}: cannot create the PNG file", out.display()))?;
    Ok(ExitCode::SUCCESS)
}
