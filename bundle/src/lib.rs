//! The deploy format: written by export, read by the runtime
