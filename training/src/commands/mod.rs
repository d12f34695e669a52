//! The subcommands of `pinhole-train`.

pub(crate) mod adapt;
pub(crate) mod base_to_new;
pub(crate) mod clip;
mod common;
pub(crate) mod evaluate;
pub(crate) mod few_shot;
pub(crate) mod learn;
mod protocol;
pub(crate) mod shapes;
