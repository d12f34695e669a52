use std::path::{Path, PathBuf};

/// An error of reading classes or templates, or of computing text embeddings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text has more tokens than the text encoder has positions.
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

    /// A learned prompt has more rows than the text encoder has positions.
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

    /// A prompt learner of another model or other classes.
    #[error("prompt learner: {field}: found {found}, expected {expected}")]
    PromptLearner {
        /// The field that does not fit.
        field: &'static str,
        /// Its value.
        found: String,
        /// The value that would fit, and what to do.
        expected: String,
    },

    /// Texts of an encoder without a causal mask have no rows in common.
    #[error(
        "text encoder without a mask (SigLIP's, MobileCLIP's): expected a causal one (CLIP's), in which texts that begin with the same words share their \
         computation"
    )]
    NotCausal,

    /// A tokenizer that cannot encode a text.
    #[error("text {text:?}: {reason}")]
    Tokenizer {
        /// The text, or its beginning.
        text: String,
        /// The tokenizer's error.
        reason: String,
    },

    /// The file of a list does not exist.
    #[error(
        "{}: no such file; expected a text file with one text per line: printf '%s\\n' {} > list.txt",
        path.display(),
        shell_words(path)
    )]
    NoFile {
        /// The file.
        path: PathBuf,
    },

    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },

    /// A file is not a text in UTF-8 or UTF-16.
    #[error("{}: expected text in UTF-8, found {found}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        found: String,
    },

    /// A list begins as JSON does and is not a JSON array of strings.
    #[error(
        "{}: expected one text per line or a JSON array of strings, such as [\"cat\", \"dog\"]: {reason}",
        path.display()
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },

    /// An empty text in a list.
    #[error("{origin}: expected a text, found an empty one")]
    EmptyText {
        /// The file and line, or the argument.
        origin: String,
    },

    /// A control character in a text.
    #[error(
        "{origin}: expected text without control characters, found U+{:04X}{} in {text:?}",
        *character as u32,
        if *character == '\t' { " (a tab; of a table, keep the column of names)" } else { "" }
    )]
    ControlCharacter {
        /// The file and line, or the argument.
        origin: String,
        /// The text, or its beginning.
        text: String,
        /// The first such character.
        character: char,
    },

    /// A template does not have exactly one placeholder.
    #[error(
        "{origin}: template {template:?}: expected exactly one {{}}, for the class name, found {found}"
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
    #[error("{}: no templates; write one per line, such as: a photo of a {{}}.", path.display())]
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
    #[error("{origin}: no classes; write one name per line")]
    NoClasses {
        /// The file, or `class list`.
        origin: String,
    },

    /// A line of a file of folder names is not one.
    #[error(
        "{origin}: expected the name of a folder, white space and the name of its class, found {found}"
    )]
    FolderName {
        /// The file and line.
        origin: String,
        /// What is wrong.
        found: String,
    },

    /// A class is named as the answer for images of none of the classes.
    #[error(
        "{origin}: class name {name:?} is reserved: it is the answer for images of none of the classes; use another \
         name, or remove the class and calibrate the bundle on such images"
    )]
    ReservedClass {
        /// The file and line, or `class list`.
        origin: String,
        /// The name as written.
        name: String,
    },

    /// A tensor of the weights cannot be read.
    #[error(transparent)]
    Weights(Box<dyn std::error::Error + Send + Sync>),

    /// A tensor of the text encoder has not the shape that the configuration gives.
    #[error("tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// The shape that the configuration gives.
        expected: Vec<usize>,
        /// Its shape, or its number of values.
        found: Vec<usize>,
    },

    /// A tensor of the text encoder has unsuitable values or the wrong type.
    #[error("tensor {tensor}: expected {expected}, found {found}; is the file intact?")]
    Weight {
        /// Its name.
        tensor: String,
        /// The expected values or type.
        expected: String,
        /// The values or type found.
        found: String,
    },

    /// 8-bit weights that the kernels reject.
    #[error("tensor {tensor}: {reason}; is the file intact?")]
    Int8 {
        /// Its name.
        tensor: String,
        /// The reason.
        reason: pinhole_kernels::WeightError,
    },

    /// An invalid configuration of the text encoder.
    #[error("text encoder: {field} is {found}, expected {expected}")]
    Configuration {
        /// The field.
        field: &'static str,
        /// Its value.
        found: usize,
        /// The expected value.
        expected: String,
    },

    /// A token id beyond the text encoder's vocabulary.
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

    /// A token of the vocabulary that the stored token embedding leaves out.
    #[error(
        "token {token} at position {position} is not among the {tokens} tokens that this text encoder \
         was stored with; export it again with the texts that need it"
    )]
    TokenNotHere {
        /// The id.
        token: u32,
        /// Its position in the text.
        position: usize,
        /// The number of stored tokens.
        tokens: usize,
    },

    /// A list of token ids is not in ascending order or exceeds the vocabulary.
    #[error(
        "token ids: expected ids below {vocabulary} in ascending order, found {id} at index {index}"
    )]
    TokenIds {
        /// The id.
        id: u32,
        /// Its index in the list, from 0.
        index: usize,
        /// The size of the vocabulary.
        vocabulary: usize,
    },

    /// A non-finite value in a tensor.
    #[error("tensor {tensor}: value {index} is {value}; is the file intact?")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// The index of the value, row-major, from 0.
        index: usize,
        /// The value.
        value: f32,
    },

    /// A prefix computed by another text encoder.
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

    /// Input of the text encoder has no rows, too many rows or an incomplete row.
    #[error("{what}: found {found}, expected {expected}")]
    Input {
        /// The quantity that is wrong.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The expected value.
        expected: String,
    },

    /// A parameter of [`crate::conditional::Reuse`] is negative or NaN.
    #[error("reuse of class embeddings: {field} is {value}, expected a number of at least 0")]
    Reuse {
        /// The parameter.
        field: &'static str,
        /// Its value.
        value: f32,
    },

    /// An image embedding that is not L2-normalised.
    #[error("image embedding: expected norm 1, found {norm}; normalise it first")]
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

    /// An embedding is zero or non-finite, as a result of damaged weights.
    #[error(
        "the embedding of {text} cannot be normalised; are the weights of the text encoder intact?"
    )]
    Degenerate {
        /// The text or class.
        text: String,
    },
}

/// The beginning of `text`, short enough for a message.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// Example names for a shell: those in a path such as `cat,dog`, which was meant as a list.
fn shell_words(path: &Path) -> String {
    let text = path.to_string_lossy();
    let names = if text.contains(',') {
        &*text
    } else {
        "cat,dog"
    };
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let quoted = names.split(',').map(str::trim).map(|name| {
        if name.chars().all(plain) {
            name.to_owned()
        } else {
            format!("'{}'", name.replace('\'', "'\\''"))
        }
    });
    excerpt(&quoted.collect::<Vec<_>>().join(" "))
}
