//! CLIP checkpoints of every known format, with canonical tensor names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use pinhole_model::{
    Activation, ClipConfig, ClipWeights, ImageEncoderConfig, Learned, PreprocessConfig, Tail,
    Tensor, WeightUpdate,
};

use crate::declared::Declared;
use crate::infer::Heads;
use crate::names::{Naming, OPENAI_SETTINGS, Recipe};
use crate::read::{read_dictionaries, read_state_dict};
use crate::storage::Source;
use crate::wrapper::Dictionaries;
use crate::{Error, StateDict, infer, locate, open_clip, siglip, transformers};

/// The tensor of [`Checkpoint::logit_bias`], under this name in every format.
const LOGIT_BIAS: &str = "logit_bias";

/// An open CLIP checkpoint: its checked configuration, and weights that are read on request.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    state: StateDict,
    naming: Naming,
    config: ClipConfig,
    tensors: Vec<(String, Vec<usize>)>,
    assumptions: Vec<String>,
    logit_scale: f32,
    logit_bias: Option<f32>,
    updates: Vec<WeightUpdate>,
    encoders: Vec<(String, Arc<Tensor>)>,
    image_tokens: Vec<Tensor>,
    tail: Option<Tail>,
}

/// What the files may not state.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Activation function of the weights. It overrides a configuration file, which
    /// [`Checkpoint::assumptions`] then notes.
    pub activation: Option<Activation>,
    /// Attention heads, which no shape shows. They override a configuration file in the same way.
    pub heads: Heads,
}

impl Checkpoint {
    /// Opens a file, or a folder that holds weights under one of their usual names, itself or in `checkpoint`, where a
    /// pre-training writes them.
    ///
    /// Names, shapes and types of all tensors are checked here; the weights are read later.
    ///
    /// # Errors
    /// Files that cannot be opened or are damaged; models other than CLIP with a ViT or a
    /// ModifiedResNet; tensors that are missing, surplus or of the wrong shape; configuration files that
    /// contradict the weights; [`Error::UnknownActivation`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Checkpoint, Error> {
        let weights = locate::weights(path)?;
        let mut assumptions = Vec::new();
        let dictionaries = if weights
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            Dictionaries::from(read_shards(&weights)?)
        } else {
            read_dictionaries(&weights)?
        };
        let state = dictionaries.clip(&mut assumptions)?;
        let naming = Naming::of(&state)?;
        let ConfigFiles {
            declared,
            preprocessing,
        } = ConfigFiles::read(&weights, naming)?;
        let activation = activation(
            &state,
            declared.as_ref(),
            options.activation,
            &mut assumptions,
        )?;
        let text_activation = match (options.activation, &declared) {
            (None, Some(declared)) => declared.text_activation,
            _ => activation,
        };
        let config = infer::configuration(
            &state,
            naming,
            declared.as_ref(),
            [activation, text_activation],
            options.heads,
            preprocessing.as_ref().map(|(_, config)| config.clone()),
            &mut assumptions,
        )?;
        let image_size = config.image.image_size();
        if let Some((path, config)) = preprocessing
            && config.size != image_size
        {
            return Err(Error::config(
                &path,
                "size of the preprocessed image",
                format!("{image_size}, as in the weights"),
                config.size.to_string(),
            ));
        }
        let mut tensors = config.tensors();
        let has_bias = state.info(LOGIT_BIAS).is_some();
        if has_bias {
            tensors.push((LOGIT_BIAS.into(), vec![]));
        }
        infer::check_tensors(&state, naming, &config, &tensors)?;
        let mut checkpoint = Checkpoint {
            state,
            naming,
            config,
            tensors,
            assumptions,
            logit_scale: 1.0,
            logit_bias: None,
            updates: vec![],
            encoders: vec![],
            image_tokens: vec![],
            tail: None,
        };
        checkpoint.logit_scale = checkpoint.read_logit_scale()?;
        if has_bias {
            checkpoint.logit_bias = Some(checkpoint.number(LOGIT_BIAS)?);
        }
        Ok(checkpoint)
    }

    fn read_logit_scale(&self) -> Result<f32, Error> {
        let logarithm = self.number("logit_scale")?;
        let factor = logarithm.exp();
        if !(factor.is_finite() && factor > 0.0) {
            return Err(Error::malformed(
                self.state.path(),
                format!(
                    "tensor logit_scale: expected the logarithm of a factor, found {logarithm}"
                ),
            ));
        }
        Ok(factor)
    }

    /// A tensor of one element; NaN if it is empty.
    fn number(&self, name: &str) -> Result<f32, Error> {
        let tensor = self.tensor(name)?;
        Ok(tensor.data.first().copied().unwrap_or(f32::NAN))
    }

    /// The file of the weights; its folder may hold a tokenizer.
    pub fn path(&self) -> &Path {
        self.state.path()
    }

    /// The model's configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// What was assumed because no file states it, one line each.
    pub fn assumptions(&self) -> &[String] {
        &self.assumptions
    }

    /// Factor from cosine similarity to logit: exp of the tensor `logit_scale`; finite and above zero.
    pub fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    /// What a model trained with SigLIP's loss adds to its scaled similarities: the tensor `logit_bias`; finite. The
    /// sigmoid of the sum is then the probability that image and text belong together.
    pub fn logit_bias(&self) -> Option<f32> {
        self.logit_bias
    }

    /// Canonical name and shape of every tensor, as [`ClipConfig::tensors`]; in addition `logit_bias`, if the file has it.
    pub fn tensors(&self) -> &[(String, Vec<usize>)] {
        &self.tensors
    }

    /// Reads one tensor by its canonical name, widened to f32.
    ///
    /// # Errors
    /// A name that is not in [`Checkpoint::tensors`], NaN or infinity, or a damaged file.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let Some((_, shape)) = self.tensors.iter().find(|(known, _)| known == name) else {
            let path = self.state.path().to_owned();
            return Err(Error::NoSuchTensor {
                path,
                name: name.to_owned(),
            });
        };
        if let Some((_, tensor)) = self.encoders.iter().find(|(known, _)| known == name) {
            return Ok(Tensor::clone(tensor));
        }
        let data = match self.naming.recipe(name) {
            Recipe::Same(name) => self.state.tensor(&name)?.data,
            Recipe::Transposed(name) => transpose(&self.state.tensor(&name)?),
            Recipe::Rows(names) => {
                let mut rows = Vec::with_capacity(shape.iter().product());
                for (name, _) in names {
                    rows.extend_from_slice(&self.state.tensor(&name)?.data);
                }
                rows
            }
        };
        let mut tensor = Tensor {
            shape: shape.clone(),
            data,
        };
        for update in self.updates.iter().filter(|update| update.name == name) {
            add_product(update, &mut tensor);
        }
        Ok(tensor)
    }

    /// Changes the model by what a learned method changes in its weights, and adds its tokens in the image encoder and what
    /// follows that.
    ///
    /// # Errors
    /// A change of a tensor that the model does not have, or of another shape; tokens of another width, or in more blocks
    /// than there are; a tail for embeddings of another length.
    pub fn adapt(&mut self, learned: &Learned) -> Result<(), Error> {
        let path = self.state.path();
        for update in &learned.weights {
            let known = self.tensors.iter().find(|(name, _)| *name == update.name);
            let fits = match known.map(|(_, shape)| shape.as_slice()) {
                Some(&[rows, inputs]) => match (&update.down.shape[..], &update.up.shape[..]) {
                    (&[rank, columns], &[outputs, middle]) => {
                        let end = update.first_row.checked_add(outputs);
                        rank == middle && columns == inputs && end.is_some_and(|end| end <= rows)
                    }
                    _ => false,
                },
                _ => false,
            };
            if !fits {
                return Err(Error::config(
                    path,
                    &update.name,
                    format!(
                        "a matrix that fits the change [{:?} x {:?}] of {}: pass the CLIP that it was trained with",
                        update.up.shape, update.down.shape, learned.method
                    ),
                    known.map_or("none".into(), |(_, shape)| format!("{shape:?}")),
                ));
            }
        }
        if let Some(tail) = &learned.tail {
            let size = self.config.embedding;
            if tail.down.shape.get(1) != Some(&size) || tail.up.shape.first() != Some(&size) {
                return Err(Error::config(
                    path,
                    format!("layers of {}", learned.method),
                    format!("embeddings of length {size}, this model's"),
                    format!("{:?} and {:?}", tail.down.shape, tail.up.shape),
                ));
            }
        }
        let known = |(name, tensor): &&(String, Arc<Tensor>)| {
            let mut known = self.tensors.iter();
            !known.any(|(known, shape)| known == name && *shape == tensor.shape)
        };
        if let Some((name, tensor)) = learned.encoders.iter().find(known) {
            return Err(Error::config(
                path,
                name,
                format!("a tensor of {}'s shape", learned.method),
                format!("{:?}", tensor.shape),
            ));
        }
        self.check_image_tokens(learned)?;
        self.updates.extend(learned.weights.iter().cloned());
        self.encoders.extend(learned.encoders.iter().cloned());
        self.image_tokens = learned.image_tokens.clone();
        self.tail = learned.tail.clone();
        self.logit_scale = self.read_logit_scale()?;
        Ok(())
    }

    fn check_image_tokens(&self, learned: &Learned) -> Result<(), Error> {
        let tokens = &learned.image_tokens;
        let Some(first) = tokens.first() else {
            return Ok(());
        };
        let wrong = |expected: String, found: String| {
            let field = format!("image tokens of {}", learned.method);
            Err(Error::config(self.state.path(), field, expected, found))
        };
        let ImageEncoderConfig::VisionTransformer { width, layers, .. } = self.config.image else {
            let found = self.config.image.family().to_owned();
            return wrong("a CLIP with a vision transformer".into(), found);
        };
        if let Some(other) = tokens.iter().find(|tokens| {
            tokens.shape.len() != 2 || tokens.shape[1] != width || tokens.shape != first.shape
        }) {
            let expected = format!("[n, {width}], the width of this model's image encoder");
            return wrong(expected, format!("{:?}", other.shape));
        }
        if tokens.len() > layers {
            let expected = format!("tokens for at most {layers} blocks, as this model has");
            return wrong(expected, format!("those of {}", tokens.len()));
        }
        Ok(())
    }

    /// The tokens that [`Checkpoint::adapt`] added to the image encoder, as [`Learned::image_tokens`].
    pub fn image_tokens(&self) -> &[Tensor] {
        &self.image_tokens
    }

    /// The layers behind the image encoder, if [`Checkpoint::adapt`] added some.
    pub fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }
}

impl ClipWeights for Checkpoint {
    type Error = Error;

    fn config(&self) -> &ClipConfig {
        self.config()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.tensor(name)
    }
}

fn activation(
    state: &StateDict,
    declared: Option<&Declared>,
    asked: Option<Activation>,
    assumptions: &mut Vec<String>,
) -> Result<Activation, Error> {
    let openai = OPENAI_SETTINGS
        .iter()
        .all(|name| state.info(name).is_some());
    let (known, source) = match declared {
        Some(declared) => (
            Some(declared.activation),
            declared.path.display().to_string(),
        ),
        None if openai => (Some(Activation::QuickGelu), "OpenAI's archive".to_owned()),
        None => (None, String::new()),
    };
    match (asked, known) {
        (Some(asked), Some(known)) if asked != known => {
            assumptions.push(format!(
                "activation: {asked}, as asked for; {source} has {known}"
            ));
            Ok(asked)
        }
        (Some(asked), _) => Ok(asked),
        (None, Some(known)) => Ok(known),
        (None, None) => Err(Error::UnknownActivation {
            path: state.path().to_owned(),
        }),
    }
}

/// Adds scale B A to rows of a matrix, which were checked to be there. Sums are in f64, in the order of the rank.
fn add_product(update: &WeightUpdate, matrix: &mut Tensor) {
    let (Some(&inputs), Some(&rank)) = (update.down.shape.last(), update.up.shape.last()) else {
        return;
    };
    let rows = matrix.data.chunks_exact_mut(inputs).skip(update.first_row);
    for (row, up) in rows.zip(update.up.data.chunks_exact(rank)) {
        for (column, value) in row.iter_mut().enumerate() {
            let terms = up
                .iter()
                .zip(update.down.data.iter().skip(column).step_by(inputs));
            let sum: f64 = terms.map(|(b, a)| f64::from(*b) * f64::from(*a)).sum();
            *value = (f64::from(*value) + f64::from(update.scale) * sum) as f32;
        }
    }
}

/// The configuration files in the folder of the weights.
struct ConfigFiles {
    declared: Option<Declared>,
    preprocessing: Option<(PathBuf, PreprocessConfig)>,
}

impl ConfigFiles {
    fn read(weights: &Path, naming: Naming) -> Result<ConfigFiles, Error> {
        let sibling = |name: &str| Some(weights.with_file_name(name)).filter(|path| path.exists());
        if !naming.is_transformers() {
            let Some(path) = sibling("open_clip_config.json") else {
                return Ok(ConfigFiles {
                    declared: None,
                    preprocessing: None,
                });
            };
            let (declared, config) = open_clip::read(&path)?;
            return Ok(ConfigFiles {
                declared: Some(declared),
                preprocessing: config.map(|config| (path, config)),
            });
        }
        let declared = match sibling("config.json") {
            Some(path) if naming.is_siglip() => Some(siglip::read_transformers(&path)?),
            Some(path) => Some(transformers::read(&path)?),
            None => None,
        };
        if naming == Naming::Transformers
            && let Some(path) = sibling("tokenizer_config.json")
        {
            transformers::check_tokenizer(&path)?;
        }
        let config =
            sibling("preprocessor_config.json").or_else(|| sibling("processor_config.json"));
        let preprocessing = match config {
            Some(path) => {
                let config = transformers::read_preprocessing(&path)?;
                Some((path, config))
            }
            None => None,
        };
        Ok(ConfigFiles {
            declared,
            preprocessing,
        })
    }
}

/// Bytes of an index of shards; that of a CLIP model has a tenth of a megabyte.
const MAX_INDEX: u64 = 2 << 20;

/// The files of a checkpoint in several, which transformers' index names; all of them plain names.
///
/// # Errors
/// A file that is no such index, or that names files in other folders.
pub fn shard_names(index: &Path) -> Result<Vec<String>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = Source::open(index)?.whole(MAX_INDEX)?;
    let parsed: Index = pinhole_fs::from_json(&bytes).map_err(|error| {
        Error::malformed(
            index,
            format!("expected transformers' index of shards: {error}"),
        )
    })?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    for name in &names {
        let mut parts = Path::new(name).components();
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
            return Err(Error::config(index, "weight_map", "plain file names", name));
        };
    }
    Ok(names.into_iter().collect())
}

/// Reads a checkpoint in several files, which an index names.
fn read_shards(index: &Path) -> Result<StateDict, Error> {
    let mut state = StateDict::new(index, BTreeMap::new());
    for name in shard_names(index)? {
        state.extend(read_state_dict(&index.with_file_name(name))?)?;
    }
    Ok(state)
}

/// The transposed matrix, row-major.
fn transpose(matrix: &Tensor) -> Vec<f32> {
    match matrix.shape.as_slice() {
        [rows, columns] => (0..*columns)
            .flat_map(|column| (0..*rows).map(move |row| matrix.data[row * columns + column]))
            .collect(),
        _ => matrix.data.clone(),
    }
}
