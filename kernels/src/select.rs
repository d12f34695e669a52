//! The table of variants, and the choice of the one that runs.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use crate::aarch64::*;
use crate::dispatch::{Kernels, SCALAR};
#[cfg(target_arch = "x86_64")]
use crate::x86_64::*;

/// The environment variable that forces a variant.
const VARIABLE: &str = "PINHOLE_KERNELS";

/// Why the variant in `PINHOLE_KERNELS` cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No variant has this name.
    #[error("{VARIABLE}: expected one of {expected}, found {found:?}")]
    Unknown {
        /// All names.
        expected: String,
        /// The variable's value.
        found: String,
    },
    /// The variant exists, but not for this processor.
    #[error("{VARIABLE}: this processor cannot run {found:?}; it can run {available}")]
    Unavailable {
        /// The variable's value.
        found: String,
        /// The names that this processor can run.
        available: String,
    },
}

/// Chooses the variant and returns its name: that of `PINHOLE_KERNELS`, or the processor's best one if the variable is
/// unset or empty. The choice is made once per process.
///
/// A program calls this at its start to report an error. The kernels themselves return none: they run the processor's best
/// variant if the one in `PINHOLE_KERNELS` cannot run.
pub fn check() -> Result<&'static str, Error> {
    choice().clone().map(|kernels| kernels.name)
}

/// The chosen variant's name, such as "avx512".
pub fn chosen() -> &'static str {
    kernels().name
}

/// Whether the chosen variant has kernels for f16. Without them [`crate::PackedLinearF16`] emulates them: bit-identical, but
/// slow.
pub fn f16_arithmetic() -> bool {
    kernels().half.is_some()
}

/// The name of the chosen variant's f32 kernels, which several variants share.
pub fn chosen_f32() -> &'static str {
    kernels().float.map_or(SCALAR.name, |float| float.name())
}

/// The table of variants: for each architecture, best first, the name and the instruction sets whose kernels compute in
/// f32, in 8-bit integers and, where there is a third, in f16. A processor can run a variant if it has all of them.
macro_rules! variants {
    ($($target:literal { $($name:literal: $float:ident, $int8:ident $(, $half:ident)?;)+ })+) => {
        /// The names of the variants that this processor can run, best first. All variants, and the instruction sets of
        /// their kernels:
        ///
        /// | name | f32 | 8-bit integers | f16 |
        /// |---|---|---|---|
        $($(#[doc = concat!("| `", $name, "` | ", stringify!($float), " | ", stringify!($int8), " | ", $(stringify!($half),)? " |")])+)+
        /// | `scalar` | scalar | scalar | |
        pub fn available() -> Vec<&'static str> {
            variants().into_iter().map(|kernels| kernels.name).collect()
        }

        /// The names of the variants for this architecture, best first, whether or not the processor can run them.
        pub fn compiled() -> Vec<&'static str> {
            let mut names = Vec::new();
            $(if cfg!(target_arch = $target) {
                names.extend([$($name),+]);
            })+
            names.push(SCALAR.name);
            names
        }

        /// The names for all architectures.
        const NAMES: &[&str] = &[$($($name,)+)+ SCALAR.name];

        /// The variants that this processor can run, best first.
        pub(crate) fn variants() -> Vec<Kernels> {
            let mut variants = Vec::new();
            $(#[cfg(target_arch = $target)] {
                $({
                    fn variant() -> Option<Kernels> {
                        Some(Kernels {
                            name: $name,
                            float: Some(leaked($float::new()?)),
                            int8: Some(leaked($int8::new()?)),
                            half: variants!(@half $($half)?),
                        })
                    }
                    variants.extend(variant());
                })+
            })+
            variants.push(SCALAR);
            variants
        }
    };
    (@half) => { None };
    (@half $half:ident) => { Some(leaked($half::new()?)) };
}

variants! {
    "x86_64" {
        "avx512vnni": Avx512, Avx512Vnni;
        "avxvnni": Avx2, AvxVnni;
        "avx512": Avx512, Avx2;
        "avx2": Avx2, Avx2;
    }
    "aarch64" {
        "i8mm": Neon, I8mm, Fp16;
        "dotprod": Neon, Dotprod, Fp16;
        // Every processor with dotprod so far has FP16 too.
        "dotprod-nofp16": Neon, Dotprod;
        "fp16": Neon, Neon, Fp16;
        "neon": Neon, Neon;
    }
}

/// A token has no size, so that leaking it costs nothing.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) fn leaked<T>(token: T) -> &'static T {
    Box::leak(Box::new(token))
}

/// The variant named `forced`, the variable's value; the best one if that is empty.
pub(crate) fn choose(forced: Option<&OsStr>) -> Result<Kernels, Error> {
    let mut variants = variants().into_iter();
    let Some(forced) = forced.filter(|f| !f.is_empty()) else {
        return Ok(variants.next().unwrap_or(SCALAR));
    };
    if let Some(kernels) = variants.find(|v| forced == v.name) {
        return Ok(kernels);
    }
    let found = forced.to_string_lossy().into_owned();
    Err(match NAMES.contains(&found.as_str()) {
        true => Error::Unavailable {
            found,
            available: available().join(", "),
        },
        false => Error::Unknown {
            expected: NAMES.join(", "),
            found,
        },
    })
}

fn choice() -> &'static Result<Kernels, Error> {
    static CHOICE: OnceLock<Result<Kernels, Error>> = OnceLock::new();
    CHOICE.get_or_init(|| choose(std::env::var_os(VARIABLE).as_deref()))
}

/// The chosen variant; the best one if the choice was an error.
pub(crate) fn kernels() -> Kernels {
    static KERNELS: OnceLock<Kernels> = OnceLock::new();
    *KERNELS.get_or_init(|| match choice() {
        Ok(kernels) => *kernels,
        Err(_) => choose(None).unwrap_or(SCALAR),
    })
}
