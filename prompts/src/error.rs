use std::path::PathBuf;

/// What can go wrong between a text and its embedding.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text with more tokens than the text encoder has positions.
    #[error(
        "text {text:?} has {tokens} tokens with its start and end, but the text encoder takes at most \
         {context_length}; shorten the class name or the template"
    )]
    TooLong {
        /// The text, or its beginning.
        text: String,
        /// The number of its tokens, start and end included.
        tokens: usize,
        /// The number of positions of the text encoder.
        context_length: usize,
    },

    /// A learned prompt with more rows than the text encoder has positions.
    #[error(
        "class {class:?} with {context} context vectors has {rows} tokens, but the text encoder takes \
         at most {context_length}; shorten the class name, or train fewer context vectors"
    )]
    ContextTooLong {
        /// The class, or its beginning.
        class: String,
        /// The number of context vectors.
        context: usize,
        /// The number of rows, start and end included.
        rows: usize,
        /// The number of positions of the text encoder.
        context_length: usize,
    },

    /// A prompt learner that was made for another model or other classes.
    #[error("prompt learner: {field}: found {found}, expected {expected}")]
    PromptLearner {
        /// What does not fit.
        field: &'static str,
        /// What it is.
        found: String,
        /// What would fit, and what to do.
        expected: String,
    },

    /// A file of templates or classes that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// A file of templates or classes that is not text of a sensible size.
    #[error("{}: expected {expected}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What such a file must be.
        expected: &'static str,
    },

    /// A template without exactly one place for the class name.
    #[error(
        "{origin}: template {template:?} has {found} times {{}}, expected exactly one, where the class name goes"
    )]
    Placeholder {
        /// The file and line, or `--templates`.
        origin: String,
        /// The template, or its beginning.
        template: String,
        /// How often `{}` occurs in it.
        found: usize,
    },

    /// A file without any template.
    #[error("{}: no templates; write one a line, such as: a photo of a {{}}.", path.display())]
    NoTemplates {
        /// The file.
        path: PathBuf,
    },

    /// Neither a template, nor a named set, nor a file.
    #[error(
        "templates {argument:?}: neither a template (no {{}} in it), nor a set ({names}), nor a file"
    )]
    UnknownTemplates {
        /// The argument, or its beginning.
        argument: String,
        /// The names of the sets.
        names: String,
    },

    /// A list without any class.
    #[error("{origin}: no classes; write one name a line")]
    NoClasses {
        /// The file, or `class list`.
        origin: String,
    },

    /// A class that is in the list twice.
    #[error("{origin}: class {name:?} in line {second} is already in line {first}")]
    DuplicateClass {
        /// The file, or `class list`.
        origin: String,
        /// The name, or its beginning.
        name: String,
        /// Its first line, from 1.
        first: usize,
        /// Its second line, from 1.
        second: usize,
    },

    /// A tensor that the source of the weights cannot give.
    #[error(transparent)]
    Weights(Box<dyn std::error::Error + Send + Sync>),

    /// A tensor of the text encoder with another shape than the configuration says.
    #[error("tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// The shape by the configuration.
        expected: Vec<usize>,
        /// The shape, or the number of values, that it has.
        found: Vec<usize>,
    },

    /// A tensor of the text encoder that its layer cannot take.
    #[error("tensor {tensor}: expected {expected}, found {found}; is the file intact?")]
    Weight {
        /// Its name.
        tensor: String,
        /// What the layer takes.
        expected: String,
        /// What it is.
        found: String,
    },

    /// 8-bit weights that the kernels cannot take.
    #[error("tensor {tensor}: {reason}; is the file intact?")]
    Int8 {
        /// Its name.
        tensor: String,
        /// The value or size.
        reason: pinhole_kernels::WeightError,
    },

    /// A configuration that no text encoder can have.
    #[error("text encoder: {field} is {found}, expected {expected}")]
    Configuration {
        /// The field.
        field: &'static str,
        /// Its value.
        found: usize,
        /// What it must be.
        expected: String,
    },

    /// A token id that the text encoder has no row for.
    #[error(
        "token {token} at position {position}: the text encoder's vocabulary has {vocabulary} tokens"
    )]
    UnknownToken {
        /// The id.
        token: u32,
        /// Its position in the text.
        position: usize,
        /// The size of the vocabulary.
        vocabulary: usize,
    },

    /// A token that is in the vocabulary, but not among the rows that the text encoder was built with.
    #[error(
        "token {token} at position {position} is not among the {tokens} tokens that this text encoder \
         was stored with; export it again with the texts that need it"
    )]
    TokenNotHere {
        /// The id.
        token: u32,
        /// Its position in the text.
        position: usize,
        /// The number of tokens that are there.
        tokens: usize,
    },

    /// A list of token ids that does not ascend, or leaves the vocabulary.
    #[error(
        "token ids: found {id} at {index}, expected an ascending list of ids below {vocabulary}"
    )]
    TokenIds {
        /// The id.
        id: u32,
        /// Its place in the list, from 0.
        index: usize,
        /// The size of the vocabulary.
        vocabulary: usize,
    },

    /// A value of a tensor that is infinite or not a number.
    #[error("tensor {tensor}: value {index} is {value}; is the file intact?")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// The place of the value, row-major, from 0.
        index: usize,
        /// The value.
        value: f32,
    },

    /// A prefix that another text encoder computed.
    #[error(
        "prefix of {layers} layers of width {width}, expected {expected_layers} of width \
         {expected_width}: it was computed by another text encoder"
    )]
    Prefix {
        /// Its layers.
        layers: usize,
        /// Its width.
        width: usize,
        /// The encoder's layers.
        expected_layers: usize,
        /// The encoder's width.
        expected_width: usize,
    },

    /// Input of the text encoder that is no text: no rows, too many, or rows cut short.
    #[error("{what}: found {found}, expected {expected}")]
    Input {
        /// What was counted.
        what: &'static str,
        /// The number.
        found: usize,
        /// What it must be.
        expected: String,
    },

    /// A setting of [`crate::conditional::Reuse`] that bounds nothing.
    #[error("reuse of class embeddings: {field} is {value}, expected a number of at least 0")]
    Reuse {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: f32,
    },

    /// The embedding of an image, given without having been normalised.
    #[error("an image's embedding has the norm {norm}, expected 1: normalise it first")]
    NotUnit {
        /// Its Euclidean norm.
        norm: f32,
    },

    /// [`Error::Degenerate`] for one of several texts.
    #[error(
        "the embedding of text {} cannot be normalised; are the weights of the text encoder intact?",
        text + 1
    )]
    DegenerateText {
        /// The text's index, from 0.
        text: usize,
    },

    /// An embedding that is zero, infinite or not a number, as damaged weights give it.
    #[error(
        "the embedding of {text} cannot be normalised; are the weights of the text encoder intact?"
    )]
    Degenerate {
        /// The text or class.
        text: String,
    },
}

/// `text`, cut to a length that fits a message.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}
