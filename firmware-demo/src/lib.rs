//! The appliance: a camera, a classifier and a small display.

pub mod app;
pub mod bundle;
pub mod canvas;
pub mod config;
pub mod display;
pub mod log;
#[cfg(feature = "mqtt")]
pub mod mqtt;
mod outlets;
pub mod panel;
pub mod picture;
pub mod screens;
pub mod text;
pub mod totals;
pub mod vitals;
mod watching;
