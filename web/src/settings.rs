//! What can be changed while the camera runs.

use std::time::Duration;

use pinhole::UnknownThresholds;
use pinhole::camera::{Region, TrackerOptions};
use serde::{Deserialize, Serialize};

/// Where the settings are that a program starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    /// Options of the command line: `pinhole serve`.
    Options,
    /// The appliance's configuration, in TOML.
    Configuration,
}

/// The settings of a running camera. Their JSON is a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Time constant of the smoothing of the probabilities, in classified frames; 0 for none.
    pub smoothing: f32,
    /// Frames in a row that a class must lead to become the state, at least 1.
    pub hysteresis: u32,
    /// Seconds for which a class must lead, in addition.
    pub hysteresis_seconds: f64,
    /// Minimum seconds between two changes of the state.
    pub cool_down_seconds: f64,
    /// Lead in probability with which a class becomes the state at once; null for never.
    pub margin: Option<f32>,
    /// Cosine similarity below which the best class is "unknown"; null for no check.
    pub min_similarity: Option<f32>,
    /// Lead in cosine similarity below which the best class is "unknown"; null for no check.
    pub min_margin: Option<f32>,
    /// The part of each frame that is classified, in pixels: left, top, width, height; null for the whole frame.
    pub region: Option<[u32; 4]>,
}

impl Settings {
    /// The settings that a camera starts with.
    pub fn new(
        tracker: &TrackerOptions,
        thresholds: UnknownThresholds,
        region: Option<Region>,
    ) -> Self {
        Self {
            smoothing: tracker.smoothing,
            hysteresis: tracker.hysteresis,
            hysteresis_seconds: tracker.hysteresis_time.as_secs_f64(),
            cool_down_seconds: tracker.cool_down.as_secs_f64(),
            margin: tracker.margin,
            min_similarity: thresholds.min_similarity,
            min_margin: thresholds.min_margin,
            region: region.map(|r| [r.x, r.y, r.width, r.height]),
        }
    }

    /// How answers become a state.
    pub fn tracker(&self) -> TrackerOptions {
        let seconds = |s| Duration::try_from_secs_f64(s).unwrap_or(Duration::ZERO);
        TrackerOptions {
            smoothing: self.smoothing,
            hysteresis: self.hysteresis,
            hysteresis_time: seconds(self.hysteresis_seconds),
            margin: self.margin,
            cool_down: seconds(self.cool_down_seconds),
        }
    }

    /// When an answer is "unknown".
    pub fn thresholds(&self) -> UnknownThresholds {
        UnknownThresholds {
            min_similarity: self.min_similarity,
            min_margin: self.min_margin,
        }
    }

    /// The part of each frame that is classified.
    pub fn region(&self) -> Option<Region> {
        (self.region).map(|[x, y, width, height]| Region {
            x,
            y,
            width,
            height,
        })
    }

    /// What a program is started with to have these settings: options, or lines of its configuration. A threshold that is
    /// null is one that no answer falls below, because without it the bundle's counts.
    pub fn kept_by(&self, keeper: Keeper) -> String {
        let similarity = self.min_similarity.unwrap_or(-1.0);
        let min_margin = self.min_margin.unwrap_or(0.0);
        match keeper {
            Keeper::Options => {
                let margin = self.margin.map(|margin| format!(" --margin {margin}"));
                let region = self.region().map(|region| format!(" --region {region}"));
                format!(
                    "--smoothing {} --hysteresis {} --hysteresis-seconds {} --cool-down-seconds {}{} --min-similarity \
                     {similarity} --min-margin {min_margin}{}",
                    self.smoothing,
                    self.hysteresis,
                    self.hysteresis_seconds,
                    self.cool_down_seconds,
                    margin.unwrap_or_default(),
                    region.unwrap_or_default()
                )
            }
            Keeper::Configuration => {
                let region = match self.region {
                    Some(region) => format!("region = {region:?}"),
                    None => "# no region".into(),
                };
                let margin = match self.margin {
                    Some(margin) => format!("margin = {margin:?}"),
                    None => "# no margin".into(),
                };
                format!(
                    "[source]\n{region}\n\n[thresholds]\nsmoothing = {:?}\nhysteresis = {}\nhysteresis_seconds = {:?}\n\
                     cool_down_seconds = {:?}\n{margin}\nmin_similarity = {similarity:?}\nmin_margin = {min_margin:?}\n",
                    self.smoothing,
                    self.hysteresis,
                    self.hysteresis_seconds,
                    self.cool_down_seconds
                )
            }
        }
    }

    /// These settings with the fields of a JSON object in place of their own. `frame` is the size of the camera's
    /// frames, if it is known.
    ///
    /// # Errors
    /// The field, what was expected and what was found.
    pub fn merged(&self, json: &[u8], frame: Option<(u32, u32)>) -> Result<Self, String> {
        let changes: serde_json::Map<String, serde_json::Value> =
            pinhole_fs::from_json(json).map_err(|e| e.to_string())?;
        // What a program was started with is not checked again.
        let changed: Vec<String> = changes.keys().cloned().collect();
        let mut all = serde_json::to_value(self).map_err(|e| e.to_string())?;
        if let serde_json::Value::Object(all) = &mut all {
            all.extend(changes);
        }
        let merged: Self = pinhole_fs::deserialize(all).map_err(|e| e.to_string())?;
        merged.check(&|name| changed.iter().any(|known| known == name), frame)?;
        Ok(merged)
    }

    fn check(
        &self,
        changed: &dyn Fn(&str) -> bool,
        frame: Option<(u32, u32)>,
    ) -> Result<(), String> {
        let between = |name: &str, value, least, most| match changed(name) {
            true => between(name, value, least, most),
            false => Ok(()),
        };
        const DAY: f64 = 86_400.0;
        between("smoothing", f64::from(self.smoothing), 0.0, 1e6)?;
        between("hysteresis", f64::from(self.hysteresis), 1.0, 1e6)?;
        between("hysteresis_seconds", self.hysteresis_seconds, 0.0, DAY)?;
        between("cool_down_seconds", self.cool_down_seconds, 0.0, DAY)?;
        for (name, value, least, most) in [
            ("margin", self.margin, 0.0, 1.0),
            ("min_similarity", self.min_similarity, -1.0, 1.0),
            ("min_margin", self.min_margin, 0.0, 2.0),
        ] {
            value.map_or(Ok(()), |v| between(name, f64::from(v), least, most))?;
        }
        let Some([x, y, width, height]) = self.region.filter(|_| changed("region")) else {
            return Ok(());
        };
        let inside = |start: u32, length: u32, end: u32| {
            length > 0 && start.checked_add(length).is_some_and(|e| e <= end)
        };
        let (right, bottom) = frame.unwrap_or((u32::MAX, u32::MAX));
        if inside(x, width, right) && inside(y, height, bottom) {
            return Ok(());
        }
        let frame = frame.map_or("the frame".into(), |(w, h)| format!("{w} x {h} pixels"));
        Err(format!(
            "region: expected left, top, width and height inside of {frame}, found {x},{y},{width},{height}"
        ))
    }
}

fn between(name: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(format!("{name}: expected {least} to {most}, found {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(
            &TrackerOptions::default(),
            UnknownThresholds::default(),
            None,
        )
    }

    #[test]
    fn only_the_named_fields_change() {
        let before = settings();
        let after = before
            .merged(
                br#"{"hysteresis": 5, "margin": 0.5, "region": [1, 2, 3, 4]}"#,
                None,
            )
            .unwrap();
        assert_eq!(after.hysteresis, 5);
        assert_eq!(after.tracker().margin, Some(0.5));
        assert_eq!(after.smoothing, before.smoothing);
        let again = after.merged(br#"{"margin": null, "region": null}"#, None);
        assert_eq!(
            again.unwrap(),
            Settings {
                hysteresis: 5,
                ..before
            }
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_name_of_its_field() {
        for (json, name) in [
            (r#"{"hysteresis": 0}"#, "hysteresis"),
            (r#"{"hysteresis": -1}"#, "hysteresis"),
            (r#"{"smoothing": 1e300}"#, "smoothing"),
            (r#"{"margin": 1.5}"#, "margin"),
            (r#"{"min_margin": -0.1}"#, "min_margin"),
            (r#"{"cool_down_seconds": 1e9}"#, "cool_down_seconds"),
            (r#"{"colour": 1}"#, "colour"),
            (r#"{"region": [0, 0, 0, 5]}"#, "region"),
            (r#"{"region": [600, 0, 41, 5]}"#, "region"),
            (r#"{"region": [4294967295, 0, 1, 5]}"#, "region"),
            (r#"{"region": [1, 2]}"#, "region"),
            ("[]", "map"),
            ("{", ""),
        ] {
            let error = settings().merged(json.as_bytes(), Some((640, 480)));
            let error = error.unwrap_err();
            assert!(error.contains(name), "{json}: {error}");
        }
        let whole = settings().merged(br#"{"region": [0, 0, 640, 480]}"#, Some((640, 480)));
        assert_eq!(whole.unwrap().region().unwrap().width, 640);
    }
}
