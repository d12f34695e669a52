//! The model inside of what surrounds it in a file: dictionaries of a training, and prefixes of wrapping modules.

use std::path::{Path, PathBuf};

use crate::{Error, StateDict};

/// Parts of names that only wrap a module: DataParallel and DistributedDataParallel, torch.compile, FSDP, activation
/// checkpointing, and the three modules that TinyCLIP (CLIPBase in its open_clip/model.py) splits a CLIP into.
const WRAPPERS: [&str; 7] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_image_encoder",
    "_text_encoder",
    "_logit_scale",
];
/// Prefixes that every name of a file without a recognised model may have.
const COMMON: [&str; 4] = ["_orig_mod.", "module.", "model.", "clip."];
/// Every CLIP has it, at the top.
const SCALE: &str = "logit_scale";
/// Beginnings of names in an image encoder, and in a text encoder.
const IMAGE: [&str; 2] = ["visual.", "vision_model."];
const TEXT: [&str; 4] = ["token_embedding.", "transformer.", "text.", "text_model."];
/// Numbers and texts that are kept of a file.
const MAX_SCALARS: usize = 256;
/// Names that a message lists.
const MAX_LISTED: usize = 12;

/// The dictionaries of tensors in one file.
pub(crate) struct Dictionaries {
    path: PathBuf,
    /// The dotted keys that lead to it, empty for the whole file, and its tensors. Those without tensors are left out.
    found: Vec<(String, StateDict)>,
    /// The keys of the file.
    keys: Vec<String>,
    /// Numbers and texts by their dotted keys.
    scalars: Vec<(String, Scalar)>,
}

/// A value in a file that is no tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Number(f64),
    Text(String),
}

/// A place in a file where the names of a CLIP are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    dictionary: usize,
    /// Of the names in it, wrappers removed.
    prefix: String,
}

impl From<StateDict> for Dictionaries {
    fn from(state: StateDict) -> Self {
        Dictionaries {
            path: state.path().to_owned(),
            keys: (state.names().take(MAX_LISTED + 1).map(str::to_owned)).collect(),
            found: vec![(String::new(), state)],
            scalars: vec![],
        }
    }
}

impl Dictionaries {
    pub(crate) fn new(path: &Path) -> Self {
        Dictionaries {
            path: path.to_owned(),
            found: vec![],
            keys: vec![],
            scalars: vec![],
        }
    }

    /// The keys of the file, for messages.
    pub(crate) fn set_keys<'a>(&mut self, keys: impl Iterator<Item = &'a str>) {
        self.keys = keys.take(MAX_LISTED + 1).map(str::to_owned).collect();
    }

    /// Adds the tensors under dotted keys.
    pub(crate) fn push(&mut self, name: String, state: StateDict) {
        if !state.is_empty() {
            self.found.push((name, state));
        }
    }

    /// Adds a number or a text under a key of the dictionary under dotted keys. Of many the first are kept.
    pub(crate) fn push_scalar(&mut self, dictionary: &str, key: &str, value: Scalar) {
        if self.scalars.len() < MAX_SCALARS {
            self.scalars.push((joined(dictionary, key), value));
        }
    }

    /// All tensors, numbers and texts of the file by their dotted keys; if it is the checkpoint of a training, or has no
    /// dictionaries inside of dictionaries, those of [`Dictionaries::plain`].
    pub(crate) fn flat(mut self) -> Result<(StateDict, Vec<(String, Scalar)>), Error> {
        let scalars = std::mem::take(&mut self.scalars);
        if self.found.is_empty() || self.has_plain_tensors() {
            return Ok((self.plain()?, scalars));
        }
        let mut all = StateDict::new(&self.path, Default::default());
        for (dictionary, state) in self.found {
            all.extend(state.renamed(|name| Some(joined(&dictionary, name)))?)?;
        }
        all.check_reads()?;
        Ok((all, scalars))
    }

    /// The tensors of `state_dict`, or else of the whole file, whatever they are, without common prefixes.
    pub(crate) fn plain(mut self) -> Result<StateDict, Error> {
        let of = |name: &str| self.found.iter().position(|(found, _)| found == name);
        let state = match of("state_dict").or(of("")) {
            Some(index) => self.found.swap_remove(index).1,
            None => StateDict::new(&self.path, Default::default()),
        };
        state.check_reads()?;
        strip_common_prefixes(state)
    }

    /// The tensors of the one CLIP in the file, under the names that its library gave them; what the file has beside
    /// them is added to `notes`. A file without one gives all of its tensors, for the caller to say what they are.
    ///
    /// # Errors
    /// Several CLIPs, such as a moving average beside the weights; no CLIP in a file of several dictionaries.
    pub(crate) fn clip(mut self, notes: &mut Vec<String>) -> Result<StateDict, Error> {
        let mut found = vec![];
        for (name, state) in std::mem::take(&mut self.found) {
            refuse_pruned(&state)?;
            found.push((name, state.renamed(|name| Some(unwrapped(name)))?));
        }
        self.found = found;
        let mut places = self.places();
        match (places.pop(), places.as_slice()) {
            (Some(place), []) => self.take(&place, notes),
            (None, _) if self.found.len() <= 1 || self.has_plain_tensors() => self.plain(),
            (None, _) => Err(Error::malformed(
                &self.path,
                format!(
                    "expected the tensors of one CLIP model, found none (no {SCALE}) under its keys {}; save its state \
                     dict alone",
                    listed(self.keys.iter().cloned())
                ),
            )),
            (Some(last), others) => {
                let all = others.iter().chain([&last]).map(|p| self.describe(p));
                Err(Error::malformed(
                    &self.path,
                    format!(
                        "expected the tensors of one CLIP model, found several: {}; save the one to use as a file of its \
                         own",
                        listed(all)
                    ),
                ))
            }
        }
    }

    /// Whether there are tensors outside of dictionaries inside of the file, or in `state_dict`.
    fn has_plain_tensors(&self) -> bool {
        (self.found.iter()).any(|(name, _)| name.is_empty() || name == "state_dict")
    }

    /// Where the scale of a CLIP is, beside an image encoder and a text encoder.
    fn places(&self) -> Vec<Place> {
        let mut places = vec![];
        for (dictionary, (_, state)) in self.found.iter().enumerate() {
            for name in state.names() {
                let Some(prefix) = name.strip_suffix(SCALE) else {
                    continue;
                };
                if !(prefix.is_empty() || prefix.ends_with('.')) {
                    continue;
                }
                let any =
                    |starts: &[&str]| starts.iter().any(|s| state.any(&format!("{prefix}{s}")));
                if any(&IMAGE) && any(&TEXT) {
                    let prefix = prefix.to_owned();
                    places.push(Place { dictionary, prefix });
                }
            }
        }
        places
    }

    fn describe(&self, place: &Place) -> String {
        let dictionary = &self.found[place.dictionary].0;
        match (dictionary.as_str(), place.prefix.as_str()) {
            ("", "") => "the whole file".to_owned(),
            ("", prefix) => format!("{prefix}*"),
            (dictionary, "") => dictionary.to_owned(),
            (dictionary, prefix) => format!("{dictionary}, {prefix}*"),
        }
    }

    fn take(mut self, place: &Place, notes: &mut Vec<String>) -> Result<StateDict, Error> {
        let description = self.describe(place);
        let (dictionary, state) = self.found.swap_remove(place.dictionary);
        let prefix = place.prefix.as_str();
        let outside: Vec<&str> = (state.names())
            .filter(|name| !name.starts_with(prefix))
            .collect();
        if !(dictionary.is_empty() && prefix.is_empty()) {
            let mut note = format!("weights: those of {description}");
            if !outside.is_empty() {
                note += &format!(
                    "; left out: {}",
                    listed(outside.iter().map(|n| (*n).to_owned()))
                );
            }
            notes.push(note);
        }
        let state = state.renamed(|name| name.strip_prefix(prefix).map(str::to_owned))?;
        state.check_reads()?;
        Ok(state)
    }
}

fn joined(dictionary: &str, name: &str) -> String {
    match dictionary {
        "" => name.to_owned(),
        _ => format!("{dictionary}.{name}"),
    }
}

/// A name without the parts that only wrap a module.
fn unwrapped(name: &str) -> String {
    let parts: Vec<&str> = (name.split('.'))
        .filter(|part| !WRAPPERS.contains(part))
        .collect();
    parts.join(".")
}

/// Refuses TinyCLIP's models that were pruned unit by unit, so that heads and MLPs differ from layer to layer.
fn refuse_pruned(state: &StateDict) -> Result<(), Error> {
    let masks = |name: &&str| name.split('.').any(|part| part == "l0_module");
    let irregular = |name: &&str| {
        let shape = state.info(name).map(|info| info.shape.as_slice());
        name.contains("_image_encoder.")
            && name.ends_with(".attn.in_proj_weight")
            && matches!(shape, Some([rows, width]) if *rows != width.saturating_mul(3))
    };
    match state.names().find(|name| masks(name) || irregular(name)) {
        None => Ok(()),
        Some(name) => Err(Error::unsupported(
            state.path(),
            format!(
                "a TinyCLIP \"auto\" model, whose layers were pruned to different sizes ({name}),"
            ),
        )),
    }
}

/// Removes prefixes that every name has.
fn strip_common_prefixes(mut state: StateDict) -> Result<StateDict, Error> {
    while let Some(prefix) = COMMON
        .iter()
        .find(|prefix| !state.is_empty() && state.names().all(|name| name.starts_with(*prefix)))
    {
        state = state.renamed(|name| name.strip_prefix(prefix).map(str::to_owned))?;
    }
    Ok(state)
}

/// Some of the names, for a message.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(MAX_LISTED + 1).collect();
    if names.len() > MAX_LISTED {
        names[MAX_LISTED] = "...".to_owned();
    }
    names.join(", ")
}
