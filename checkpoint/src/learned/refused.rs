//! Methods whose files are refused by name, and how they are recognised.

use super::method::Names;
use super::prompts::{CONTEXT, PREFIX};

/// A method whose files are not read.
pub(super) struct Refused {
    /// Names on the command line, in lower case.
    pub(super) keys: &'static [&'static str],
    pub(super) name: &'static str,
    /// The folder that its trainer writes to, if no other method uses it.
    pub(super) folder: Option<&'static str>,
    /// Parts of tensor names that no other method has.
    marks: &'static [&'static str],
    /// Completes "... is not supported: ".
    pub(super) reason: &'static str,
}

pub(super) static REFUSED: &[Refused] = &[
    Refused {
        keys: &["plot"],
        name: "PLOT",
        folder: None,
        marks: &[],
        reason: "it compares several contexts per class with the features of image regions, by optimal transport for each \
                 image",
    },
    Refused {
        keys: &["proda"],
        name: "ProDA",
        folder: None,
        marks: &[],
        reason: "it learns a distribution of prompts instead of class embeddings",
    },
    Refused {
        keys: &["dept"],
        name: "DePT",
        folder: None,
        marks: &["film_lp_", "linear_probe_proj."],
        reason: "it adds the scores of a second head over rescaled features",
    },
    Refused {
        keys: &["mma"],
        name: "MMA",
        folder: Some("adapter_learner"),
        marks: &["visual_adapter.", "text_adapter.", "shared_adapter."],
        reason: "it adds adapters inside the blocks of both encoders",
    },
    Refused {
        keys: &["tpt"],
        name: "TPT",
        folder: None,
        marks: &[],
        reason: "it trains a prompt for each image, which takes gradients on the board",
    },
    Refused {
        keys: &["promptkd"],
        name: "PromptKD",
        folder: None,
        marks: &["VPT_image_trans."],
        reason: "it needs the class vectors of its teacher, a larger CLIP",
    },
];

/// The method on the command line with this name.
pub(super) fn by_key(key: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|refused| refused.keys.contains(&key))
}

/// The method that a file is of, if it is one of these. `in_path` says whether the file's path has a name.
pub(super) fn of(names: &Names, in_path: impl Fn(&str) -> bool) -> Option<&'static Refused> {
    let marked = |refused: &&Refused| {
        (refused.marks.iter()).any(|mark| names.iter().any(|name| name.contains(mark)))
    };
    let found = REFUSED.iter().find(marked);
    found.or_else(|| several_contexts(names, in_path))
}

/// PLOT saves `ctx` [N, n_ctx, width] for N contexts of every class, which is the shape of class-specific contexts for N
/// classes. But it saves N rows of `token_prefix` for each class.
fn several_contexts(names: &Names, in_path: impl Fn(&str) -> bool) -> Option<&'static Refused> {
    let &[contexts, _, _] = names.shape(CONTEXT)? else {
        return None;
    };
    let is_plot = match names.shape(PREFIX) {
        Some(&[rows, ..]) => contexts > 0 && rows > contexts && rows % contexts == 0,
        _ => in_path("plot"),
    };
    by_key("plot").filter(|_| is_plot)
}
