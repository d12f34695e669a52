//! The appliance: a camera, a classifier and a small display.

pub mod canvas;
pub mod config;
pub mod log;
#[cfg(feature = "mqtt")]
pub mod mqtt;
pub mod panel;
pub mod picture;
pub mod screens;
pub mod text;
pub mod totals;
