//! The tests of MQTT in one program, apart from the others because they measure time.
#![cfg(feature = "mqtt")]

mod fake_broker;
#[path = "../support/mod.rs"]
mod support;

mod broker;
mod home_assistant;
mod publishing;
mod state;
