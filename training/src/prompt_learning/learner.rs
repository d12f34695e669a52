//! What is learned, and its loss and gradients.

use std::{collections::BTreeSet, path::Path};

use candle_core::{D, Device, Tensor, Var};
use pinhole_checkpoint::{Checkpoint, read_prompt_learner};
use pinhole_model::{MetaNet, PromptLearner, PromptRow, Tensor as Values};
use pinhole_prompts::{Classes, EOT, SOT, Tokenizer, prompt_rows};

use crate::{
    Error, Result,
    model::normalise,
    ops::{linear, read},
    prompt_learning::{
        Method, PromptOptions,
        sgd::Weight,
        tower::{Prompts, Run, Tower},
    },
    shapes::Dice,
};

/// The frozen text side: class embeddings for a context.
pub(super) struct TextSide {
    tower: Tower,
    /// Classes in their order, in one part or in several.
    parts: Vec<Prompts>,
    logit_scale: f32,
}

/// What a step found.
pub(super) struct Step {
    pub(super) loss: f32,
    pub(super) right: usize,
    /// In the order of the weights.
    pub(super) gradients: Vec<Vec<f32>>,
}

/// The text side for some classes, and the weights as they start.
pub(super) fn start(
    clip: &Checkpoint,
    classes: &[String],
    options: &PromptOptions,
) -> Result<(TextSide, Vec<Weight>)> {
    let tokenizer = Tokenizer::new();
    check_classes(&tokenizer, classes)?;
    let given = options
        .init
        .as_deref()
        .map(|path| init_file(path, clip, classes, options));
    let given = given.transpose()?;
    let words = match &options.words {
        Some(words) if given.is_none() => tokenizer.encode(&words.replace('_', " ")),
        _ => Vec::new(),
    };
    let n_ctx = match (&given, &options.words) {
        (Some(learner), _) => learner.n_ctx(),
        (None, Some(text)) if words.is_empty() => {
            return Err(Error::Config(format!("--words {text:?}: no word in it")));
        }
        (None, Some(_)) => words.len(),
        (None, None) => options.n_ctx,
    };
    let prompts = layouts(&tokenizer, clip, classes, n_ctx, options)?;
    let mut tokens: BTreeSet<u32> = words.iter().copied().collect();
    for row in prompts.iter().flatten() {
        if let PromptRow::Token(id) = row {
            tokens.insert(*id);
        }
    }
    let tower = Tower::load(clip, &tokens)?;
    let weights = match given {
        Some(learner) => from_learner(learner),
        None => first_weights(&tower, &words, n_ctx, classes.len(), options)?,
    };
    let own = options.class_specific;
    // A block keeps about 16 times its width for each row: norms, query, keys and values, the mixed
    // values, both residuals, and the MLP's hidden layer before and after its activation.
    let bytes = clip.config().text.layers * 16 * tower.width() * size_of::<f32>();
    let text = TextSide {
        parts: parts(
            &tower,
            &prompts,
            (options.memory << 20) / bytes.max(1),
            |class, i| match own {
                true => class * n_ctx + i,
                false => i,
            },
        )?,
        tower,
        logit_scale: clip.logit_scale(),
    };
    Ok((text, weights))
}

fn check_classes(tokenizer: &Tokenizer, classes: &[String]) -> Result<()> {
    if let Some(at) = classes.iter().position(|class| class.trim().is_empty()) {
        return Err(Error::Config(format!("class {at} has an empty name")));
    }
    Classes::new(classes)?;
    let mut seen = std::collections::HashMap::new();
    for class in classes {
        let ids = tokenizer.encode(&class.replace('_', " "));
        if ids.contains(&SOT) || ids.contains(&EOT) {
            return Err(Error::Config(format!(
                "class {class:?} holds the token that starts or ends a text"
            )));
        }
        if let Some(other) = seen.insert(ids, class) {
            return Err(Error::Config(format!(
                "classes {other:?} and {class:?} have the same tokens, so that no prompt tells them \
                 apart; rename one"
            )));
        }
    }
    if classes.len() < 2 {
        return Err(Error::Config("expected two classes or more".into()));
    }
    Ok(())
}

/// The prompts of all classes. If any is too long, the longest is what the error names.
fn layouts(
    tokenizer: &Tokenizer,
    clip: &Checkpoint,
    classes: &[String],
    n_ctx: usize,
    options: &PromptOptions,
) -> Result<Vec<Vec<PromptRow>>> {
    let longest = clip.config().text.context_length;
    let mut prompts = Vec::with_capacity(classes.len());
    let mut worst: Option<(usize, pinhole_prompts::Error)> = None;
    for class in classes {
        match prompt_rows(tokenizer, class, n_ctx, options.class_position, longest) {
            Ok(rows) => prompts.push(rows),
            Err(error) => {
                let rows = match &error {
                    pinhole_prompts::Error::ContextTooLong { rows, .. } => *rows,
                    _ => usize::MAX,
                };
                if worst.as_ref().is_none_or(|(most, _)| rows > *most) {
                    worst = Some((rows, error));
                }
            }
        }
    }
    match worst {
        Some((_, error)) => Err(error.into()),
        None => Ok(prompts),
    }
}

/// Splits classes into parts of about `limit` rows at most.
fn parts(
    tower: &Tower,
    prompts: &[Vec<PromptRow>],
    limit: usize,
    context: impl Fn(usize, usize) -> usize,
) -> Result<Vec<Prompts>> {
    let all = Prompts::new(tower, prompts, &context)?;
    let count = all.rows().div_ceil(limit.max(1)).clamp(1, prompts.len());
    if count == 1 {
        return Ok(vec![all]);
    }
    let size = prompts.len().div_ceil(count);
    let chunks = prompts.chunks(size).enumerate();
    chunks
        .map(|(part, prompts)| {
            Prompts::new(tower, prompts, |class, i| context(part * size + class, i))
        })
        .collect()
}

/// Weights that a file holds, checked against the model, the classes and the method.
fn init_file(
    path: &Path,
    clip: &Checkpoint,
    classes: &[String],
    options: &PromptOptions,
) -> Result<PromptLearner> {
    let learner = read_prompt_learner(path)?;
    let wrong = |what: String| {
        Err(Error::State {
            path: path.into(),
            problem: what,
        })
    };
    let (width, embedding) = (clip.config().text.width, clip.config().embedding);
    if learner.width() != width {
        let found = learner.width();
        return wrong(format!(
            "context vectors of {found} where the text tower takes {width}"
        ));
    }
    let expected = options.class_specific.then_some(classes.len());
    if learner.class_specific() != expected {
        let found = learner.class_specific();
        return wrong(format!(
            "class-specific contexts: {found:?}, expected {expected:?} as --class-specific says"
        ));
    }
    match (&learner.meta_net, options.method) {
        (None, Method::CoOp) => {}
        (Some(net), Method::CoCoOp) if net.linear1_weight.shape.get(1) == Some(&embedding) => {}
        (Some(net), Method::CoCoOp) => {
            let found = &net.linear1_weight.shape;
            return wrong(format!(
                "a meta-net {found:?} for embeddings of {embedding}"
            ));
        }
        (Some(_), Method::CoOp) => {
            return wrong("has a meta-net, as CoCoOp has and CoOp has not".into());
        }
        (None, Method::CoCoOp) => {
            return wrong("has no meta-net, as CoOp has none and CoCoOp has".into());
        }
    }
    if learner
        .class_position
        .is_some_and(|p| p != options.class_position)
    {
        return wrong(format!(
            "trained with another place of the class name than {}",
            options.class_position
        ));
    }
    Ok(learner)
}

const NAMES: [&str; 5] = [
    "ctx",
    "meta_net.linear1.weight",
    "meta_net.linear1.bias",
    "meta_net.linear2.weight",
    "meta_net.linear2.bias",
];

fn from_learner(learner: PromptLearner) -> Vec<Weight> {
    let mut tensors = vec![learner.context];
    if let Some(net) = learner.meta_net {
        tensors.extend([net.linear1_weight, net.linear1_bias]);
        tensors.extend([net.linear2_weight, net.linear2_bias]);
    }
    let weights = NAMES.into_iter().zip(tensors);
    weights
        .map(|(name, t)| Weight::new(name, &t.shape, t.data))
        .collect()
}

/// The weights as a prompt learner.
pub(super) fn to_learner(weights: &[Weight], options: &PromptOptions) -> PromptLearner {
    let tensor = |weight: &Weight| Values {
        shape: weight.shape.clone(),
        data: weight.values.clone(),
    };
    PromptLearner {
        context: tensor(&weights[0]),
        meta_net: match weights {
            [_, a, b, c, d] => Some(MetaNet {
                linear1_weight: tensor(a),
                linear1_bias: tensor(b),
                linear2_weight: tensor(c),
                linear2_bias: tensor(d),
            }),
            _ => None,
        },
        class_position: Some(options.class_position),
    }
}

/// A context that is normal with standard deviation 0.02 or the embeddings of words, and a meta-net as
/// PyTorch starts `nn.Linear`: uniform within 1 / sqrt(inputs), biases too.
fn first_weights(
    tower: &Tower,
    words: &[u32],
    n_ctx: usize,
    classes: usize,
    options: &PromptOptions,
) -> Result<Vec<Weight>> {
    let (width, embedding) = (tower.width(), tower.embedding());
    let dice = |family: u64| Dice::new(options.seed ^ 0x70_726f_6d70_7400, family);
    let shape = match options.class_specific {
        true => vec![classes, n_ctx, width],
        false => vec![n_ctx, width],
    };
    let context = match words.is_empty() {
        false => {
            let rows = words.iter().map(|&id| tower.token(id));
            rows.collect::<Result<Vec<_>>>()?.concat()
        }
        true => {
            let mut dice = dice(0);
            let count: usize = shape.iter().product();
            (0..count).map(|_| 0.02 * dice.normal()).collect()
        }
    };
    let mut weights = vec![Weight::new(NAMES[0], &shape, context)];
    if options.method == Method::CoCoOp {
        let hidden = (embedding / 16).max(1);
        let uniform = |family: u64, shape: &[usize], inputs: usize| {
            let (mut dice, bound) = (dice(family), (inputs as f32).sqrt().recip());
            let count: usize = shape.iter().product();
            let values = (0..count).map(|_| dice.range(-bound, bound)).collect();
            Weight::new(NAMES[family as usize], shape, values)
        };
        weights.push(uniform(1, &[hidden, embedding], embedding));
        weights.push(uniform(2, &[hidden], embedding));
        weights.push(uniform(3, &[width, hidden], hidden));
        weights.push(uniform(4, &[width], hidden));
    }
    Ok(weights)
}

/// Loss and gradients of a batch: images [batch, embedding], L2-normalised, and their labels.
///
/// The loss is the mean cross-entropy of logit_scale * f . t over the classes, t being L2-normalised.
pub(super) fn step(
    text: &TextSide,
    weights: &[Weight],
    images: &[f32],
    labels: &[usize],
) -> Result<Step> {
    let embedding = text.tower.embedding();
    if let [context] = weights {
        let (loss, right, gradient) = text.loss(&context.values, images, labels)?;
        return Ok(Step {
            loss,
            right,
            gradients: vec![gradient],
        });
    }
    let share = 1.0 / labels.len() as f32;
    let mut sums: Vec<Vec<f32>> = weights.iter().map(|w| vec![0.0; w.values.len()]).collect();
    let (mut loss_sum, mut right_sum) = (0.0, 0);
    for (image, label) in images.chunks_exact(embedding).zip(labels) {
        let vars = weights.iter().map(|w| {
            Var::from_slice(&w.values, w.shape.as_slice(), &Device::Cpu).map_err(Error::from)
        });
        let vars = vars.collect::<Result<Vec<Var>>>()?;
        let context = shifted(&vars, image)?;
        let values = read(&context, <[f32]>::to_vec)?;
        let (loss, right, gradient) = text.loss(&values, image, &[*label])?;
        let gradient = Tensor::from_vec(gradient, context.shape(), &Device::Cpu)?;
        let store = (&context * gradient)?.sum_all()?.backward()?;
        for (sum, var) in sums.iter_mut().zip(&vars) {
            if let Some(gradient) = store.get(var) {
                read(gradient, |gradient| {
                    let pairs = sum.iter_mut().zip(gradient);
                    pairs.for_each(|(sum, g)| *sum += share * g);
                })?;
            }
        }
        loss_sum += share * loss;
        right_sum += right;
    }
    Ok(Step {
        loss: loss_sum,
        right: right_sum,
        gradients: sums,
    })
}

/// CoCoOp's context for an image's embedding: ctx_m + W2 relu(W1 f + b1) + b2 for every m.
fn shifted(weights: &[Var], image: &[f32]) -> Result<Tensor> {
    let [context, w1, b1, w2, b2] = weights else {
        let found = weights.len();
        return Err(Error::Config(format!("{found} tensors of CoCoOp's five")));
    };
    let image = Tensor::from_slice(image, (1, image.len()), &Device::Cpu)?;
    let hidden = linear(&image, w1, Some(b1))?.relu()?;
    Ok(context.broadcast_add(&linear(&hidden, w2, Some(b2))?)?)
}

impl TextSide {
    /// The length of a class embedding.
    pub(super) fn embedding(&self) -> usize {
        self.tower.embedding()
    }

    /// Factor on the cosine similarity.
    pub(super) fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    /// Values that differ between models and between lists of classes.
    pub(super) fn constants(&self) -> impl Iterator<Item = f32> {
        let parts = self.parts.iter().flat_map(Prompts::constants);
        std::iter::once(self.logit_scale).chain(parts)
    }

    /// Loss, right answers, and the gradient of the context vectors [contexts, width].
    fn loss(
        &self,
        context: &[f32],
        images: &[f32],
        labels: &[usize],
    ) -> Result<(f32, usize, Vec<f32>)> {
        let keep = self.parts.len() == 1;
        let forward = |part: &Prompts| part.forward(&self.tower, context, keep);
        let runs: Vec<Run> = self.parts.iter().map(forward).collect::<Result<_>>()?;
        let embeddings: Vec<&Tensor> = runs.iter().map(|run| &run.embeddings).collect();
        // The tower's output as a variable of its own: the loss's gradient stops there and then goes
        // into each part.
        let embeddings = Var::from_tensor(&Tensor::cat(&embeddings, 0)?.detach())?;
        let images =
            Tensor::from_slice(images, (labels.len(), self.tower.embedding()), &Device::Cpu)?;
        let logits = images.matmul(&normalise(&embeddings)?.t()?)?;
        let logits = (logits * f64::from(self.logit_scale))?;
        let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let right = best
            .iter()
            .zip(labels)
            .filter(|(b, l)| **b as usize == **l)
            .count();
        let loss = cross_entropy(&logits, labels)?;
        let store = loss.backward()?;
        let Some(gradient) = store.get(&embeddings) else {
            return Err(Error::Config("the loss has no gradient".into()));
        };
        let mut sum = vec![0f32; context.len()];
        let mut start = 0;
        for (part, run) in self.parts.iter().zip(runs) {
            let run = match keep {
                true => run,
                false => part.forward(&self.tower, context, true)?,
            };
            let gradient = gradient.narrow(0, start, part.classes())?;
            part.backward(&run, &gradient, &mut sum)?;
            start += part.classes();
        }
        Ok((loss.to_scalar()?, right, sum))
    }
}

/// The mean of -log softmax(logits)[label] over the rows.
fn cross_entropy(logits: &Tensor, labels: &[usize]) -> Result<Tensor> {
    let most = logits.max_keepdim(D::Minus1)?.detach();
    let total = logits.broadcast_sub(&most)?.exp()?.sum_keepdim(D::Minus1)?;
    let normaliser = (total.log()? + most)?;
    let labels: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
    let labels = Tensor::from_vec(labels, (logits.dim(0)?, 1), &Device::Cpu)?;
    Ok((normaliser - logits.gather(&labels, 1)?)?.mean_all()?)
}
