//! The integration tests in one program.

mod common;

mod conditional;
mod encoder;
mod learned;
mod tokens;
