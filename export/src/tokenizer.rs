//! The tokenizer of a model: CLIP's is built in, SigLIP's are read from their files.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pinhole::internal::catch_panic;
use pinhole_checkpoint::Checkpoint;
use pinhole_model::TextForm;
use pinhole_prompts::{Error, TextTokenizer, Tokenizer, canonicalize, fitting};

use crate::sentencepiece;
use tokenizers::PaddingDirection;

/// The file of a tokenizer of the Hugging Face library, and the settings beside it.
const TOKENIZER: &str = "tokenizer.json";
/// SentencePiece's file of the same tokenizer, which is read where there is no other.
const SENTENCEPIECE: &str = "spiece.model";
const SETTINGS: &str = "tokenizer_config.json";

/// Largest file of a tokenizer; Gemma's, which is SigLIP2's, has 34 MB.
const MAX_BYTES: u64 = 64 << 20;

/// The tokenizer for the texts of `checkpoint`. `asked` is a `tokenizer.json`, a `spiece.model` or their folder; without it, the
/// file beside the weights is read. CLIP models need none.
///
/// # Errors
/// A file that is missing, too large or malformed, or that does not fit the text encoder; a file for a CLIP model.
pub fn model_tokenizer(
    checkpoint: &Checkpoint,
    asked: Option<&Path>,
) -> Result<Box<dyn TextTokenizer>> {
    let text = &checkpoint.config().text;
    if !matches!(text.form, TextForm::SigLip { .. }) {
        ensure!(
            asked.is_none(),
            "--tokenizer: expected a SigLIP model, found a CLIP, whose tokenizer is built in; omit it"
        );
        return Ok(Box::new(Tokenizer::new()));
    }
    let folder = match asked {
        Some(path) if path.is_dir() => Some(path),
        Some(_) => None,
        None => checkpoint.path().parent(),
    };
    let path = match (folder, asked) {
        (Some(folder), _) => {
            let files = [TOKENIZER, SENTENCEPIECE].map(|name| folder.join(name));
            let found = files.iter().find(|path| path.exists());
            found.unwrap_or(&files[0]).clone()
        }
        (None, asked) => asked.unwrap_or(Path::new(TOKENIZER)).to_owned(),
    };
    if !path.exists() {
        bail!(
            "{}: no such file; SigLIP's texts need the model's tokenizer: pass the {TOKENIZER} or {SENTENCEPIECE} of its \
             folder on the hub as --tokenizer",
            path.display()
        );
    }
    let tokenizer = FileTokenizer::read(&path)?;
    let (found, vocabulary) = (tokenizer.vocabulary(), text.vocabulary);
    ensure!(
        found <= vocabulary,
        "{}: expected ids below {vocabulary}, the vocabulary of the text encoder, found {}",
        path.display(),
        found - 1
    );
    Ok(Box::new(tokenizer))
}

/// A tokenizer from a file, for texts that are cleaned and padded as SigLIP's.
pub struct FileTokenizer {
    inner: tokenizers::Tokenizer,
    /// Added to each text, where `inner` does not.
    end: Option<u32>,
    padding: u32,
}

/// The format of a tokenizer's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerFormat {
    /// The Hugging Face library's `tokenizer.json`. The padding is what it states, else the `pad_token` of the
    /// `tokenizer_config.json` beside it.
    Json,
    /// SentencePiece's `spiece.model`, of a unigram model. The padding is the `pad_token` of the `tokenizer_config.json` beside
    /// it, else the piece that ends texts, as in transformers' `SiglipTokenizer`.
    SentencePiece,
}

impl TokenizerFormat {
    /// By the extension.
    fn of(path: &Path) -> Self {
        match path.extension().is_some_and(|e| e == "model") {
            true => Self::SentencePiece,
            false => Self::Json,
        }
    }

    fn max_bytes(self) -> u64 {
        match self {
            Self::Json => MAX_BYTES,
            Self::SentencePiece => sentencepiece::MAX_BYTES,
        }
    }
}

impl FileTokenizer {
    /// Reads a file, which is SentencePiece's if its extension is `model`.
    ///
    /// # Errors
    /// A file that cannot be read or is malformed; a tokenizer without padding, or that pads on the left.
    pub fn read(path: &Path) -> Result<Self> {
        let format = TokenizerFormat::of(path);
        let bytes = read(path, format.max_bytes())?;
        let settings = path.with_file_name(SETTINGS);
        let settings = match settings.exists() {
            true => Some((read(&settings, MAX_BYTES)?, settings)),
            false => None,
        };
        let settings = settings
            .as_ref()
            .map(|(bytes, path)| (&bytes[..], path.as_path()));
        Self::new(format, &bytes, path, settings)
    }

    /// From the bytes of the two files; the paths are for errors.
    ///
    /// # Errors
    /// As [`FileTokenizer::read`].
    pub fn new(
        format: TokenizerFormat,
        bytes: &[u8],
        path: &Path,
        settings: Option<(&[u8], &Path)>,
    ) -> Result<Self> {
        let (mut inner, end) = match format {
            TokenizerFormat::Json => {
                // The crate panics on some damaged files.
                let opened = catch_panic(|| tokenizers::Tokenizer::from_bytes(bytes));
                let opened = opened.unwrap_or_else(|reason| Err(reason.into()));
                let inner = opened.map_err(|error| {
                    anyhow::anyhow!("{}: expected a tokenizer: {error}", path.display())
                })?;
                (inner, None)
            }
            TokenizerFormat::SentencePiece => {
                let read = sentencepiece::tokenizer(bytes);
                let (inner, end) = read.with_context(|| path.display().to_string())?;
                (inner, Some(end))
            }
        };
        let mut padding = None;
        if let Some((bytes, path)) = settings {
            let settings: serde_json::Value = serde_json::from_slice(bytes)
                .with_context(|| format!("{}: expected a JSON object", path.display()))?;
            let side = settings["padding_side"].as_str().unwrap_or("right");
            ensure!(
                side == "right",
                "{}: padding_side: expected right, as SigLIP's texts were padded in training, found {side}",
                path.display()
            );
            let token = &settings["pad_token"];
            let token = token.as_str().or_else(|| token["content"].as_str());
            padding = token.and_then(|token| inner.token_to_id(token));
        }
        if let Some(stated) = inner.get_padding() {
            ensure!(
                matches!(stated.direction, PaddingDirection::Right),
                "{}: padding.direction: expected Right, as SigLIP's texts were padded in training, found Left",
                path.display()
            );
            padding = Some(stated.pad_id);
        }
        let padding = padding.or(end).with_context(|| {
            format!(
                "{}: expected the token that texts are padded with, as `padding` or as `pad_token` of a {SETTINGS} beside \
                 it, found none",
                path.display()
            )
        })?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        Ok(Self {
            inner,
            end,
            padding,
        })
    }

    /// One more than the highest id.
    fn vocabulary(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        ids.max().map_or(0, |id| id as usize + 1)
    }
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path)
        .with_context(|| format!("{}: cannot read", path.display()))?
        .len();
    ensure!(
        size <= most,
        "{}: expected a tokenizer of at most {most} bytes, found {size}",
        path.display()
    );
    std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))
}

impl TextTokenizer for FileTokenizer {
    fn tokens(&self, text: &str, context_length: usize) -> Result<Vec<u32>, Error> {
        let encoding = catch_panic(|| self.inner.encode(canonicalize(text), true));
        let encoding = encoding.unwrap_or_else(|reason| Err(reason.into()));
        let encoding = encoding.map_err(|error| Error::Tokenizer {
            text: text.chars().take(80).collect(),
            reason: error.to_string(),
        })?;
        let mut tokens = encoding.get_ids().to_vec();
        tokens.extend(self.end);
        let mut tokens = fitting(text, tokens, context_length)?;
        tokens.resize(context_length, self.padding);
        Ok(tokens)
    }
}
