//! Files of learned methods: which method they are of, and what they hold.
//!
//! `methods/` is the registry: each file there has the names and shapes of one method's tensors, and says what becomes of
//! them ([`Learned`]).

mod deep_prompts;
mod files;
mod method;
mod methods;
pub(crate) mod prompts;
mod refused;
mod trained_classes;
mod write;

use std::path::Path;

use pinhole_model::{ClipConfig, Learned, LearnedClasses, PromptLearner};

pub use method::{Method, MethodOption};
pub use methods::clip_lora::LAYERS as CLIP_LORA_LAYERS;
pub use write::{write_learned, write_prompt_learner};

use crate::read::read_flat;
use crate::{Error, StateDict};
use files::Found;
use method::{Given, LearnedTensors, Names, Presence, Recognition, known_tensors};

/// What the files of a learned method may not state.
#[derive(Clone, Debug, Default)]
pub struct LearnedOptions {
    /// The method; `None` to recognise it.
    pub method: Option<&'static Method>,
    /// Values of [`Method::options`] by name.
    pub values: Vec<(String, f32)>,
    /// The CLIP that it is for, which methods that change weights need.
    pub clip: Option<ClipConfig>,
}

impl Method {
    /// Every method that is read.
    pub fn all() -> &'static [&'static Method] {
        methods::METHODS
    }

    /// The method with this name, whatever the case.
    ///
    /// # Errors
    /// A text that says which methods there are, or why this one is not supported.
    pub fn find(name: &str) -> Result<&'static Method, String> {
        let key = name.to_ascii_lowercase();
        if let Some(method) = Self::all().iter().find(|method| method.key == key) {
            return Ok(method);
        }
        if let Some(refused) = refused::by_key(&key) {
            return Err(format!(
                "{} is not supported: {}",
                refused.name, refused.reason
            ));
        }
        let known: Vec<&str> = Self::all().iter().map(|method| method.key).collect();
        Err(format!("expected one of {}", known.join(", ")))
    }
}

/// Reads the files of a learned method: those that its reference implementation wrote (zip or legacy pickle, f32, f16 or
/// bf16, with or without `prompt_learner.` before the names), a file of
/// [`write_prompt_learner`](crate::write_prompt_learner) or [`write_learned`], or the output folder of a training that has one of these.
///
/// # Errors
/// A folder with none or several; a file that cannot be read; one of a method that is not supported, or of no method: the
/// error names the tensor; NaN or infinity; an option that the method does not have.
pub fn read_learned(path: &Path, options: &LearnedOptions) -> Result<Learned, Error> {
    let Found { files, method } = files::find(path, options.method)?;
    let (first, others) = files.split_first().ok_or_else(|| {
        Error::malformed(path, "expected the file of a learned method, found none")
    })?;
    let (mut state, scalars) = read_flat(first)?;
    for other in others {
        state.extend(read_flat(other)?.0)?;
    }
    let given = Given {
        options: &options.values,
        scalars: &scalars,
        clip: options.clip.as_ref(),
    };
    let clip = ["visual.", "vision_model.", "token_embedding."];
    if (state.names()).any(|name| clip.iter().any(|prefix| name.starts_with(prefix))) {
        return Err(Error::malformed(
            first,
            "expected a prompt learner, found a CLIP checkpoint; are two arguments swapped?",
        ));
    }
    let method = match options.method.or(method) {
        Some(method) => method,
        None => recognise(&state, &given)?,
    };
    check_method_options(method, first, &options.values)?;
    let tensors = LearnedTensors::new(method, &state, &given)?;
    let mut learned = (method.read)(&tensors)?;
    learned.trained_classes = trained_classes::read(&tensors)?;
    if !learned.is_class_specific() {
        let note = trained_classes::note(method.name, &learned.trained_classes);
        learned.notes.extend(note);
    }
    Ok(learned)
}

/// Reads learned context vectors, with CoCoOp's network if there is one, as [`read_learned`].
///
/// # Errors
/// As [`read_learned`]; a file of a method that learns something else.
pub fn read_prompt_learner(path: &Path) -> Result<PromptLearner, Error> {
    let learned = read_learned(path, &LearnedOptions::default())?;
    let changed = learned.changes_image_encoder() || learned.changes_text_encoder();
    match learned.classes {
        LearnedClasses::Prompts { learner, .. } if !changed => Ok(*learner),
        _ => Err(Error::malformed(
            path,
            format!(
                "expected learned context vectors (CoOp, CoCoOp), found {}; export a bundle with --learned, and use that",
                learned.method
            ),
        )),
    }
}

/// Checks that the method has each of the options, and that the values are in its range. `path` is what the error names.
///
/// # Errors
/// [`Error::Config`] naming the option.
pub fn check_method_options(
    method: &Method,
    path: &Path,
    values: &[(String, f32)],
) -> Result<(), Error> {
    for (name, value) in values {
        let field = format!("option {name}");
        let Some(option) = method.options.iter().find(|option| option.name == name) else {
            let known: Vec<&str> = method.options.iter().map(|option| option.name).collect();
            let expected = match known.as_slice() {
                [] => format!("no options for {}", method.name),
                known => format!("{}, for {}", known.join(" or "), method.name),
            };
            return Err(Error::config(path, field, expected, name));
        };
        let [least, most] = option.range;
        if !(least..=most).contains(value) {
            let expected = format!("{least} to {most}");
            return Err(Error::config(path, field, expected, value.to_string()));
        }
    }
    Ok(())
}

/// The only method whose tensors are those of the file.
///
/// # Errors
/// A method that is not supported; several; no method: the error is that of the one with the most tensors in common.
fn recognise(state: &StateDict, given: &Given) -> Result<&'static Method, Error> {
    let names = Names::new(state, &[]);
    let path = state.path();
    let in_path =
        |name: &str| (path.components()).any(|part| part.as_os_str().eq_ignore_ascii_case(name));
    if let Some(refused) = refused::of(&names, in_path) {
        return Err(Error::malformed(
            path,
            format!(
                "a file of {}, which is not supported: {}; if it is one of another method, pass --method",
                refused.name, refused.reason
            ),
        ));
    }
    let recognisable = || {
        let by_tensors = |method: &&&Method| method.recognition == Recognition::Tensors;
        methods::METHODS.iter().filter(by_tensors).copied()
    };
    let fits = |method: &&'static Method| {
        has_marks(method, &names) && LearnedTensors::new(method, state, given).is_ok()
    };
    let mut fitting = recognisable().filter(fits);
    if let Some(method) = fitting.next() {
        let others: Vec<&str> = fitting.map(|method| method.name).collect();
        if others.is_empty() {
            return Ok(method);
        }
        return Err(Error::malformed(
            path,
            format!(
                "expected the file of one method, found one that may be of {} or {}; pass --method",
                method.name,
                others.join(" or ")
            ),
        ));
    }
    // Of several, the first.
    let known = |method: &Method| known_tensors(method, state);
    let nearest = recognisable().rev().max_by_key(|method| known(method));
    match nearest.filter(|method| known(method) > 0) {
        Some(nearest) => LearnedTensors::new(nearest, state, given).map(|_| nearest),
        None => {
            let all: Vec<&str> = methods::METHODS.iter().map(|method| method.name).collect();
            let found = match names.iter().next() {
                Some(name) => format!("tensor {name}, which none of them has"),
                None => "no tensors".to_owned(),
            };
            let expected = format!("the file of a learned method ({})", all.join(", "));
            let reason = format!("expected {expected}, found {found}");
            Err(Error::malformed(path, reason))
        }
    }
}

/// Whether the file has what tells the method's files from those of others.
fn has_marks(method: &Method, names: &Names) -> bool {
    (method.tensors.iter())
        .filter(|spec| matches!(spec.presence, Presence::Mark(_)))
        .all(|spec| names.iter().any(|name| spec.fits(name)))
}
