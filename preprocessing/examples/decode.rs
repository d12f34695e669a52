//! Decodes the image files named on standard input, one per line, and prints a line for each: the path, a tab, and
//! width, height and the SHA-256 of the RGB pixels, or `error:` and the reason. For `tests/conformance/jpeg`.

use std::io::BufRead;

use pinhole_preprocessing::{DecodeOptions, open};
use sha2::{Digest, Sha256};

fn main() -> std::io::Result<()> {
    for path in std::io::stdin().lock().lines() {
        let path = path?;
        match open(&path, &DecodeOptions::default()) {
            Ok(image) => {
                let hash: String = Sha256::digest(&image.data)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                println!("{path}\t{} {} {hash}", image.width, image.height);
            }
            Err(e) => println!("{path}\terror: {e}"),
        }
    }
    Ok(())
}
