//! The integration tests in one program: each test program links candle and tract, which takes seconds. `tests/kills.rs`
//! needs an undisturbed machine.

mod common;

mod adaptation;
mod command;
mod evaluate;
mod hub;
mod image_encoder;
mod prompt_command;
mod prompt_learning;
mod training;
