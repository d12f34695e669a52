//! The content of the screens.

use std::sync::Arc;
use std::time::Duration;

use pinhole::camera::SceneState;
use pinhole::{Image, PreprocessConfig};

/// A screen with its content.
#[derive(Clone, Debug, PartialEq)]
pub enum Screen {
    /// The appliance starts.
    Boot(BootScreen),
    /// The camera works.
    Live(LiveScreen),
    /// Nothing can be classified.
    Error(ErrorScreen),
    /// The state has not changed for a long time.
    Idle(IdleScreen),
}

/// Shown until the first answer.
#[derive(Clone, Debug, PartialEq)]
pub struct BootScreen {
    /// Name of the bundle.
    pub bundle: String,
    /// The steps of the start, in order.
    pub steps: Vec<BootStep>,
}

/// A step of the start.
#[derive(Clone, Debug, PartialEq)]
pub struct BootStep {
    /// Name, such as "self-test".
    pub name: &'static str,
    /// Result, such as "4 of 4"; `None` until the step has finished.
    pub result: Option<String>,
}

/// Shown while frames are classified.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveScreen {
    /// The state; `None` until there is one.
    pub state: Option<SceneState>,
    /// The most probable classes with their probability (0 to 1), in descending order.
    pub top: Vec<(String, f32)>,
    /// The frame, for colour displays.
    pub frame: Option<CroppedFrame>,
    /// Classified frames per second.
    pub rate: f64,
    /// Temperature of the processor in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Whether the board is throttled because of heat or low voltage.
    pub throttled: bool,
    /// A problem that does not stop the classification.
    pub notice: Option<String>,
}

/// A frame and the preprocessing that crops it.
#[derive(Clone, Debug, PartialEq)]
pub struct CroppedFrame {
    /// The frame.
    pub image: Arc<Image>,
    /// The bundle's preprocessing configuration.
    pub preprocessing: Arc<PreprocessConfig>,
}

/// Shown while nothing can be classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorScreen {
    /// The part that failed, such as "Camera".
    pub title: &'static str,
    /// The error.
    pub reason: String,
    /// What happens next, such as "again in 4 s".
    pub action: String,
}

/// Shown after a long time without a change of state.
#[derive(Clone, Debug, PartialEq)]
pub struct IdleScreen {
    /// The state.
    pub state: Option<SceneState>,
    /// Time since the last change of state.
    pub unchanged: Duration,
    /// Temperature of the processor in degrees Celsius.
    pub temperature_c: Option<f64>,
}
