//! The subcommands of `pinhole-train`.

mod adapt;
pub(crate) mod base_to_new;
pub(crate) mod clip;
mod common;
pub(crate) mod evaluate;
pub(crate) mod few_shot;
mod learn;
pub(crate) mod method;
mod protocol;
pub(crate) mod shapes;
