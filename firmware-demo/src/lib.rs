//! The appliance: classifies what a camera sees and shows it on a small display.

mod access;
pub mod app;
mod board;
pub mod bundle;
mod camera;
pub mod canvas;
pub mod config;
pub mod console;
pub mod counters;
pub mod display;
pub mod image_file;
mod identity;
pub mod log;
#[cfg(feature = "mqtt")]
pub mod mqtt;
pub mod panel;
mod reporter;
#[cfg(feature = "mqtt")]
mod report;
pub mod screens;
mod systemd;
pub mod text;
mod threads;
pub mod validation;
mod view;
