//! From the answers for single frames to a state that does not flicker: an exponential moving average, then
//! hysteresis. Time is counted in answered frames, and in seconds where the options say so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pinhole_model::Score;

use crate::classification::{Classification, Ranked};

/// Smoothing and hysteresis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackerOptions {
    /// Time constant of the exponential moving average of the probabilities, in frames; 0 for none. A past scene has
    /// the weight exp(-n / smoothing) after n frames.
    pub smoothing: f32,
    /// Frames for which a new class must lead before it becomes the state, at least 1.
    pub hysteresis: u32,
    /// Time for which a new class must lead, in addition to `hysteresis`, from the capture of the first frame in which it
    /// leads.
    pub hysteresis_time: Duration,
    /// A lead in smoothed probability that makes a new class the state immediately; `None` for never.
    pub margin: Option<f32>,
    /// Minimum time between two changes of the state, also with a lead of `margin`.
    pub cool_down: Duration,
}

impl Default for TrackerOptions {
    /// A change is detected in its second frame; a single deviating frame is ignored.
    fn default() -> Self {
        Self {
            smoothing: 1.0,
            hysteresis: 2,
            hysteresis_time: Duration::ZERO,
            margin: None,
            cool_down: Duration::ZERO,
        }
    }
}

/// The state of the scene.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SceneState {
    /// A class.
    Class {
        /// Its index in the bundle's list of classes, which may have its name several times; `None` once a bundle without
        /// that name has replaced it.
        index: Option<usize>,
        /// Its name.
        name: Arc<str>,
    },
    /// None of the classes, by the bundle's unknown policy.
    Unknown,
}

impl SceneState {
    /// The class's name, or "unknown".
    pub fn name(&self) -> &str {
        match self {
            Self::Class { name, .. } => name,
            Self::Unknown => "unknown",
        }
    }

    /// The class's index.
    pub fn index(&self) -> Option<usize> {
        match self {
            Self::Class { index, .. } => *index,
            Self::Unknown => None,
        }
    }

    /// The same class in another bundle's list, if that has its name.
    fn moved_to(&mut self, classes: &[Ranked]) {
        if let Self::Class { index, name } = self {
            let class = classes.iter().find(|class| class.name == *name);
            *index = class.map(|class| class.index);
        }
    }
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The previous state; `None` at the beginning.
    pub from: Option<SceneState>,
    /// The new state.
    pub to: SceneState,
}

/// The smoothed answer for a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackerOutput {
    /// Every class with its smoothed probability and similarity, the most probable first.
    pub ranking: Vec<Ranked>,
    /// What the probabilities are.
    pub score: Score,
    /// Whether the smoothed share of frames that are unknown, by the bundle's policy, exceeds one half.
    pub unknown: bool,
    /// Set in the frame in which the state changes.
    pub change: Option<StateChange>,
}

/// Smooths the answers for consecutive frames and holds the state. [`Pipeline`](super::Pipeline) has one; a program that
/// takes its frames from elsewhere makes its own.
#[derive(Clone, Debug)]
pub struct Tracker {
    options: TrackerOptions,
    /// Smoothed probabilities and similarities, in class order.
    mean: Vec<Ranked>,
    unknown: f32,
    state: Option<SceneState>,
    /// When the state last changed.
    changed: Option<Instant>,
    /// The leader, if it is not the state, for how many frames it has led, and since when.
    challenger: Option<(SceneState, u32, Instant)>,
}

impl Tracker {
    /// A tracker without a state.
    pub fn new(options: TrackerOptions) -> Self {
        Self {
            options,
            mean: vec![],
            unknown: 0.0,
            state: None,
            changed: None,
            challenger: None,
        }
    }

    /// Uses other options from the next frame on. The state stays.
    pub fn set_options(&mut self, options: TrackerOptions) {
        self.options = options;
    }

    /// `None` until a class has led for long enough.
    pub fn state(&self) -> Option<&SceneState> {
        self.state.as_ref()
    }

    /// Adds the answer for the next frame, which was captured at `time`.
    pub fn update(&mut self, answer: &Classification, time: Instant) -> TrackerOutput {
        self.smooth(answer);
        let mut ranking = self.mean.clone();
        // Stable, so that ties keep the class order.
        ranking.sort_by(|a, b| {
            (b.probability.total_cmp(&a.probability)).then(b.similarity.total_cmp(&a.similarity))
        });
        let unknown = self.unknown > 0.5;
        let leader = match ranking.first() {
            Some(best) if !unknown => SceneState::Class {
                index: Some(best.index),
                name: best.name.clone(),
            },
            _ => SceneState::Unknown,
        };
        let lead = self.lead(&ranking, unknown);
        let change = self.challenge(leader, lead, time);
        TrackerOutput {
            ranking,
            score: answer.score,
            unknown,
            change,
        }
    }

    fn smooth(&mut self, answer: &Classification) {
        let mut new = answer.ranking.clone();
        new.sort_by_key(|class| class.index);
        let unknown = f32::from(u8::from(answer.unknown));
        let same_classes = new.len() == self.mean.len()
            && (new.iter().zip(&self.mean)).all(|(new, mean)| new.name == mean.name);
        if !same_classes {
            // A new bundle: its order of the classes is no change of the state.
            let challenger = self.challenger.as_mut().map(|(state, ..)| state);
            for state in self.state.as_mut().into_iter().chain(challenger) {
                state.moved_to(&new);
            }
        }
        if !same_classes || self.options.smoothing <= 0.0 {
            (self.mean, self.unknown) = (new, unknown);
            return;
        }
        let weight = 1.0 - (-1.0 / self.options.smoothing).exp();
        for (mean, new) in self.mean.iter_mut().zip(new) {
            mean.probability += weight * (new.probability - mean.probability);
            mean.similarity += weight * (new.similarity - mean.similarity);
        }
        self.unknown += weight * (unknown - self.unknown);
    }

    /// By how much the leader leads the state, in probability; if one of them is unknown, in the share of frames.
    fn lead(&self, ranking: &[Ranked], unknown: bool) -> f32 {
        if unknown || self.state == Some(SceneState::Unknown) {
            return 2.0 * (self.unknown - 0.5).abs();
        }
        let best = ranking.first().map_or(0.0, |class| class.probability);
        let state = self.state.as_ref().and_then(SceneState::index);
        let current = ranking.iter().find(|class| state == Some(class.index));
        best - current.map_or(0.0, |class| class.probability)
    }

    fn challenge(&mut self, leader: SceneState, lead: f32, time: Instant) -> Option<StateChange> {
        if self.state.as_ref() == Some(&leader) {
            self.challenger = None;
            return None;
        }
        let (frames, since) = match &self.challenger {
            Some((challenger, frames, since)) if *challenger == leader => {
                (frames.saturating_add(1), *since)
            }
            _ => (1, time),
        };
        let options = &self.options;
        let led = time.saturating_duration_since(since);
        let led_long = frames >= options.hysteresis && led >= options.hysteresis_time;
        let leads_clearly = options.margin.is_some_and(|margin| lead >= margin);
        let cooled =
            (self.changed).is_none_or(|at| time.saturating_duration_since(at) >= options.cool_down);
        if !cooled || !(led_long || leads_clearly) {
            self.challenger = Some((leader, frames, since));
            return None;
        }
        self.challenger = None;
        self.changed = Some(time);
        let from = self.state.replace(leader.clone());
        Some(StateChange { from, to: leader })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Latency;

    /// An answer with these probabilities for the classes 0, 1, ...
    fn answer(probabilities: &[f32], unknown: bool) -> Classification {
        let mut ranking: Vec<Ranked> = (probabilities.iter().enumerate())
            .map(|(index, probability)| Ranked {
                index,
                name: index.to_string().into(),
                probability: *probability,
                similarity: *probability,
            })
            .collect();
        ranking.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        Classification {
            ranking,
            score: Score::Softmax,
            unknown,
            latency: Latency::default(),
        }
    }

    /// Time between two frames.
    const PERIOD: Duration = Duration::from_millis(500);

    /// The frames in which the state changes, and the new state; "?" is an unknown frame.
    fn events(options: TrackerOptions, frames: &str) -> Vec<(usize, String)> {
        let mut tracker = Tracker::new(options);
        let mut events = vec![];
        let start = Instant::now();
        for (number, frame) in frames.chars().enumerate() {
            let answer = match frame {
                'a' => answer(&[0.9, 0.1, 0.0], false),
                'b' => answer(&[0.1, 0.9, 0.0], false),
                'c' => answer(&[0.1, 0.0, 0.9], false),
                _ => answer(&[0.4, 0.3, 0.3], true),
            };
            let tracked = tracker.update(&answer, start + PERIOD * number as u32);
            if let Some(change) = tracked.change {
                assert_eq!(tracker.state(), Some(&change.to));
                let to = match change.to {
                    SceneState::Class { name, .. } => name.to_string(),
                    SceneState::Unknown => "unknown".into(),
                };
                events.push((number, to));
            }
        }
        events
    }

    fn options(smoothing: f32, hysteresis: u32, margin: Option<f32>) -> TrackerOptions {
        TrackerOptions {
            smoothing,
            hysteresis,
            margin,
            ..TrackerOptions::default()
        }
    }

    #[track_caller]
    fn assert_events(options: TrackerOptions, frames: &str, expected: &[(usize, &str)]) {
        let found = events(options, frames);
        let found: Vec<(usize, &str)> = found.iter().map(|(n, to)| (*n, to.as_str())).collect();
        assert_eq!(found, expected, "{frames}");
    }

    #[test]
    fn a_class_must_lead_for_hysteresis_frames() {
        assert_events(
            options(0.0, 1, None),
            "aabab",
            &[(0, "0"), (2, "1"), (3, "0"), (4, "1")],
        );
        assert_events(options(0.0, 2, None), "aabaabb", &[(1, "0"), (6, "1")]);
        assert_events(options(0.0, 3, None), "aaabbabbb", &[(2, "0"), (8, "1")]);
        // Two challengers do not add up.
        assert_events(options(0.0, 2, None), "aabcbcc", &[(1, "0"), (6, "2")]);
    }

    /// If this fails, a running camera keeps the options that it started with.
    #[test]
    fn options_can_change_between_two_frames() {
        let now = Instant::now();
        let mut tracker = Tracker::new(options(0.0, 3, None));
        let changes = |tracker: &mut Tracker, probabilities: &[f32]| {
            tracker.update(&answer(probabilities, false), now).change
        };
        assert_eq!(changes(&mut tracker, &[1.0, 0.0]), None);
        tracker.set_options(options(0.0, 1, None));
        assert!(changes(&mut tracker, &[1.0, 0.0]).is_some());
        assert_eq!(tracker.state().and_then(SceneState::index), Some(0));
        tracker.set_options(options(0.0, 2, None));
        assert_eq!(tracker.state().and_then(SceneState::index), Some(0));
        assert_eq!(changes(&mut tracker, &[0.0, 1.0]), None);
    }

    /// A frame takes half a second.
    #[test]
    fn a_class_must_lead_for_the_hysteresis_time() {
        let options = |hysteresis, seconds| TrackerOptions {
            hysteresis_time: Duration::from_secs_f64(seconds),
            ..options(0.0, hysteresis, Some(0.95))
        };
        assert_events(options(1, 1.0), "aaabbabbb", &[(2, "0"), (8, "1")]);
        assert_events(options(1, 0.9), "aaabbabbb", &[(2, "0"), (8, "1")]);
        // Both are needed.
        assert_events(options(4, 1.0), "aaaabbb", &[(3, "0")]);
        // A clear lead needs neither; see `a_clear_lead_needs_no_second_frame`.
        assert_events(options(4, 9.0), "aaa???", &[(3, "unknown")]);
    }

    #[test]
    fn two_changes_are_the_cool_down_apart() {
        let options = |margin| TrackerOptions {
            cool_down: Duration::from_secs(2),
            ..options(0.0, 1, margin)
        };
        // The first state needs no pause, and the class that leads at the end of the pause is the next.
        assert_events(options(None), "abcbcb", &[(0, "0"), (4, "2")]);
        assert_events(options(Some(0.1)), "ababab", &[(0, "0"), (5, "1")]);
        assert_events(options(None), "abaaaab", &[(0, "0"), (6, "1")]);
    }

    #[test]
    fn a_clear_lead_needs_no_second_frame() {
        // 0.9 leads 0.1 by 0.8, and no state by 0.9.
        assert_events(options(0.0, 3, Some(0.75)), "ab", &[(0, "0"), (1, "1")]);
        assert_events(options(0.0, 3, Some(0.85)), "abbb", &[(0, "0"), (3, "1")]);
        // Against "unknown" the lead is the share of frames, here 1, not the probability 0.9.
        assert_events(
            options(0.0, 3, Some(0.95)),
            "?a",
            &[(0, "unknown"), (1, "0")],
        );
    }

    #[test]
    fn smoothing_is_an_exponential_moving_average() {
        let now = Instant::now();
        let mut tracker = Tracker::new(options(4.0, 1, None));
        tracker.update(&answer(&[1.0, 0.0], false), now);
        for frame in 1..=12 {
            let tracked = tracker.update(&answer(&[0.0, 1.0], false), now);
            let old = tracked
                .ranking
                .iter()
                .find(|class| class.index == 0)
                .unwrap();
            let expected = (-frame as f32 / 4.0).exp();
            assert!((old.probability - expected).abs() < 1e-5, "{frame}");
            assert!((old.similarity - expected).abs() < 1e-5, "{frame}");
        }
        // Without smoothing an answer is bit-identical.
        let mut tracker = Tracker::new(options(0.0, 1, None));
        tracker.update(&answer(&[1.0, 0.0], false), now);
        let next = answer(&[0.1, 0.9], false);
        assert_eq!(tracker.update(&next, now).ranking, next.ranking);
        // The new class leads once exp(-n / 4) < 1/2, at n = 3.
        assert_events(options(4.0, 1, None), "abbbb", &[(0, "0"), (3, "1")]);
    }

    #[test]
    fn unknown_is_a_state_like_a_class() {
        assert_events(
            options(0.0, 2, None),
            "aa?a??aa",
            &[(1, "0"), (5, "unknown"), (7, "0")],
        );
        assert_events(
            options(1.0, 2, None),
            "aaa???aaa",
            &[(1, "0"), (4, "unknown"), (7, "0")],
        );
        let now = Instant::now();
        let mut tracker = Tracker::new(options(1.0, 1, None));
        assert!(tracker.update(&answer(&[0.6, 0.4], true), now).unknown);
        assert!(!tracker.update(&answer(&[0.6, 0.4], false), now).unknown);
    }

    /// If this fails, a change between two classes of one name is lost, or a new bundle's order is one.
    #[test]
    fn a_class_is_its_index_within_a_bundle_and_its_name_between_bundles() {
        let mut tracker = Tracker::new(options(0.0, 1, None));
        let start = Instant::now();
        let mut named = |probabilities: &[f32], names: [&str; 3]| {
            let mut answer = answer(probabilities, false);
            for class in &mut answer.ranking {
                class.name = names[class.index].into();
            }
            let change = tracker.update(&answer, start).change;
            change.map(|change| (change.from.and_then(|from| from.index()), change.to.index()))
        };
        let names = ["missile", "cat", "missile"];
        assert_eq!(named(&[0.9, 0.1, 0.0], names), Some((None, Some(0))));
        assert_eq!(named(&[0.1, 0.0, 0.9], names), Some((Some(0), Some(2))));
        assert_eq!(named(&[0.0, 0.9, 0.1], names), Some((Some(2), Some(1))));
        assert_eq!(named(&[0.9, 0.1, 0.0], ["cat", "dog", "fox"]), None);
        let other = named(&[0.1, 0.9, 0.0], ["cat", "dog", "fox"]);
        assert_eq!(other, Some((Some(0), Some(1))));
        // The class at the index of one that is gone is another class.
        let other = named(&[0.1, 0.9, 0.0], ["cat", "owl", "fox"]);
        assert_eq!(other, Some((None, Some(1))));
    }

    #[test]
    fn answers_of_another_bundle_are_not_mixed_with_earlier_ones() {
        let now = Instant::now();
        let mut tracker = Tracker::new(options(4.0, 1, None));
        tracker.update(&answer(&[1.0, 0.0], false), now);
        let mut other = answer(&[0.0, 1.0], false);
        for class in &mut other.ranking {
            class.name = format!("{} of another bundle", class.name).into();
        }
        assert_eq!(tracker.update(&other, now).ranking, other.ranking);
    }

    #[test]
    fn by_default_a_change_is_detected_in_its_second_frame() {
        assert_events(
            TrackerOptions::default(),
            "aaaabaaaabbbb",
            &[(1, "0"), (10, "1")],
        );
        assert_events(TrackerOptions::default(), "aaaa?aaaa", &[(1, "0")]);
        let now = Instant::now();
        let mut tracker = Tracker::new(TrackerOptions::default());
        tracker.update(&answer(&[1.0, 0.0], false), now);
        let old = &tracker.update(&answer(&[0.0, 1.0], false), now).ranking[1];
        assert!((old.probability - (-1.0f32).exp()).abs() < 1e-6, "{old:?}");
    }
}
