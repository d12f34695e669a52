//! The tests with the demo bundle, in one program: classification, teaching, and scenes before a camera.

mod camera_scenes;
mod library;
mod taught_heads;
mod teaching;
