//! What clients send to the web server, and its password file.

use pinhole::UnknownThresholds;
use pinhole::camera::TrackerOptions;
use pinhole_web::Settings;

use crate::scratch;

/// A request's head: method, URI, and `name: value` lines.
pub(crate) fn request(bytes: &[u8]) {
    pinhole_web::fuzz_request(&String::from_utf8_lossy(bytes));
}

/// The hash of a password.
pub(crate) fn password(bytes: &[u8]) {
    let _ = pinhole_web::check_hash(&String::from_utf8_lossy(bytes));
}

/// Changes of settings.
pub(crate) fn settings(bytes: &[u8]) {
    let before = Settings::new(
        &TrackerOptions::default(),
        UnknownThresholds::default(),
        None,
    );
    if let Ok(after) = before.merged(bytes, Some((640, 480))) {
        let region = after.region();
        assert!(region.is_none_or(|r| r.x + r.width <= 640 && r.y + r.height <= 480));
        assert!(after.tracker().hysteresis > 0 && after.smoothing.is_finite());
    }
}

/// A bundle as a tar archive.
pub(crate) fn archive(bytes: &[u8]) {
    pinhole_web::fuzz_archive(bytes, &scratch::empty_folder("archive"));
}
