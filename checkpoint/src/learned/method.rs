//! What the registry knows about a method, and how the tensors of a file are compared with it.

use pinhole_model::{ClipConfig, Learned, LearnedClasses, LearnedForm, Tensor};

use crate::wrapper::Scalar;
use crate::{Error, StateDict};

/// A learned method: how its files are recognised, what they hold, and what becomes of it.
#[derive(Debug)]
pub struct Method {
    /// Name on the command line, such as "kgcoop".
    pub key: &'static str,
    /// Name in reports, such as "KgCoOp".
    pub name: &'static str,
    /// The paper, and the implementation whose files are read.
    pub source: &'static str,
    /// What it is on the board.
    pub forms: &'static [LearnedForm],
    /// Options with their defaults.
    pub options: &'static [MethodOption],
    /// Where its files are.
    pub(super) files: Files,
    /// How a file of the method is distinguished from those of other methods.
    pub(super) recognition: Recognition,
    /// Every tensor that its files have.
    pub(super) tensors: &'static [TensorSpec],
    /// Other names of these tensors: (in the file, in `tensors`). A `*` stands for the same in both.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    /// What the tensors mean.
    pub(super) read: fn(&LearnedTensors) -> Result<Learned, Error>,
}

/// Where the files of a method are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Files {
    /// `model*.pth.tar*` in this folder of a training's output.
    Trainer(&'static str),
    /// One file.
    One,
    /// Files of one tensor each, with one `*` in their names, which stands for the same in all of them. The first tells the
    /// method from others.
    Set(&'static [&'static str]),
}

/// How a file is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recognition {
    /// By its tensors.
    Tensors,
    /// Not at all: its tensors are those of another method, so it must be named.
    Name,
}

/// A number that the files of a method do not state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MethodOption {
    /// Name on the command line, such as "alpha".
    pub name: &'static str,
    /// What it does, with its place in the reference implementation.
    pub help: &'static str,
    /// Without the option; `None` if it is found otherwise, as `help` says.
    pub default: Option<f32>,
    /// The least and the greatest value.
    pub range: [f32; 2],
}

/// A tensor of a method's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorSpec {
    pub(super) name: &'static str,
    /// The shapes that it may have: names of dimensions, which are equal wherever they occur, or numbers. None: any, for
    /// `read` to check.
    pub(super) shapes: &'static [&'static [&'static str]],
    pub(super) presence: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
    /// Passed over; the reason is shown.
    Unused(&'static str),
    /// As `Unused`, and what tells the method's files from those of others.
    Mark(&'static str),
}

/// Shapes by their dimensions.
type Shapes = &'static [&'static [&'static str]];

impl TensorSpec {
    pub(super) const fn new(name: &'static str, shapes: Shapes, presence: Presence) -> Self {
        Self {
            name,
            shapes,
            presence,
        }
    }

    pub(super) const fn required(name: &'static str, shapes: Shapes) -> Self {
        Self::new(name, shapes, Presence::Required)
    }

    pub(super) const fn optional(name: &'static str, shapes: Shapes) -> Self {
        Self::new(name, shapes, Presence::Optional)
    }

    pub(super) fn fits(&self, name: &str) -> bool {
        matching(self.name, name).is_some()
    }

    /// The shapes, for messages.
    fn expected(&self) -> String {
        let shapes: Vec<String> = (self.shapes.iter())
            .map(|shape| format!("[{}]", shape.join(", ")))
            .collect();
        shapes.join(" or ")
    }
}

/// Tensors to write, with their names.
pub(super) type NamedTensors = Vec<(String, Tensor)>;
/// Keys and values of a safetensors file's metadata.
pub(super) type Metadata = Vec<(String, String)>;

/// The prefix that trainers may put before every name.
const PREFIX: &str = "prompt_learner.";

/// What the `*` of a pattern stands for in `name`; empty for a pattern without one. `None` if it is another name.
pub(super) fn matching<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    match pattern.split_once('*') {
        None => (pattern == name).then_some(""),
        Some((start, end)) => name.strip_prefix(start)?.strip_suffix(end),
    }
}

/// The names of a file as a method knows them: without the prefix of a trainer, aliases replaced.
pub(super) struct Names<'a> {
    state: &'a StateDict,
    /// (as the method names it, in the file)
    all: Vec<(String, &'a str)>,
}

impl<'a> Names<'a> {
    pub(super) fn new(state: &'a StateDict, aliases: &[(&str, &str)]) -> Self {
        let prefixed = state.names().all(|name| name.starts_with(PREFIX));
        let prefix = if prefixed { PREFIX } else { "" };
        let bare = |name: &'a str| {
            let bare = &name[prefix.len()..];
            let alias = |(pattern, known): &(&str, &str)| {
                let place = matching(pattern, bare)?;
                Some(known.replace('*', place))
            };
            let alias = aliases.iter().find_map(alias);
            (alias.unwrap_or_else(|| bare.to_owned()), name)
        };
        Self {
            state,
            all: state.names().map(bare).collect(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.iter().any(|known| known == name)
    }

    /// The shape in the file. (`None` also for what only code could build.)
    pub(super) fn shape(&self, name: &str) -> Option<&'a [usize]> {
        let info = self.state.info(self.in_file(name))?;
        Some(&info.shape)
    }

    /// The name in the file, if it has the tensor.
    fn in_file<'b>(&self, name: &'b str) -> &'b str
    where
        'a: 'b,
    {
        let found = self.all.iter().find(|(known, _)| known == name);
        found.map_or(name, |(_, in_file)| in_file)
    }
}

/// The tensors of a file that is one of `method`'s: all required ones are there, no others, and their shapes agree.
pub(super) struct LearnedTensors<'a> {
    pub(super) method: &'static Method,
    names: Names<'a>,
    given: &'a Given<'a>,
}

/// What is known beside the tensors.
pub(super) struct Given<'a> {
    /// Values of options by name.
    pub(super) options: &'a [(String, f32)],
    /// Numbers and texts in the file by their dotted keys.
    pub(super) scalars: &'a [(String, Scalar)],
    /// The CLIP that it is for.
    pub(super) clip: Option<&'a ClipConfig>,
}

/// How many tensors of a file belong to a method, for the method to name in an error. Those of any shape, which several
/// methods have, do not count.
pub(super) fn known_tensors(method: &Method, state: &StateDict) -> usize {
    let names = Names::new(state, method.aliases);
    let counts =
        |spec: &TensorSpec| !spec.shapes.is_empty() || matches!(spec.presence, Presence::Mark(_));
    let known = |name: &&str| {
        let mut specs = method.tensors.iter();
        specs.any(|spec| counts(spec) && spec.fits(name))
    };
    names.iter().filter(known).count()
}

impl<'a> LearnedTensors<'a> {
    /// Compares the file with the method's tensors.
    ///
    /// # Errors
    /// They name the first tensor that is missing, surplus or of another shape.
    pub(super) fn new(
        method: &'static Method,
        state: &'a StateDict,
        given: &'a Given<'a>,
    ) -> Result<Self, Error> {
        let names = Names::new(state, method.aliases);
        let path = state.path();
        for (i, (name, in_file)) in names.all.iter().enumerate() {
            let twice = names.all[..i].iter().any(|(before, _)| before == name);
            if twice || !method.tensors.iter().any(|spec| spec.fits(name)) {
                let expected: Vec<&str> = method.tensors.iter().map(|spec| spec.name).collect();
                return Err(Error::SurplusTensor {
                    path: path.to_owned(),
                    name: (*in_file).to_owned(),
                    shape: names.shape(name).map_or(vec![], <[usize]>::to_vec),
                    expected: format!("{} ({})", method.name, expected.join(", ")),
                });
            }
        }
        let mut sizes: Vec<(&str, usize)> = vec![];
        for spec in method.tensors {
            let of_spec: Vec<&str> = names.iter().filter(|name| spec.fits(name)).collect();
            if of_spec.is_empty() && spec.presence == Presence::Required {
                return Err(Error::config(
                    path,
                    spec.name,
                    format!("{}, a tensor of {}", spec.expected(), method.name),
                    "none",
                ));
            }
            for name in of_spec {
                check_shape(spec, name, &names, &mut sizes)?;
            }
        }
        Ok(Self {
            method,
            names,
            given,
        })
    }

    /// What the `*` of a tensor's name stands for, in the order of the names.
    pub(super) fn places<'b>(&'b self, pattern: &'b str) -> impl Iterator<Item = &'b str> {
        self.names
            .iter()
            .filter_map(move |name| matching(pattern, name))
    }

    /// The shape of a tensor; `None` if the file does not have it.
    pub(super) fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.names.shape(name)
    }

    /// A number in the file, such as an entry of its metadata.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        match self.scalar(key) {
            Some(Scalar::Number(value)) => Some(*value),
            Some(Scalar::Text(_)) => None,
            None => self
                .metadata(key)?
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite()),
        }
    }

    /// A text in the file, as [`LearnedTensors::number`].
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.scalar(key) {
            Some(Scalar::Number(_)) => None,
            Some(Scalar::Text(text)) => Some(text),
            None => self.metadata(key),
        }
    }

    fn scalar(&self, key: &str) -> Option<&'a Scalar> {
        let found = self.given.scalars.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    /// The CLIP that the file is for.
    ///
    /// # Errors
    /// None is given.
    pub(super) fn clip(&self) -> Result<&'a ClipConfig, Error> {
        self.given.clip.ok_or_else(|| {
            let reason = format!(
                "{} changes the encoders of a CLIP: expected its CLIP, found none; export it with pinhole-export bundle \
                 --learned and --clip",
                self.method.name
            );
            Error::malformed(self.path(), reason)
        })
    }

    /// A tensor of the method, f32.
    ///
    /// # Errors
    /// NaN or infinity; a type other than the floating-point ones; a damaged file.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.names.state.tensor(self.names.in_file(name))
    }

    /// An optional tensor of the method.
    ///
    /// # Errors
    /// As [`LearnedTensors::tensor`].
    pub(super) fn optional(&self, name: &str) -> Result<Option<Tensor>, Error> {
        let found = self.names.has(name).then(|| self.tensor(name));
        found.transpose()
    }

    /// The value of an option: as given, else its default.
    pub(super) fn option(&self, name: &str) -> Option<f32> {
        let given = self.given.options.iter().find(|(known, _)| known == name);
        let default = || {
            let option = self.method.options.iter().find(|o| o.name == name);
            option.and_then(|option| option.default)
        };
        given.map(|(_, value)| *value).or_else(default)
    }

    /// A method that changes nothing but how the class embeddings come about.
    pub(super) fn learned(&self, classes: LearnedClasses) -> Learned {
        Learned {
            notes: self.notes(),
            ..Learned::new(self.method.name, classes)
        }
    }

    /// What is passed over, one line for each reason.
    fn notes(&self) -> Vec<String> {
        let mut reasons: Vec<(&str, Vec<&str>)> = vec![];
        for spec in self.method.tensors {
            if let Presence::Unused(reason) | Presence::Mark(reason) = spec.presence
                && self.names.iter().any(|name| spec.fits(name))
            {
                match reasons.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, names)) => names.push(spec.name),
                    None => reasons.push((reason, vec![spec.name])),
                }
            }
        }
        (reasons.into_iter())
            .map(|(reason, names)| {
                format!(
                    "{}: {} not used: {reason}",
                    self.method.name,
                    names.join(", ")
                )
            })
            .collect()
    }

    /// An error about a tensor.
    pub(super) fn wrong(&self, name: &str, expected: impl Into<String>, found: String) -> Error {
        Error::config(self.path(), self.names.in_file(name), expected, found)
    }

    /// An entry of a safetensors file's metadata.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.names.state.metadata(key)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.names.state.path()
    }
}

/// Checks the shape of one tensor, and adds its dimensions to `sizes`.
fn check_shape(
    spec: &TensorSpec,
    name: &str,
    names: &Names,
    sizes: &mut Vec<(&'static str, usize)>,
) -> Result<(), Error> {
    let (path, in_file) = (names.state.path(), names.in_file(name));
    // A tensor that cannot be read fails when it is.
    let Some(found) = names.shape(name) else {
        return Ok(());
    };
    if spec.shapes.is_empty() {
        return Ok(());
    }
    let same_rank = |shape: &&&[&str]| shape.len() == found.len();
    let shape = spec.shapes.iter().find(same_rank);
    let Some(shape) = shape.filter(|_| !found.contains(&0)) else {
        return Err(Error::config(
            path,
            in_file,
            spec.expected(),
            format!("shape {found:?}"),
        ));
    };
    let known = |dimension: &str| {
        // `_` is any.
        let known = sizes.iter().find(|(name, _)| *name == dimension);
        dimension.parse().ok().or(known.map(|(_, size)| *size))
    };
    let expected: Vec<usize> = (shape.iter().zip(found))
        .map(|(dimension, found)| known(dimension).unwrap_or(*found))
        .collect();
    if expected != found {
        return Err(Error::Shape {
            path: path.to_owned(),
            name: in_file.to_owned(),
            expected,
            found: found.to_vec(),
        });
    }
    let named = shape.iter().copied().zip(found.iter().copied());
    sizes.extend(named.filter(|(dimension, _)| *dimension != "_"));
    Ok(())
}
