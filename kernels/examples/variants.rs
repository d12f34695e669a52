//! Prints the kernel variants for this architecture, best first: name, and "yes" if this processor can run it.
//!
//!     cargo run -p pinhole-kernels --example variants
//!
//! `tests/arm/run` reads it.

use pinhole_kernels::{available, compiled};

fn main() {
    let available = available();
    for name in compiled() {
        let runs = if available.contains(&name) {
            "yes"
        } else {
            "no"
        };
        println!("{name}\t{runs}");
    }
}
