//! The appliance: classifies what a camera sees and shows it on a small display.

mod access;
pub mod app;
pub mod bundle;
mod camera;
pub mod canvas;
pub mod check;
pub mod config;
pub mod console;
pub mod counters;
pub mod display;
mod identity;
pub mod image_file;
pub mod log;
#[cfg(feature = "mqtt")]
pub mod mqtt;
pub mod panel;
#[cfg(feature = "mqtt")]
mod picture;
#[cfg(feature = "mqtt")]
mod report;
mod reporter;
pub mod screens;
mod systemd;
pub mod text;
mod threads;
pub mod validation;
mod view;
#[cfg(feature = "web")]
mod web;
#[cfg(feature = "web")]
pub use pinhole_web::set_password;
