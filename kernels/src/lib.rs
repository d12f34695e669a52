//! Arithmetic: scalar references, SIMD variants, run-time dispatch
