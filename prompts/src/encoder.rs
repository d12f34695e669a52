//! CLIP's text encoder.

mod weights;

use pinhole_kernels::{PackedLinear, StridedRows, attention, l2_normalize};
use pinhole_model::{Activation, ClipWeights, Tensor, TextEncoderConfig as Config, TextForm};
use rayon::prelude::*;

use crate::error::Error;
pub use weights::Weight;
pub(crate) use weights::checked;
use weights::{Block, LayerNorm, Linear, Projections, floats};

/// The text encoder of a CLIP model, a causal transformer whose output is taken at the end-of-text token; of a MobileCLIP
/// model, the same without a mask; or of a SigLIP model, without a mask and with the output of the last position. Without a
/// mask, texts are padded up to the context length. It computes in f32, or in 8-bit integers in linear layers whose weights are [`Weight::Int8`]; their input rows are quantised one by
/// one, so that no row depends on another.
///
/// Tokens after CLIP's end-of-text have no effect and are not computed; in the last block only the row of the output is
/// computed after the attention. Rows that several of CLIP's texts begin with are computed once, as a [`Prefix`].
///
/// Runs on rayon's current thread pool; results are bit-identical for any number of threads.
pub struct TextEncoder {
    config: Config,
    embedding: usize,
    activation: Activation,
    /// The ids, ascending, of the stored rows; `None` if all are stored.
    token_ids: Option<Vec<u32>>,
    /// [vocabulary or token_ids, width]
    token_embedding: Vec<f32>,
    /// [context_length, width]
    positional_embedding: Vec<f32>,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    text_projection: PackedLinear,
}

/// Rows that several texts begin with, as the keys and values of every block.
#[derive(Clone, Debug)]
pub struct Prefix {
    rows: usize,
    /// Per block, [rows, 2 width]: each row is a key followed by its value.
    key_values: Vec<Vec<f32>>,
}

impl Prefix {
    /// The number of its rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Rows per batch: enough that reading the weights takes a small part of the time, few enough for small buffers (10 MB at
/// width 512).
const BATCH_ROWS: usize = 512;

/// The id that follows the end of a text in CLIP.
const CLIP_PADDING: u32 = 0;

impl TextEncoder {
    /// Reads the text encoder of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Weights`] for a tensor that cannot be read, and those of [`TextEncoder::new`].
    pub fn load(weights: &impl ClipWeights) -> Result<Self, Error> {
        let config = weights.config();
        let tensor = |name: &str| {
            let tensor = weights.tensor(name);
            tensor.map_err(|error| Error::Weights(Box::new(error)))
        };
        Self::new(
            config.text.clone(),
            config.embedding,
            config.text_activation,
            tensor,
        )
    }

    /// Builds the encoder from tensors that `tensor` returns by their names in open_clip, such as
    /// `transformer.resblocks.0.ln_1.weight`. Each is requested once, and dropped when it is packed.
    ///
    /// # Errors
    /// Those of `tensor`; [`Error::Shape`] for a shape other than the configuration gives; [`Error::NotFinite`];
    /// [`Error::Weight`] for scales that are not positive, or integers where floats are expected; [`Error::Int8`];
    /// [`Error::Configuration`].
    pub fn new<W: Into<Weight>>(
        config: Config,
        embedding: usize,
        activation: Activation,
        tensor: impl FnMut(&str) -> Result<W, Error>,
    ) -> Result<Self, Error> {
        Self::build(config, embedding, activation, None, tensor)
    }

    /// [`TextEncoder::new`] with a part of the token embedding: `token_embedding.weight` is [ids, width], and row i
    /// belongs to token `ids[i]`. Using any other token is an error.
    ///
    /// # Errors
    /// Those of [`TextEncoder::new`]; [`Error::TokenIds`] unless the ids ascend below the
    /// configuration's vocabulary.
    pub fn with_token_ids<W: Into<Weight>>(
        config: Config,
        embedding: usize,
        activation: Activation,
        ids: Vec<u32>,
        tensor: impl FnMut(&str) -> Result<W, Error>,
    ) -> Result<Self, Error> {
        let beyond = |&id: &u32| id as usize >= config.vocabulary;
        let wrong = |i: &usize| beyond(&ids[*i]) || *i > 0 && ids[i - 1] >= ids[*i];
        if let Some(index) = (0..ids.len()).find(wrong) {
            return Err(Error::TokenIds {
                id: ids[index],
                index,
                vocabulary: config.vocabulary,
            });
        }
        Self::build(config, embedding, activation, Some(ids), tensor)
    }

    fn build<W: Into<Weight>>(
        config: Config,
        embedding: usize,
        activation: Activation,
        token_ids: Option<Vec<u32>>,
        mut tensor: impl FnMut(&str) -> Result<W, Error>,
    ) -> Result<Self, Error> {
        weights::check(&config, embedding)?;
        let w = config.width;
        let source = &mut |name: &str| tensor(name).map(W::into);
        let tokens = token_ids.as_ref().map_or(config.vocabulary, Vec::len);
        let token_embedding = floats(source, "token_embedding.weight", &[tokens, w])?;
        let positions = [config.context_length, w];
        let positional_embedding = floats(source, "positional_embedding", &positions)?;
        let blocks = (0..config.layers)
            .map(|i| Block::new(i, &config, source))
            .collect::<Result<_, _>>()?;
        let ln_final = LayerNorm::new("ln_final", w, config.form.epsilon(), source)?;
        let text_projection = floats(source, "text_projection", &[w, embedding])?;
        let bias = match config.form {
            TextForm::Clip | TextForm::ClipUnmasked => None,
            TextForm::SigLip { .. } => {
                Some(floats(source, weights::PROJECTION_BIAS, &[embedding])?)
            }
        };
        let bias = bias.as_deref();
        Ok(TextEncoder {
            embedding,
            activation,
            token_ids,
            token_embedding,
            positional_embedding,
            blocks,
            ln_final,
            text_projection: PackedLinear::from_in_out(&text_projection, w, embedding, bias),
            config,
        })
    }

    /// Whether the tensor of this name may be [`Weight::Int8`]: the weights of the blocks' linear layers.
    pub fn takes_int8(name: &str) -> bool {
        weights::takes_int8(name)
    }

    /// The name of the scales of an 8-bit weight in a file.
    pub fn scales_name(weight: &str) -> String {
        weights::scales_name(weight)
    }

    /// The names and shapes of the tensors that [`TextEncoder::with_token_ids`] requests for this number of ids; the
    /// scales of 8-bit weights come in addition.
    pub fn tensors(
        config: &Config,
        embedding: usize,
        token_ids: usize,
    ) -> Vec<(String, Vec<usize>)> {
        weights::tensors(config, embedding, token_ids)
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// D, the length of an embedding.
    pub fn embedding(&self) -> usize {
        self.embedding
    }

    /// The L2-normalised embedding `[D]` of a text. In CLIP, the output is taken at the first occurrence of the largest id,
    /// which is the end-of-text token; padding may follow. SigLIP's texts must have been padded to the context length.
    ///
    /// # Errors
    /// Those of [`TextEncoder::embed_batch`].
    pub fn embed_tokens(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        self.embed_batch(&[tokens])
    }

    /// The embeddings [texts, D] of several texts, each as from [`TextEncoder::embed_tokens`]. A batch is faster than single
    /// texts.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty or too long text, [`Error::UnknownToken`],
    /// [`Error::TokenNotHere`], [`Error::DegenerateText`].
    pub fn embed_batch<T: AsRef<[u32]>>(&self, texts: &[T]) -> Result<Vec<f32>, Error> {
        let mut rows = Vec::new();
        let mut lengths = Vec::with_capacity(texts.len());
        let mut outputs = Vec::with_capacity(texts.len());
        for text in texts {
            let (length, output) = match self.config.form {
                TextForm::Clip => {
                    let text = until_end(text.as_ref());
                    self.append_token_rows(text, &mut rows)?;
                    (text.len(), text.len().saturating_sub(1))
                }
                TextForm::ClipUnmasked => {
                    let text = until_end(text.as_ref());
                    let context = self.config.context_length;
                    self.check_length("tokens of a text", 0, text.len(), 0)?;
                    self.append_token_rows(text, &mut rows)?;
                    let padding = vec![CLIP_PADDING; context - text.len()];
                    self.append_token_rows(&padding, &mut rows)?;
                    (context, text.len() - 1)
                }
                TextForm::SigLip { .. } => {
                    let text = text.as_ref();
                    let expected = self.config.context_length;
                    if text.len() != expected {
                        return Err(Error::Input {
                            what: "tokens of a text",
                            found: text.len(),
                            expected: format!("{expected}, as SigLIP's texts are padded"),
                        });
                    }
                    self.append_token_rows(text, &mut rows)?;
                    (expected, expected - 1)
                }
            };
            lengths.push(length);
            outputs.push(output);
        }
        let texts = Texts {
            rows: &rows,
            lengths: &lengths,
            outputs: &outputs,
            replaced: &[],
        };
        self.embed_texts(None, &[], texts)
    }

    /// The rows [tokens, width] of the token embedding, without positions.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for an id outside the vocabulary, [`Error::TokenNotHere`] for one
    /// whose row is not stored.
    pub fn token_rows(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let mut rows = Vec::with_capacity(tokens.len() * self.config.width);
        self.append_token_rows(tokens, &mut rows)?;
        Ok(rows)
    }

    /// The token whose row of the embedding is nearest to `row` `[width]`, and the distance relative to the norm of `row`.
    pub(crate) fn nearest_token(&self, row: &[f32]) -> (u32, f32) {
        let (mut nearest, mut least) = (0, f32::INFINITY);
        for (i, own) in self
            .token_embedding
            .chunks_exact(self.config.width)
            .enumerate()
        {
            let distance = relative_distance(own, row);
            if distance < least {
                (nearest, least) = (i, distance);
            }
        }
        let id = match &self.token_ids {
            None => nearest as u32,
            Some(ids) => ids[nearest],
        };
        (id, least)
    }

    fn append_token_rows(&self, tokens: &[u32], rows: &mut Vec<f32>) -> Result<(), Error> {
        let (width, vocabulary) = (self.config.width, self.config.vocabulary);
        for (position, &token) in tokens.iter().enumerate() {
            if token as usize >= vocabulary {
                return Err(Error::UnknownToken {
                    token,
                    position,
                    vocabulary,
                });
            }
            let row = match &self.token_ids {
                None => token as usize,
                Some(ids) => ids.binary_search(&token).map_err(|_| Error::TokenNotHere {
                    token,
                    position,
                    tokens: ids.len(),
                })?,
            };
            rows.extend_from_slice(&self.token_embedding[row * width..][..width]);
        }
        Ok(())
    }

    /// The L2-normalised embedding `[D]` of a text given as rows [length, width]: token embeddings or learned context
    /// vectors, without position embeddings. The last row is the end-of-text token.
    ///
    /// # Errors
    /// [`Error::Input`] unless these are 1 to `context_length` whole rows; [`Error::DegenerateText`].
    pub fn embed_rows(&self, rows: &[f32]) -> Result<Vec<f32>, Error> {
        self.embed_after(None, rows, &[self.whole_rows(rows)?])
    }

    /// [`TextEncoder::embed_rows`] with rows that are replaced inside of the encoder: on entry to block 1, 2 and so on,
    /// counted from 0, those behind the first become these, each [n, width].
    ///
    /// # Errors
    /// As [`TextEncoder::embed_rows`]; [`Error::Input`] for rows of another width, more than the text has between its first
    /// and its last, or for more blocks than there are.
    pub fn embed_replaced(&self, rows: &[f32], replaced: &[Tensor]) -> Result<Vec<f32>, Error> {
        let length = self.whole_rows(rows)?;
        self.check_length("tokens of a text", 0, length, 0)?;
        if replaced.len() >= self.blocks.len() && !replaced.is_empty() {
            return Err(Error::Input {
                what: "blocks with replaced rows",
                found: replaced.len(),
                expected: format!("at most {}, one less than blocks", self.blocks.len() - 1),
            });
        }
        for tokens in replaced {
            let count = self.whole_rows(&tokens.data)?;
            self.check_length("replaced rows of a text", 1, count, 1)?;
            if count + 2 > length {
                return Err(Error::Input {
                    what: "replaced rows of a text",
                    found: count,
                    expected: format!("two less than its {length} rows, or fewer"),
                });
            }
        }
        let texts = Texts {
            rows,
            lengths: &[length],
            outputs: &[length - 1],
            replaced,
        };
        self.embed_texts(None, &[], texts)
    }

    /// The prefix of rows [n, width], without position embeddings, that follow the rows of `after`; the result includes
    /// `after`.
    ///
    /// # Errors
    /// [`Error::Input`] unless these are one or more complete rows, and fewer than `context_length` with those of `after`;
    /// [`Error::Prefix`] for a prefix of another encoder; [`Error::NotCausal`] for an encoder without a mask.
    pub fn prefix(&self, rows: &[f32], after: Option<&Prefix>) -> Result<Prefix, Error> {
        self.check_causal()?;
        let before = self.check_prefix(after)?;
        let length = self.whole_rows(rows)?;
        self.check_length("rows of a prefix", before, length, 1)?;
        let (texts, mut work) = (Texts::default(), Work::default());
        Ok(self.embed_batch_of_rows(after, rows, texts, &mut work, &mut []))
    }

    /// The L2-normalised embeddings [texts, D] of texts that begin with a prefix. `rows` [sum of lengths, width] holds the
    /// rows after the prefix, one text after the other, without position embeddings; each text's last row is its
    /// end-of-text token. Equal to the embeddings of the whole texts up to f32 rounding.
    ///
    /// # Errors
    /// [`Error::Input`] for a text without rows, for one that is too long with its prefix, and for rows that do not match
    /// `lengths`; [`Error::Prefix`] for a prefix of another encoder; [`Error::NotCausal`] for one, or for any text of
    /// MobileCLIP, whose padding would be missing, with an encoder without a mask;
    /// [`Error::DegenerateText`].
    pub fn embed_after(
        &self,
        prefix: Option<&Prefix>,
        rows: &[f32],
        lengths: &[usize],
    ) -> Result<Vec<f32>, Error> {
        self.embed_branches(prefix, &[], rows, lengths)
    }

    /// [`TextEncoder::embed_after`] for texts that share the rows `trunk` [n, width] after the prefix. Equal to extending
    /// the prefix by these rows with [`TextEncoder::prefix`], but the weights are read once for both, which halves the
    /// time for a few short texts.
    ///
    /// # Errors
    /// Those of [`TextEncoder::embed_after`]; [`Error::Input`] for a trunk of incomplete rows.
    pub fn embed_branches(
        &self,
        prefix: Option<&Prefix>,
        trunk: &[f32],
        rows: &[f32],
        lengths: &[usize],
    ) -> Result<Vec<f32>, Error> {
        // The padding would be missing.
        if prefix.is_some() || !trunk.is_empty() || self.config.form == TextForm::ClipUnmasked {
            self.check_causal()?;
        }
        let last: Vec<usize> = lengths.iter().map(|l| l.saturating_sub(1)).collect();
        let texts = Texts {
            rows,
            lengths,
            outputs: &last,
            replaced: &[],
        };
        self.embed_texts(prefix, trunk, texts)
    }

    /// [`TextEncoder::embed_branches`] with the row of each text whose output is its embedding, for any form. Prefix and
    /// trunk require a causal one.
    fn embed_texts(
        &self,
        prefix: Option<&Prefix>,
        trunk: &[f32],
        texts: Texts,
    ) -> Result<Vec<f32>, Error> {
        let Texts {
            rows,
            lengths,
            outputs,
            ..
        } = texts;
        let width = self.config.width;
        let before = self.check_prefix(prefix)?;
        let shared = self.whole_rows(trunk)?;
        let mut all = 0usize;
        for &length in lengths {
            self.check_length("tokens of a text", before + shared, length, 0)?;
            all += length;
        }
        let found = self.whole_rows(rows)?;
        if found != all {
            return Err(Error::Input {
                what: "rows of texts",
                found,
                expected: format!("{all}, the sum of their lengths"),
            });
        }
        let mut embeddings = vec![0.0; lengths.len() * self.embedding];
        let (mut work, mut text, mut row) = (Work::default(), 0, 0);
        // The prefix extended by the trunk: computed with the first batch, used by the others.
        let mut extended = None;
        while text < lengths.len() {
            let (mut end, mut batch) = (text + 1, lengths[text]);
            while end < lengths.len() && batch + lengths[end] <= BATCH_ROWS {
                batch += lengths[end];
                end += 1;
            }
            let (prefix, trunk) = match &extended {
                None => (prefix, trunk),
                Some(extended) => (Some(extended), &[][..]),
            };
            let texts = Texts {
                rows: &rows[row * width..][..batch * width],
                lengths: &lengths[text..end],
                outputs: &outputs[text..end],
                ..texts
            };
            let known = self.embed_batch_of_rows(
                prefix,
                trunk,
                texts,
                &mut work,
                &mut embeddings[text * self.embedding..end * self.embedding],
            );
            if shared > 0 && text == 0 {
                extended = Some(known);
            }
            (text, row) = (end, row + batch);
        }
        for (i, embedding) in embeddings.chunks_exact_mut(self.embedding).enumerate() {
            l2_normalize(embedding);
            if !embedding.iter().all(|value| value.is_finite()) {
                return Err(Error::DegenerateText { text: i });
            }
        }
        Ok(embeddings)
    }

    /// Runs the blocks; all steps but the attention run over the rows of the trunk and of all texts at once. The embeddings,
    /// of the row `outputs` of each text, are not normalised. Returns the prefix extended by the trunk, or an empty one without a trunk.
    fn embed_batch_of_rows(
        &self,
        prefix: Option<&Prefix>,
        trunk: &[f32],
        texts: Texts,
        work: &mut Work,
        embeddings: &mut [f32],
    ) -> Prefix {
        let Texts {
            rows,
            lengths,
            outputs,
            replaced,
        } = texts;
        let width = self.config.width;
        let (before, shared) = (prefix.map_or(0, Prefix::rows), trunk.len() / width);
        work.x.clear();
        work.x.extend_from_slice(trunk);
        work.x.extend_from_slice(rows);
        let (first, texts) = work.x.split_at_mut(trunk.len());
        self.add_positions(first, before, &[shared]);
        self.add_positions(texts, before + shared, lengths);

        let mut extended = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let known = prefix.map_or(&[][..], |prefix| &prefix.key_values[i]);
            if let Some(tokens) = i.checked_sub(1).and_then(|i| replaced.get(i)) {
                replace_rows(&mut work.x, &tokens.data, width, lengths);
            }
            work.project(block);
            let (key, stride) = block.projections.row(width);
            let known = match shared {
                0 => known,
                _ => {
                    let mut all = known.to_vec();
                    append_key_values(
                        &work.projected[..shared * stride],
                        key,
                        stride,
                        width,
                        &mut all,
                    );
                    extended.push(all);
                    &extended[i]
                }
            };
            if let Projections::Apart { query, .. } = &block.projections {
                if lengths.is_empty() {
                    break;
                }
                keep_outputs(&mut work.x, width, shared, [lengths, outputs]);
                work.query(query, &block.ln_1);
            }
            self.attend(work, block, known, shared, lengths);
            work.feed_forward(block, self.activation);
        }
        if !lengths.is_empty() {
            self.ln_final.apply(&work.x, &mut work.normed);
            self.text_projection
                .apply(&work.normed, lengths.len(), None, None, embeddings);
        }
        Prefix {
            rows: before + shared,
            key_values: extended,
        }
    }

    /// Adds position embeddings; each text starts at position `before`.
    fn add_positions(&self, mut rest: &mut [f32], before: usize, lengths: &[usize]) {
        let width = self.config.width;
        for &length in lengths {
            let (text, others) = rest.split_at_mut(length * width);
            text.iter_mut()
                .zip(&self.positional_embedding[before * width..])
                .for_each(|(x, p)| *x += p);
            rest = others;
        }
    }

    /// The attention of a block: of the trunk's rows to the prefix, and of each text to the `known` keys and values
    /// [n, 2 width] (prefix and trunk) and to its own rows. The last block has one query per text and none of the trunk.
    /// Each text is computed by one thread.
    fn attend(
        &self,
        work: &mut Work,
        block: &Block,
        known: &[f32],
        shared: usize,
        lengths: &[usize],
    ) {
        let width = self.config.width;
        let (key, stride) = block.projections.row(width);
        let last = matches!(block.projections, Projections::Apart { .. });
        let rows = if last {
            lengths.len()
        } else {
            work.x.len() / width
        };
        work.mixed.resize(rows * width, 0.0);
        let mut mixed = &mut work.mixed[..];
        let (trunk, mut own) = work.projected.split_at(shared * stride);
        let mut queries_left = &work.query[..];
        let known_rows = known.len() / (2 * width);
        let known_key_value = StridedRows {
            data: known,
            stride: 2 * width,
        };
        if shared > 0 && !last {
            let out = mixed.split_off_mut(..shared * width).unwrap_or_default();
            let query = StridedRows {
                data: trunk,
                stride,
            };
            self.attend_text(query, known_key_value, known_rows, out);
        }
        let mut texts = Vec::with_capacity(lengths.len());
        let mut scores = 0;
        for &length in lengths {
            let queries = if last { 1 } else { length };
            scores += (known_rows + length) * queries;
            let own = own.split_off(..length * stride).unwrap_or_default();
            let (query, query_stride) = match last {
                true => (queries_left.split_off(..width).unwrap_or_default(), width),
                false => (own, stride),
            };
            let text = Text {
                query: StridedRows {
                    data: query,
                    stride: query_stride,
                },
                own,
                mixed: mixed.split_off_mut(..queries * width).unwrap_or_default(),
            };
            texts.push(text);
        }
        // Several parts per thread balance the load; for a small batch rayon would cost more than it saves.
        let part = match 2 * width * scores < WORTH_SHARING {
            true => texts.len(),
            false => texts.len().div_ceil(4 * rayon::current_num_threads()),
        };
        let attend_part = |texts: &mut [Text]| {
            let mut together = known.to_vec();
            for text in texts {
                let rows = text.own.len() / stride;
                let key_value = match known {
                    [] => StridedRows {
                        data: &text.own[key..],
                        stride,
                    },
                    _ => {
                        together.truncate(known.len());
                        append_key_values(text.own, key, stride, width, &mut together);
                        StridedRows {
                            data: &together,
                            ..known_key_value
                        }
                    }
                };
                self.attend_text(text.query, key_value, known_rows + rows, text.mixed);
            }
        };
        if part >= texts.len() {
            attend_part(&mut texts);
        } else {
            texts.par_chunks_mut(part).for_each(attend_part);
        }
    }

    /// The attention of the last rows of a text to `rows` rows of a key followed by its value, into `mixed`
    /// [queries, width].
    fn attend_text(
        &self,
        query: StridedRows,
        key_value: StridedRows,
        rows: usize,
        mixed: &mut [f32],
    ) {
        let width = self.config.width;
        let head_width = width / self.config.heads;
        let value = StridedRows {
            data: &key_value.data[width..],
            ..key_value
        };
        attention(
            query,
            mixed.len() / width,
            key_value,
            value,
            rows,
            self.config.heads,
            head_width,
            self.config.form.is_causal(),
            (head_width as f32).sqrt().recip(),
            mixed,
        );
    }

    /// An error unless rows depend on the ones before them only.
    fn check_causal(&self) -> Result<(), Error> {
        match self.config.form.is_causal() {
            true => Ok(()),
            false => Err(Error::NotCausal),
        }
    }

    /// The number of rows of a prefix; an error for a prefix of another encoder.
    fn check_prefix(&self, prefix: Option<&Prefix>) -> Result<usize, Error> {
        let Some(prefix) = prefix else { return Ok(0) };
        let (layers, values) = (self.blocks.len(), prefix.rows * 2 * self.config.width);
        if prefix.key_values.len() != layers || prefix.key_values[0].len() != values {
            return Err(Error::Prefix {
                layers: prefix.key_values.len(),
                width: prefix.key_values.first().map_or(0, Vec::len) / (2 * prefix.rows.max(1)),
                expected_layers: layers,
                expected_width: self.config.width,
            });
        }
        Ok(prefix.rows)
    }

    /// Checks that `length` rows fit after `before` others, with room for `behind` more.
    fn check_length(
        &self,
        what: &'static str,
        before: usize,
        length: usize,
        behind: usize,
    ) -> Result<(), Error> {
        let most = self.config.context_length.saturating_sub(before + behind);
        if length == 0 || length > most {
            let mut expected = format!("1 to {most}");
            if before > 0 {
                expected += &format!(", as {before} rows come before");
            }
            return Err(Error::Input {
                what,
                found: length,
                expected,
            });
        }
        Ok(())
    }

    /// The number of rows of these values; an error for an incomplete row.
    fn whole_rows(&self, rows: &[f32]) -> Result<usize, Error> {
        let width = self.config.width;
        if !rows.len().is_multiple_of(width) {
            let expected = format!("rows of {width}");
            return Err(Error::Input {
                what: "values of a text's rows",
                found: rows.len(),
                expected,
            });
        }
        Ok(rows.len() / width)
    }
}

impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextEncoder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A batch of texts.
#[derive(Clone, Copy, Default)]
struct Texts<'a> {
    /// [sum of lengths, width], one text after the other.
    rows: &'a [f32],
    lengths: &'a [usize],
    /// The row of each text whose output is its embedding.
    outputs: &'a [usize],
    /// On entry to block 1 and on, the rows behind the first of each text, which has that many, with neither prefix nor
    /// trunk.
    replaced: &'a [Tensor],
}

/// Multiply-adds below which a second thread does not pay off, as in the kernels.
const WORTH_SHARING: usize = 1 << 19;

/// Input and output of the attention of one text.
struct Text<'a> {
    query: StridedRows<'a>,
    /// The text's rows, laid out as by [`Work::project`].
    own: &'a [f32],
    mixed: &'a mut [f32],
}

/// Buffers of the blocks, with one row per row of the batch.
#[derive(Default)]
struct Work {
    x: Vec<f32>,
    normed: Vec<f32>,
    /// Laid out as [`Projections::row`] gives.
    projected: Vec<f32>,
    /// In the last block: one row per text.
    query: Vec<f32>,
    mixed: Vec<f32>,
    middle: Vec<f32>,
    hidden: Vec<f32>,
}

impl Work {
    /// The block's projections: x to `projected`.
    fn project(&mut self, block: &Block) {
        let (Projections::Together(layer)
        | Projections::Apart {
            key_value: layer, ..
        }) = &block.projections;
        let (norm, out) = (Some(&block.ln_1), &mut self.projected);
        layer.apply(&self.x, norm, None, None, &mut self.normed, out);
    }

    fn query(&mut self, layer: &Linear, norm: &LayerNorm) {
        let (normed, out) = (&mut self.normed, &mut self.query);
        layer.apply(&self.x, Some(norm), None, None, normed, out);
    }

    /// The block's output projection and MLP: `mixed` and x to x.
    fn feed_forward(&mut self, block: &Block, activation: Activation) {
        let (x, normed) = (&mut self.x, &mut self.normed);
        let (mixed, middle, hidden) = (&self.mixed, &mut self.middle, &mut self.hidden);
        let (out_proj, c_fc, c_proj) = (&block.out_proj, &block.c_fc, &block.c_proj);
        out_proj.apply(mixed, None, None, Some(x), normed, middle);
        c_fc.apply(
            middle,
            Some(&block.ln_2),
            Some(activation),
            None,
            normed,
            hidden,
        );
        c_proj.apply(hidden, None, None, Some(middle), normed, x);
    }
}

/// Appends the keys and values of `rows`, which start at `key` in each, to `to` [n, 2 width].
fn append_key_values(rows: &[f32], key: usize, stride: usize, width: usize, to: &mut Vec<f32>) {
    for row in rows.chunks_exact(stride) {
        to.extend_from_slice(&row[key..key + 2 * width]);
    }
}

/// The tokens up to the first occurrence of the largest id.
pub(crate) fn until_end(tokens: &[u32]) -> &[u32] {
    let greatest = tokens.iter().max();
    let end = tokens.iter().position(|token| Some(token) == greatest);
    &tokens[..end.map_or(0, |end| end + 1)]
}

/// Replaces the rows behind the first of each text, which has as many.
fn replace_rows(x: &mut [f32], tokens: &[f32], width: usize, lengths: &[usize]) {
    let mut start = width;
    for length in lengths {
        x[start..start + tokens.len()].copy_from_slice(tokens);
        start += length * width;
    }
}

/// Keeps only the output row of each text; the first text starts after `shared` rows.
fn keep_outputs(x: &mut Vec<f32>, width: usize, shared: usize, [lengths, outputs]: [&[usize]; 2]) {
    let mut start = shared;
    for (i, (length, output)) in lengths.iter().zip(outputs).enumerate() {
        let row = start + output;
        x.copy_within(row * width..(row + 1) * width, i * width);
        start += length;
    }
    x.truncate(lengths.len() * width);
}

/// Greatest relative distance of two rows of the token embedding that count as the same one: bf16 rounds to 0.002, and rows
/// of two models are more than 0.5 apart.
pub(crate) const SAME_ROW: f32 = 0.01;

/// Whether a row of a training is one of this encoder's.
pub(crate) fn is_same_row(own: &[f32], trained: &[f32]) -> bool {
    relative_distance(trained, own) <= SAME_ROW
}

/// |a - b| / |b|; not finite for zeros.
pub(crate) fn relative_distance(a: &[f32], b: &[f32]) -> f32 {
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    (squares.sum::<f32>() / b.iter().map(|b| b * b).sum::<f32>()).sqrt()
}
