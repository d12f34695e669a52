//! CoCoOp: context vectors that a meta-net shifts by the image's embedding.

use candle_core::{Device, Tensor, Var};
use pinhole_model::{ClassPosition, MetaNet, PromptLearner, Tensor as Values};
use pinhole_prompts::{Classes, Conditional, TextEncoder, Tokenizer};

use super::super::{
    method::{PromptForms, PromptGradients, PromptMethod, Recipe},
    text_model::TextModel,
    weight::Weight,
};
use crate::{
    Error, Result,
    class_head::ClassHead,
    ops::{linear, read},
    random::SeededRng,
};

const META_NET: [&str; 4] = [
    "meta_net.linear1.weight",
    "meta_net.linear1.bias",
    "meta_net.linear2.weight",
    "meta_net.linear2.bias",
];

pub(super) struct CoCoOp;

impl PromptMethod for CoCoOp {
    fn name(&self) -> &'static str {
        "CoCoOp"
    }

    fn key(&self) -> &'static str {
        "cocoop"
    }

    fn epochs_flag(&self) -> &'static str {
        "cocoop-epochs"
    }

    fn about(&self) -> &'static str {
        "Learn context vectors that depend on the image (CoCoOp), with frozen encoders"
    }

    fn recipe(&self, _: usize) -> Recipe {
        Recipe {
            n_ctx: 4,
            words: Some("a photo of a".into()),
            epochs: 10,
            batch_size: 1,
        }
    }

    fn prompt_forms(&self) -> PromptForms {
        PromptForms::SharedBeforeName
    }

    /// A meta-net initialised like PyTorch's `nn.Linear`: uniform within 1 / sqrt(inputs), biases too.
    fn extra_weights(
        &self,
        width: usize,
        embedding: usize,
        rng: &dyn Fn(u64) -> SeededRng,
    ) -> Vec<Weight> {
        let hidden = (embedding / 16).max(1);
        let uniform = |i: usize, shape: &[usize], inputs: usize| {
            let (mut rng, bound) = (rng(i as u64 + 1), (inputs as f32).sqrt().recip());
            let count: usize = shape.iter().product();
            let values = (0..count).map(|_| rng.range(-bound, bound)).collect();
            Weight::new(META_NET[i], shape, values)
        };
        vec![
            uniform(0, &[hidden, embedding], embedding),
            uniform(1, &[hidden], embedding),
            uniform(2, &[width, hidden], hidden),
            uniform(3, &[width], hidden),
        ]
    }

    fn loss_and_gradients(
        &self,
        text: &TextModel,
        weights: &[Weight],
        images: &[f32],
        labels: &[usize],
    ) -> Result<PromptGradients> {
        let weight = 1.0 / labels.len() as f32;
        let mut found = PromptGradients {
            loss: 0.0,
            correct: 0,
            gradients: weights.iter().map(|w| vec![0.0; w.values.len()]).collect(),
        };
        for (image, label) in images.chunks_exact(text.embedding()).zip(labels) {
            let vars = weights.iter().map(|w| {
                Var::from_slice(&w.values, w.shape.as_slice(), &Device::Cpu).map_err(Error::from)
            });
            let vars = vars.collect::<Result<Vec<Var>>>()?;
            let context = shifted_context(&vars, image)?;
            let values = read(&context, <[f32]>::to_vec)?;
            let own = text.loss_and_gradient(&values, image, &[*label])?;
            let gradient = Tensor::from_vec(own.gradient, context.shape(), &Device::Cpu)?;
            let store = (&context * gradient)?.sum_all()?.backward()?;
            for (sum, var) in found.gradients.iter_mut().zip(&vars) {
                if let Some(gradient) = store.get(var) {
                    read(gradient, |gradient| {
                        let pairs = sum.iter_mut().zip(gradient);
                        pairs.for_each(|(sum, g)| *sum += weight * g);
                    })?;
                }
            }
            found.loss += weight * own.loss;
            found.correct += own.correct;
        }
        Ok(found)
    }

    fn trained(&self, learner: &PromptLearner) -> bool {
        learner.meta_net.is_some()
    }

    fn check_learner(
        &self,
        learner: &PromptLearner,
        embedding: usize,
    ) -> std::result::Result<(), String> {
        let shape = learner
            .meta_net
            .as_ref()
            .map(|net| &net.linear1_weight.shape);
        if shape.and_then(|shape| shape.get(1)) == Some(&embedding) {
            return Ok(());
        }
        Err(format!(
            "{}: expected [_, {embedding}] for image embeddings of length {embedding}, found {shape:?}",
            META_NET[0]
        ))
    }

    fn to_weights(&self, learner: PromptLearner) -> Vec<Weight> {
        let context = learner.context;
        let mut weights = vec![Weight::new("ctx", &context.shape, context.data)];
        if let Some(net) = learner.meta_net {
            let tensors = [
                net.linear1_weight,
                net.linear1_bias,
                net.linear2_weight,
                net.linear2_bias,
            ];
            let named = META_NET.into_iter().zip(tensors);
            weights.extend(named.map(|(name, t)| Weight::new(name, &t.shape, t.data)));
        }
        weights
    }

    fn to_learner(&self, weights: &[Weight]) -> PromptLearner {
        let tensor = |i: usize| Values {
            shape: weights[i].shape.clone(),
            data: weights[i].values.clone(),
        };
        PromptLearner {
            context: tensor(0),
            meta_net: Some(MetaNet {
                linear1_weight: tensor(1),
                linear1_bias: tensor(2),
                linear2_weight: tensor(3),
                linear2_bias: tensor(4),
            }),
            class_position: None,
        }
    }

    fn head(
        &self,
        encoder: &TextEncoder,
        tokenizer: &Tokenizer,
        classes: &Classes,
        learner: &PromptLearner,
        _: ClassPosition,
    ) -> Result<ClassHead> {
        let conditional = Conditional::new(encoder, tokenizer, classes, learner)?;
        Ok(ClassHead::Conditional(Box::new(conditional)))
    }
}

/// The context for an image's embedding f: ctx_m + W2 relu(W1 f + b1) + b2 for every vector m.
fn shifted_context(weights: &[Var], image: &[f32]) -> Result<Tensor> {
    let [context, w1, b1, w2, b2] = weights else {
        let found = weights.len();
        return Err(Error::Config(format!(
            "CoCoOp: expected 5 tensors, found {found}"
        )));
    };
    let image = Tensor::from_slice(image, (1, image.len()), &Device::Cpu)?;
    let hidden = linear(&image, w1, Some(b1))?.relu()?;
    Ok(context.broadcast_add(&linear(&hidden, w2, Some(b2))?)?)
}
