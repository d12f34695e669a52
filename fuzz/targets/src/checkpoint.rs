//! Checkpoints of other programs.

use std::path::Path;

use pinhole_checkpoint::{
    Checkpoint, Error, LearnedOptions, Method, OpenOptions, StateDict, internal, read_learned,
    read_state_dict,
};
use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, PreprocessConfig, TextEncoderConfig, TextForm,
    VitPooling,
};

use crate::scratch;

/// A pickle by itself.
pub(crate) fn pickle(bytes: &[u8]) {
    let _ = internal::read_pickle(bytes);
}

/// A zip archive, a legacy file or a safetensors file, with all of its tensors.
pub(crate) fn state_dict(bytes: &[u8]) {
    let path = scratch::file("state", bytes);
    if let Ok(state) = read_state_dict(&path) {
        let _ = tensors(&state);
    }
    // The search for a CLIP in what surrounds it.
    let options = OpenOptions {
        activation: Some(Activation::Gelu),
        ..OpenOptions::default()
    };
    let _ = Checkpoint::open(&path, &options);
}

/// Class embeddings as a NumPy file.
pub(crate) fn npy(bytes: &[u8]) {
    let path = scratch::file("classes.npy", bytes);
    if let Ok(given) = pinhole_export::GivenEmbeddings::read(&path) {
        assert_eq!(given.data.len(), given.classes * given.size);
    }
}

fn tensors(state: &StateDict) -> Result<(), Error> {
    let names: Vec<&str> = state.names().collect();
    for name in names {
        let tensor = match state.tensor(name) {
            Ok(tensor) => tensor,
            // A tensor of another type does not hide the others.
            Err(Error::Dtype { .. } | Error::UnknownGlobal { .. }) => continue,
            Err(error) => return Err(error),
        };
        assert_eq!(tensor.data.len(), tensor.shape.iter().product::<usize>());
    }
    Ok(())
}

pub(crate) fn open_clip_config(bytes: &[u8]) {
    let path = scratch::file("open_clip_config.json", bytes);
    let _ = internal::read_open_clip_config(&path);
}

/// `config.json`, `preprocessor_config.json` and `tokenizer_config.json`.
pub(crate) fn transformers_config(bytes: &[u8]) {
    let path = scratch::file("config.json", bytes);
    let _ = internal::read_transformers_config(&path);
}

/// The index of shards, which may name files that are not there.
pub(crate) fn shard_index(bytes: &[u8]) {
    let path = scratch::file("model.safetensors.index.json", bytes);
    let _ = Checkpoint::open(&path, &Default::default());
}

/// The file of a learned method, recognised and as every method, for the small CLIP of the files that have its encoders.
pub(crate) fn learned(bytes: &[u8]) {
    let path = scratch::file("learned", bytes);
    let clip = ClipConfig {
        name: None,
        embedding: 4,
        image: ImageEncoderConfig::VisionTransformer {
            image_size: 4,
            patch_size: 2,
            width: 8,
            layers: 2,
            heads: 1,
            mlp: 4 * 8,
            input_norm: true,
            pooling: VitPooling::ClassToken,
        },
        text: TextEncoderConfig {
            context_length: 8,
            vocabulary: 10,
            width: 4,
            layers: 2,
            heads: 1,
            form: TextForm::Clip,
        },
        activation: Activation::QuickGelu,
        text_activation: Activation::QuickGelu,
        preprocessing: PreprocessConfig::openai(4),
    };
    let named = Method::all().iter().map(|method| Some(*method));
    for method in named.chain([None]) {
        let options = LearnedOptions {
            method,
            clip: Some(clip.clone()),
            ..LearnedOptions::default()
        };
        let _ = read_learned(Path::new(&path), &options);
    }
}
