//! From the answers for single frames to a state that does not flicker: an exponential mean, then hysteresis.
//! Neither knows threads or clocks; time is counted in frames that were answered.

use crate::Classification;
use crate::classifier::Ranked;

/// How a [`Tracker`] smooths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackerOptions {
    /// Time constant of the exponential mean of the probabilities, in frames; 0 for none. A scene that is gone
    /// has exp(-n / smoothing) of the weight after n frames.
    pub smoothing: f32,
    /// Frames for which a new class must lead before it becomes the state, at least 1.
    pub hysteresis: u32,
    /// A lead in (smoothed) probability that makes a new class the state at once; `None` for never.
    pub margin: Option<f32>,
}

impl Default for TrackerOptions {
    /// A change is told in its second frame, and a single odd frame is none.
    fn default() -> Self {
        Self {
            smoothing: 1.0,
            hysteresis: 2,
            margin: None,
        }
    }
}

/// What the camera sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A class, by name.
    Class(String),
    /// None of the classes, as the bundle's policy says.
    Unknown,
}

/// The state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state before; `None` at the beginning.
    pub from: Option<Seen>,
    /// The state now.
    pub to: Seen,
}

/// What a tracker makes of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracked {
    /// Every class with its smoothed probability and similarity, the most probable first.
    pub ranking: Vec<Ranked>,
    /// Whether more than half of the smoothed frames are unknown to the bundle's policy.
    pub unknown: bool,
    /// Set in the frame in which the state changes.
    pub change: Option<Change>,
}

/// Smooths answers and keeps the state.
#[derive(Clone, Debug)]
pub struct Tracker {
    options: TrackerOptions,
    /// Smoothed, in the bundle's order.
    mean: Vec<Ranked>,
    unknown: f32,
    state: Option<Seen>,
    /// What leads and is not the state, and for how many frames.
    challenger: Option<(Seen, u32)>,
}

impl Tracker {
    /// A tracker that has seen nothing.
    pub fn new(options: TrackerOptions) -> Self {
        Self {
            options,
            mean: vec![],
            unknown: 0.0,
            state: None,
            challenger: None,
        }
    }

    /// The state: what the camera sees. `None` until something led for long enough.
    pub fn state(&self) -> Option<&Seen> {
        self.state.as_ref()
    }

    /// Takes the answer for the next frame.
    pub fn update(&mut self, answer: &Classification) -> Tracked {
        self.smooth(answer);
        let mut ranking = self.mean.clone();
        // Stable, so that equal classes keep the bundle's order.
        ranking.sort_by(|a, b| {
            (b.probability.total_cmp(&a.probability)).then(b.similarity.total_cmp(&a.similarity))
        });
        let unknown = self.unknown > 0.5;
        let leader = match ranking.first() {
            Some(best) if !unknown => Seen::Class(best.name.clone()),
            _ => Seen::Unknown,
        };
        let lead = self.lead(&ranking, unknown);
        let change = self.challenge(leader, lead);
        Tracked {
            ranking,
            unknown,
            change,
        }
    }

    fn smooth(&mut self, answer: &Classification) {
        let mut new = answer.ranking.clone();
        new.sort_by_key(|class| class.index);
        let unknown = f32::from(u8::from(answer.unknown));
        let same_classes = new.len() == self.mean.len();
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

    /// How far the leader is in front of the state, in probability; of "unknown", in the share of the frames.
    fn lead(&self, ranking: &[Ranked], unknown: bool) -> f32 {
        if unknown || self.state == Some(Seen::Unknown) {
            return 2.0 * (self.unknown - 0.5).abs();
        }
        let best = ranking.first().map_or(0.0, |class| class.probability);
        let current = ranking
            .iter()
            .find(|class| matches!(&self.state, Some(Seen::Class(name)) if *name == class.name));
        best - current.map_or(0.0, |class| class.probability)
    }

    fn challenge(&mut self, leader: Seen, lead: f32) -> Option<Change> {
        if self.state.as_ref() == Some(&leader) {
            self.challenger = None;
            return None;
        }
        let frames = match &self.challenger {
            Some((challenger, frames)) if *challenger == leader => frames.saturating_add(1),
            _ => 1,
        };
        let leads_clearly = self.options.margin.is_some_and(|margin| lead >= margin);
        if frames < self.options.hysteresis && !leads_clearly {
            self.challenger = Some((leader, frames));
            return None;
        }
        self.challenger = None;
        let from = self.state.replace(leader.clone());
        Some(Change { from, to: leader })
    }
}
