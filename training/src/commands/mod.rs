//! The subcommands of `pinhole-train`.

pub(crate) mod base_to_new;
pub(crate) mod clip;
mod common;
pub(crate) mod evaluate;
pub(crate) mod learn;
pub(crate) mod shapes;
