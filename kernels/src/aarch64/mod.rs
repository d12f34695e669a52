//! Instruction sets of 64-bit ARM.

mod dotprod;
mod fp16;
mod i8mm;
mod load;
mod neon;

pub(crate) use dotprod::Dotprod;
pub(crate) use fp16::Fp16;
pub(crate) use i8mm::I8mm;
pub(crate) use neon::Neon;
