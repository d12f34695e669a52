//! Methods that adapt a CLIP with few labelled images per class, on embeddings that are computed once: caches of examples,
//! linear heads, and low-rank changes of the image encoder.
//!
//! | file | subject |
//! |---|---|
//! | `adapter` | what a method is: name, options, how it learns; the registry |
//! | `task` | what it learns from |
//! | `tip_adapter` | Tip-Adapter and Tip-Adapter-F |
//! | `linear` | a linear head that starts at the class embeddings (LP++'s form) |
//! | `lora` | CLIP-LoRA on the image encoder |
//! | `minimise` | L-BFGS |
//!
//! What they learn is written by [`pinhole_checkpoint::write_learned`], as [`LEARNED_FILE`].

mod adapter;
mod linear;
mod lora;
mod minimise;
mod registry;
mod task;
mod tip_adapter;

pub use adapter::{Adapter, AdapterOptions, check_values};
pub use linear::fit_linear;
pub use lora::{LoraMatrix, LoraOptions, LoraTraining};
pub use task::{Examples, Task};
pub use tip_adapter::{KeyTraining, train_keys};

/// The file of what was learned, in the output folder of a training.
pub const LEARNED_FILE: &str = "learned.safetensors";
