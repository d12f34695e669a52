//! A written checkpoint is read back unchanged, and a failed write leaves nothing.

use std::fs;
use std::path::Path;

use pinhole_checkpoint::{Error, Existing, write};
use pinhole_model::{CropRounding, Filter, Tensor};

use crate::common::{digests, models, open};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_family_is_read_back_without_options() {
    let folder = tempfile::tempdir().unwrap();
    for from in [
        "vit-quickgelu/open-clip",
        "vit-quickgelu/transformers",
        "vit-gelu/transformers-sharded",
        "vit-openai/openai.pt",
        "resnet/open-clip-bin",
    ] {
        let original = open(&models().join(from)).unwrap();
        let mut config = original.config().clone();
        config.name = Some(from.to_owned());
        let to = folder.path().join("a/b").join(from.replace('/', "-"));
        write(&to, &config, Existing::Keep, |name| original.tensor(name)).unwrap();
        assert_eq!(
            names(&to),
            ["open_clip_config.json", "open_clip_model.safetensors"]
        );
        let copy = open(&to).unwrap();
        assert_eq!(*copy.config(), config, "{from}");
        assert_eq!(copy.assumptions(), [""; 0]);
        assert_eq!(digests(&copy).unwrap(), digests(&original).unwrap());
    }
    assert_eq!(names(&folder.path().join("a/b")).len(), 5);
}

#[test]
fn only_a_checkpoint_is_replaced_and_only_on_request() {
    let parent = tempfile::tempdir().unwrap();
    let to = parent.path().join("model");
    let quick = open(&models().join("vit-quickgelu/open-clip")).unwrap();
    let resnet = open(&models().join("resnet/open-clip-bin")).unwrap();
    write(&to, quick.config(), Existing::Replace, |name| {
        quick.tensor(name)
    })
    .unwrap();
    let error = write(&to, resnet.config(), Existing::Keep, |name| {
        resnet.tensor(name)
    });
    assert!(matches!(error, Err(Error::Exists { .. })));
    assert_eq!(open(&to).unwrap().config(), quick.config());
    write(&to, resnet.config(), Existing::Replace, |name| {
        resnet.tensor(name)
    })
    .unwrap();
    assert_eq!(open(&to).unwrap().config(), resnet.config());
    assert_eq!(names(parent.path()), ["model"]);

    fs::write(to.join("thesis.tex"), "years of work").unwrap();
    let error = write(&to, quick.config(), Existing::Replace, |name| {
        quick.tensor(name)
    });
    assert!(error.unwrap_err().to_string().contains("thesis.tex"));
    assert!(to.join("thesis.tex").exists());
    assert_eq!(names(parent.path()), ["model"]);
}

#[test]
fn a_bad_tensor_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let to = parent.path().join("model");
    let original = open(&models().join("vit-quickgelu/open-clip")).unwrap();
    let write_with = |change: &dyn Fn(&mut Tensor)| {
        write(&to, original.config(), Existing::Keep, |name| {
            let mut tensor = original.tensor(name)?;
            if name == "ln_final.bias" {
                change(&mut tensor);
            }
            Ok::<_, Error>(tensor)
        })
        .unwrap_err()
    };
    let error = write_with(&|tensor| tensor.data[3] = f32::NAN);
    assert!(
        matches!(error, Error::NotFinite { index: 3, .. }),
        "{error}"
    );
    let error = write_with(&|tensor| tensor.shape = vec![4, 6]);
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let error = write_with(&|tensor| tensor.data.truncate(23));
    assert!(
        error
            .to_string()
            .ends_with("expected shape [24], found [23]"),
        "{error}"
    );
    assert!(names(parent.path()).is_empty());
}

#[test]
fn what_the_format_cannot_express_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let original = open(&models().join("vit-quickgelu/open-clip")).unwrap();
    let refuse = |config: &pinhole_model::ClipConfig, expected: &str| {
        let to = parent.path().join("model");
        let error = write(&to, config, Existing::Keep, |name| original.tensor(name)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let mut config = original.config().clone();
    config.preprocessing.crop = CropRounding::Floor;
    config.preprocessing.filter = Filter::Lanczos;
    refuse(
        &config,
        "preprocessing.filter: expected bicubic or bilinear",
    );
    config = original.config().clone();
    config.text.heads = 5;
    refuse(&config, "heads: expected a divisor of 24, found 5");
    config = original.config().clone();
    config.preprocessing.size = 224;
    refuse(&config, "preprocessing.size: expected 32 pixels, found 224");
    assert!(names(parent.path()).is_empty());
}
