//! Converts any checkpoint to a folder that open_clip reads as `local-dir:FOLDER`:
//! `cargo run --release -p pinhole-checkpoint --example convert -- PATH FOLDER [quickgelu|gelu]`

use std::path::Path;

use pinhole_checkpoint::{Checkpoint, Error, Existing, OpenOptions, write};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(path), Some(folder)) = (arguments.first(), arguments.get(1)) else {
        eprintln!("usage: convert PATH FOLDER [quickgelu|gelu]");
        std::process::exit(2);
    };
    let activation = arguments.get(2).and_then(|text| text.parse().ok());
    let options = OpenOptions {
        activation,
        ..OpenOptions::default()
    };
    let checkpoint = Checkpoint::open(Path::new(path), &options)?;
    for assumption in checkpoint.assumptions() {
        eprintln!("assumed: {assumption}");
    }
    write(
        Path::new(folder),
        checkpoint.config(),
        Existing::Keep,
        |name| checkpoint.tensor(name),
    )
}
