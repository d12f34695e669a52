//! Types that the crates of Pinhole share, without I/O: what a CLIP model is, how its images are
//! preprocessed, what its prompts are made of, and how weights are stored; and what all of them leave out of messages.

mod activation;
mod clip;
mod credentials;
mod image_encoder;
mod learned;
mod precision;
mod preprocess;
mod prompt;
mod score;
mod shapes;
mod similar;
mod tensor;
mod vector;

pub use activation::Activation;
pub use clip::{ClipConfig, TextEncoderConfig, TextForm};
pub use credentials::without_credentials;
pub use image_encoder::{ImageEncoderConfig, VitPooling};
pub use learned::{
    DeepPrompts, EmbeddedNames, ExampleCache, Learned, LearnedClasses, LearnedForm,
    LinearClassifier, Tail, WeightUpdate,
};
pub use precision::{Agreement, Precision};
pub use preprocess::{CropRounding, Filter, InvalidPreprocessing, PreprocessConfig, Resize};
pub use prompt::{ClassPosition, MetaNet, PromptLearner, PromptRow};
pub use score::Score;
pub use similar::most_similar;
pub use tensor::{ClipWeights, Tensor};
pub use vector::dot;

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    /// Manifests of existing bundles have these names.
    #[test]
    fn names_in_manifests_do_not_change() {
        let agreement = Agreement {
            top1: 1.0,
            largest_logit_difference: 0.5,
            mean_logit_difference: 0.25,
        };
        let text = TextEncoderConfig {
            context_length: 77,
            vocabulary: 49_408,
            width: 512,
            layers: 12,
            heads: 8,
            form: Default::default(),
        };
        let mut preprocessing = PreprocessConfig::openai(224);
        (preprocessing.mean, preprocessing.std) = ([0.5; 3], [0.25; 3]);
        for (value, expected) in [
            (to_value(Activation::QuickGelu), json!("quickgelu")),
            (to_value(Activation::Gelu), json!("gelu")),
            (to_value(Activation::GeluTanh), json!("gelu-tanh")),
            (to_value(Precision::F32), json!("f32")),
            (to_value(Precision::F16), json!("f16")),
            (to_value(Precision::Int8), json!("int8")),
            (to_value(ClassPosition::Middle), json!("middle")),
            (to_value(Score::Softmax), json!("softmax")),
            (
                to_value(Score::Sigmoid {
                    logit_bias: -12.5,
                    calibrated_bias: None,
                }),
                json!({"sigmoid": {"logit_bias": -12.5}}),
            ),
            (
                to_value(agreement),
                json!({"top1": 1.0, "largest_logit_difference": 0.5, "mean_logit_difference": 0.25}),
            ),
            (
                to_value(text),
                json!({"context_length": 77, "vocabulary": 49_408, "width": 512, "layers": 12, "heads": 8}),
            ),
            (
                to_value(preprocessing),
                json!({"size": 224, "resize": "shortest", "filter": "bicubic", "crop": "half-even",
                    "fill": [0, 0, 0], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}),
            ),
        ] {
            assert_eq!(value.unwrap(), expected);
        }
    }

    #[test]
    fn names_on_command_lines_are_those_in_files() {
        for activation in [
            Activation::QuickGelu,
            Activation::Gelu,
            Activation::GeluTanh,
        ] {
            assert_eq!(activation.to_string().parse(), Ok(activation));
        }
        for position in [
            ClassPosition::End,
            ClassPosition::Middle,
            ClassPosition::Front,
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        assert!("GELU".parse::<Activation>().is_err());
    }

    #[test]
    fn encoders_have_their_usual_names_and_tensors() {
        let vit = ImageEncoderConfig::VisionTransformer {
            image_size: 224,
            patch_size: 32,
            width: 768,
            layers: 12,
            heads: 12,
            mlp: 3072,
            input_norm: true,
            pooling: VitPooling::ClassToken,
        };
        let resnet = ImageEncoderConfig::ModifiedResNet {
            image_size: 224,
            layers: [3, 4, 6, 3],
            width: 64,
            heads: 32,
        };
        // Parameters of OpenAI's image encoders, and the running statistics of the ResNet's batch norms.
        for (image, name, attention, embedding, parameters) in [
            (vit, "ViT-B/32", (12, 768), 512, 87_849_216),
            (resnet, "RN50", (32, 2048), 1024, 38_316_896 + 2 * 26_624),
        ] {
            assert_eq!(image.usual_name(), name);
            assert_eq!(image.attention(), Some(attention));
            let mut shapes = shapes::Shapes::default();
            image.add_tensors(embedding, &mut shapes);
            let sizes = shapes
                .0
                .iter()
                .map(|(_, shape)| shape.iter().product::<usize>());
            assert_eq!(sizes.sum::<usize>(), parameters, "{name}");
        }
    }
}
