//! Prints the configuration of a checkpoint, and reads every tensor once:
//! `cargo run --release -p pinhole-checkpoint --example inspect -- PATH [quickgelu|gelu]`

use std::path::Path;
use std::time::Instant;

use pinhole_checkpoint::{Checkpoint, Error, OpenOptions};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: inspect PATH [quickgelu|gelu]");
        std::process::exit(2);
    };
    let activation = arguments.next().and_then(|text| text.parse().ok());
    let options = OpenOptions {
        activation,
        ..OpenOptions::default()
    };
    let start = Instant::now();
    let checkpoint = Checkpoint::open(Path::new(&path), &options)?;
    let opened = start.elapsed();
    println!(
        "{}; {}",
        checkpoint.config(),
        checkpoint.config().activation
    );
    println!(
        "logit scale {}; {:?}",
        checkpoint.logit_scale(),
        checkpoint.config().preprocessing
    );
    for assumption in checkpoint.assumptions() {
        println!("assumed: {assumption}");
    }
    let mut parameters = 0;
    for (name, _) in checkpoint.tensors() {
        parameters += checkpoint.tensor(name)?.data.len();
    }
    println!(
        "{} tensors, {parameters} parameters; opened in {opened:.1?}, read in {:.1?}",
        checkpoint.tensors().len(),
        start.elapsed() - opened
    );
    Ok(())
}
