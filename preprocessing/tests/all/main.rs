//! The integration tests in one program. `tests/memory.rs` limits the memory of its processes.

mod support;

mod decode;
mod planes;
mod resize;
