//! The learned prompts that tests/reference/make_prompts.py made.

use std::path::Path;

use pinhole_checkpoint::{StateDict, read_state_dict};
use pinhole_model::{Activation, MetaNet, PromptLearner, Tensor, TextEncoderConfig as Config};
use pinhole_prompts::{Classes, TextEncoder};
use serde_json::Value;

pub(crate) struct Golden {
    pub(crate) json: Value,
    state: StateDict,
}

impl Golden {
    pub(crate) fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let json = std::fs::read_to_string(folder.join("learned.json")).unwrap();
        Golden {
            json: serde_json::from_str(&json).unwrap(),
            state: read_state_dict(&folder.join("learned.safetensors")).unwrap(),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        self.state.tensor(name).unwrap()
    }

    fn size(&self, name: &str) -> usize {
        self.json[name].as_u64().unwrap() as usize
    }

    pub(crate) fn encoder(&self) -> TextEncoder {
        let positions = self.tensor("positional_embedding").shape;
        let config = Config {
            context_length: positions[0],
            vocabulary: 49408,
            width: positions[1],
            layers: self.size("layers"),
            heads: self.size("heads"),
            form: Default::default(),
        };
        let ids = serde_json::from_value(self.json["token_ids"].clone()).unwrap();
        let tensor = |name: &str| Ok(self.tensor(name));
        let embedding = self.size("embedding");
        TextEncoder::with_token_ids(config, embedding, Activation::QuickGelu, ids, tensor).unwrap()
    }

    pub(crate) fn classes(&self) -> Classes {
        let names: Vec<String> = serde_json::from_value(self.json["classes"].clone()).unwrap();
        Classes::new(names).unwrap()
    }

    /// The context of this name, without meta-net.
    pub(crate) fn coop(&self, context: &str) -> PromptLearner {
        PromptLearner {
            context: self.tensor(context),
            meta_net: None,
            class_position: None,
        }
    }

    pub(crate) fn cocoop(&self) -> PromptLearner {
        let tensor = |name: &str| self.tensor(&format!("meta_net.{name}"));
        PromptLearner {
            meta_net: Some(MetaNet {
                linear1_weight: tensor("linear1.weight"),
                linear1_bias: tensor("linear1.bias"),
                linear2_weight: tensor("linear2.weight"),
                linear2_bias: tensor("linear2.bias"),
            }),
            ..self.coop("conditional")
        }
    }

    pub(crate) fn features(&self) -> Vec<Vec<f32>> {
        serde_json::from_value(self.json["features"].clone()).unwrap()
    }
}
