//! The integration tests in one program. `tests/limits.rs` measures the memory of its process.

#[path = "../common/mod.rs"]
mod common;

mod formats;
mod hostile;
mod learned;
mod prompt_learner;
mod text_sides;
mod wrappers;
mod write;
