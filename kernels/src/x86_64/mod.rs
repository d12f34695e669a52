//! Instruction sets of x86-64.

mod avx2;
mod avx512;
mod avx512vnni;
mod avxvnni;
mod dot;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::Avx512;
pub(crate) use avx512vnni::Avx512Vnni;
pub(crate) use avxvnni::AvxVnni;
#[cfg(test)]
pub(crate) use avxvnni::EmulatedVnni;
#[cfg(test)]
pub(crate) use dot::Dot;
