//! Which variant runs: the table of variants, and the choice among them.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::sync::OnceLock;

use pinhole_model::Activation;

use crate::Affine;
use crate::attention::Head;
use crate::half;
use crate::int8::{self, Layout};
use crate::linear::Group;

/// The environment variable that forces a variant.
const VARIABLE: &str = "PINHOLE_KERNELS";

/// Why the variant that `PINHOLE_KERNELS` asks for cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No variant has this name.
    #[error("{VARIABLE}: expected one of {expected}, found {found:?}")]
    Unknown {
        /// The names that exist.
        expected: String,
        /// The variable's value.
        found: String,
    },
    /// The variant exists, but not for this processor.
    #[error("{VARIABLE}: this processor cannot run {found:?}; it can run {available}")]
    Unavailable {
        /// The variable's value.
        found: String,
        /// What would work here.
        available: String,
    },
}

/// Chooses the kernels and names them, or says why `PINHOLE_KERNELS` cannot be obeyed. The choice is made
/// once for the process; an unset or empty variable leaves it to the processor.
///
/// A program calls this at its start. The functions that compute have no error to return: without this call
/// they run the processor's best variant in place of one that cannot run, and [`chosen`] names it.
pub fn check() -> Result<&'static str, Error> {
    choice().clone().map(|kernels| kernels.name)
}

/// The chosen variant's name for logs and bench lines: "avx512", say.
pub fn chosen() -> &'static str {
    kernels().name
}

/// Whether the chosen variant computes in f16. Elsewhere [`crate::PackedLinearF16`] gives the same bits, but
/// slowly: it is for measuring then.
pub fn f16_arithmetic() -> bool {
    kernels().half.is_some()
}

/// The name of the chosen variant's kernels for f32, which several variants share.
pub fn chosen_f32() -> &'static str {
    kernels().float.map_or(SCALAR.name, |float| float.name())
}

/// The names of the variants that this processor can run, best first.
pub fn available() -> Vec<&'static str> {
    variants().into_iter().map(|kernels| kernels.name).collect()
}

/// One variant: its name, and the kernels for f32, for 8-bit integers and for f16; the scalar definitions where
/// there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    pub(crate) name: &'static str,
    pub(crate) float: Option<&'static dyn Vector>,
    pub(crate) int8: Option<&'static dyn VectorInt8>,
    pub(crate) half: Option<&'static dyn VectorF16>,
}

/// The scalar definitions.
pub(crate) const SCALAR: Kernels = Kernels {
    name: "scalar",
    float: None,
    int8: None,
    half: None,
};

/// What a tile needs of the packed operands; the constants of [`crate::simd::Simd`] by the same names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
}

/// The operations of a SIMD variant. They run on the calling thread; sharing is their caller's.
pub(crate) trait Vector: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn shape(&self) -> Shape;
    /// # Safety
    /// As [`crate::linear::group`].
    unsafe fn group(&self, group: &Group, sums: &mut [f32]);
    /// # Safety
    /// As [`crate::attention::head`].
    unsafe fn head(&self, head: &Head, memory: &mut [f32]);
    fn layer_norm(
        &self,
        x: &[f32],
        width: usize,
        gain: &[f32],
        bias: &[f32],
        epsilon: f32,
        out: &mut [f32],
    );
    fn activate(&self, x: &mut [f32], activation: Option<Activation>);
    /// One row to s8; gives its scale.
    fn quantize(&self, x: &[f32], out: &mut [i8]) -> f32;
    /// One row and an offset to u8; gives its scale.
    fn quantize_offset(&self, x: &[f32], offset: f32, out: &mut [u8]) -> f32;
    /// Values to s8 by one scale and zero point; whether none is NaN.
    fn quantize_affine(&self, x: &[f32], by: Affine, out: &mut [i8]) -> bool;
    fn fake_quantize(&self, x: &[f32], by: Affine, out: &mut [f32]);
    /// The least and the largest value and 0, as [`crate::reference::range`].
    fn range(&self, x: &[f32]) -> [f32; 3];
    /// The exponential by itself.
    #[cfg(test)]
    fn exp2(&self, x: &mut [f32]);
}

/// The operations on 8-bit integers of a SIMD variant, on the calling thread.
pub(crate) trait VectorInt8: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn layout(&self) -> Layout;
    /// [`crate::int8::Int8::DEPTH`]
    #[cfg(test)]
    fn depth(&self) -> usize;
    /// As the outputs of [`Self::group`] are.
    #[cfg(test)]
    fn activate(&self, x: &mut [f32], activation: Option<Activation>);
    /// # Safety
    /// As [`crate::int8::group`].
    unsafe fn group(&self, group: &int8::Group, sums: &mut [i32]);
}

/// The operations on f16 of a SIMD variant, on the calling thread.
pub(crate) trait VectorF16: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    /// `rows` is what packed rows are filled up to.
    fn shape(&self) -> Shape;
    /// [`crate::reference::row_f16`] of each row of x [scales.len(), k], for at most a tile's rows, into `to`
    /// [steps of k][rows of a tile]; zeros where there is no row and behind k.
    fn pack_rows(&self, x: &[f32], k: usize, exponent: i32, scales: &mut [f32], to: &mut [u16]);
    /// # Safety
    /// As [`half::Group::out`] says.
    unsafe fn group(&self, group: &half::Group, sums: &mut [f32]);
}

/// Every name, whatever the processor.
const NAMES: [&str; 9] = [
    "avx512vnni",
    "avx512",
    "avx2",
    "i8mm",
    "dotprod",
    "dotprod-nofp16",
    "fp16",
    "neon",
    "scalar",
];

/// The table: what this processor can run, best first.
pub(crate) fn variants() -> Vec<Kernels> {
    let mut variants = Vec::new();
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut add = |name, float: Option<&'static dyn Vector>, int8, half| {
            if let (Some(_), Some(_)) = (float, int8) {
                variants.push(Kernels {
                    name,
                    float,
                    int8,
                    half,
                });
            }
        };
        #[cfg(target_arch = "x86_64")]
        {
            use crate::int8::Vnni;
            use crate::x86::{Avx2, Avx512};
            add("avx512vnni", float(Avx512::new()), int8(Vnni::new()), None);
            add("avx512", float(Avx512::new()), int8(Avx2::new()), None);
            add("avx2", float(Avx2::new()), int8(Avx2::new()), None);
        }
        #[cfg(target_arch = "aarch64")]
        {
            use crate::half::Fp16;
            use crate::int8::{Dotprod, I8mm};
            use crate::neon::Neon;
            let fp16 = half(Fp16::new());
            // Every processor with dotprod so far has FP16 too; one without it would run `dotprod-nofp16`.
            if fp16.is_some() {
                add("i8mm", float(Neon::new()), int8(I8mm::new()), fp16);
                add("dotprod", float(Neon::new()), int8(Dotprod::new()), fp16);
            }
            let dotprod = int8(Dotprod::new());
            add("dotprod-nofp16", float(Neon::new()), dotprod, None);
            if fp16.is_some() {
                add("fp16", float(Neon::new()), int8(Neon::new()), fp16);
            }
            add("neon", float(Neon::new()), int8(Neon::new()), None);
        }
    }
    variants.push(SCALAR);
    variants
}

/// A token has no size, so that leaking it costs nothing.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn float<T: Vector + 'static>(token: Option<T>) -> Option<&'static dyn Vector> {
    token.map(|token| -> &'static dyn Vector { Box::leak(Box::new(token)) })
}

/// As [`float`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn int8<T: VectorInt8 + 'static>(token: Option<T>) -> Option<&'static dyn VectorInt8> {
    token.map(|token| -> &'static dyn VectorInt8 { Box::leak(Box::new(token)) })
}

/// As [`float`].
#[cfg(target_arch = "aarch64")]
fn half<T: VectorF16 + 'static>(token: Option<T>) -> Option<&'static dyn VectorF16> {
    token.map(|token| -> &'static dyn VectorF16 { Box::leak(Box::new(token)) })
}

/// The variant that `forced`, the variable's value, asks for; the best one if it asks for none.
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

/// The chosen kernels; the best ones if the choice was an error.
pub(crate) fn kernels() -> Kernels {
    static KERNELS: OnceLock<Kernels> = OnceLock::new();
    *KERNELS.get_or_init(|| match choice() {
        Ok(kernels) => *kernels,
        Err(_) => choose(None).unwrap_or(SCALAR),
    })
}
