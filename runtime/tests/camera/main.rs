//! The tests of cameras with a stub for the classifier, in one program. They measure time, so tests that keep the processor
//! busy are elsewhere: in `classifier/`, and in files of their own beside it.

mod support;

mod folders;
#[cfg(feature = "http")]
mod network;
mod programs;
mod sources;
mod streams;
