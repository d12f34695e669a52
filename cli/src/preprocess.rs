//! `pinhole preprocess`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use pinhole::{Bundle, DecodeOptions};

use crate::cli::PreprocessArgs;

pub(crate) fn run(args: &PreprocessArgs) -> Result<ExitCode> {
    let bundle = Bundle::open(&args.bundle)?;
    let options = DecodeOptions {
        apply_orientation: args.exif_orientation,
        ..Default::default()
    };
    let image = pinhole::open_image(&args.image, &options)?;
    let pixels = pinhole::preprocess(&bundle.manifest().preprocessing, &image)?;
    let png = pixels.to_png()?;
    let out = &args.out;
    let mut file = std::fs::File::create_new(out)
        .with_context(|| format!("{}: cannot create the PNG file", out.display()))?;
    if let Err(e) = file.write_all(&png) {
        // A truncated PNG would be mistaken for the result.
        let _ = std::fs::remove_file(out);
        bail!("{}: cannot write: {e}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}
