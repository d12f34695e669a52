//! The library in a dozen lines: `cargo run --release -p pinhole --example classify -- BUNDLE IMAGE...`

use pinhole::{Classifier, DecodeOptions, Error};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let Some(bundle) = arguments.next() else {
        eprintln!("usage: classify BUNDLE IMAGE...");
        std::process::exit(2);
    };
    let classifier = Classifier::open(bundle)?;
    for path in arguments {
        let image = pinhole::open_image(&path, &DecodeOptions::default())?;
        let answer = classifier.classify(&image)?;
        let best = &answer.ranking[0];
        println!("{path}: {} ({:.1} %)", best.name, 100.0 * best.probability);
    }
    Ok(())
}
