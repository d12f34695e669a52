//! The integration tests in one program: each test program links tract, which takes seconds. `tests/kills.rs` needs an
//! undisturbed machine.

#[path = "../common/mod.rs"]
mod common;

mod calibration;
mod command_line;
mod conditional;
mod deep_prompts;
mod fidelity;
mod foreign;
mod foreign_precision;
mod hostile_graphs;
mod hub;
mod imported;
mod kernels;
mod learned_prompts;
mod onnx_files;
mod parity;
mod siglip;
mod text_side;
mod timm_encoders;
