//! Prompt learners in the reference's files and in Pinhole's.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole_checkpoint::{Error, read_prompt_learner, write_prompt_learner};
use pinhole_model::{ClassPosition, MetaNet, PromptLearner, Tensor};

use crate::common::write_tensors;

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/prompt_learners");
    folder.join(name)
}

/// The formula of tests/reference/make_prompt_learners.py.
fn numbers(place: usize, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor {
        shape: shape.to_vec(),
        data: (0..count)
            .map(|i| (((7 * i + 3 * place) % 129) as f32 - 64.0) / 64.0)
            .collect(),
    }
}

fn cocoop() -> PromptLearner {
    PromptLearner {
        context: numbers(0, &[4, 24]),
        meta_net: Some(MetaNet {
            linear1_weight: numbers(1, &[2, 16]),
            linear1_bias: numbers(2, &[2]),
            linear2_weight: numbers(3, &[24, 2]),
            linear2_bias: numbers(4, &[24]),
        }),
        class_position: None,
    }
}

#[test]
fn files_of_the_reference_with_optimiser_and_scheduler_are_read() {
    for (name, shape) in [
        ("coop.pth.tar", vec![4, 24]),
        ("coop-specific.pth.tar", vec![3, 4, 24]),
    ] {
        let found = read_prompt_learner(&golden(name)).unwrap();
        assert_eq!(found.context, numbers(0, &shape), "{name}");
        assert!(found.meta_net.is_none() && found.class_position.is_none());
        assert_eq!((found.n_ctx(), found.width()), (4, 24));
        let specific = (shape.len() == 3).then_some(3);
        assert_eq!(found.class_specific(), specific);
    }
    for name in ["cocoop.pth.tar", "cocoop-legacy.pth.tar"] {
        assert_eq!(
            read_prompt_learner(&golden(name)).unwrap(),
            cocoop(),
            "{name}"
        );
    }
}

#[test]
fn a_written_file_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt_learner.safetensors");
    let learner = PromptLearner {
        class_position: Some(ClassPosition::Middle),
        ..cocoop()
    };
    write_prompt_learner(&path, &learner, &[]).unwrap();
    assert_eq!(read_prompt_learner(&path).unwrap(), learner);
    // A second write replaces the file, and a failed one leaves it.
    write_prompt_learner(&path, &cocoop(), &[]).unwrap();
    let mut broken = learner;
    broken.context.data[5] = f32::NAN;
    let error = write_prompt_learner(&path, &broken, &[]).unwrap_err();
    assert!(
        matches!(error, Error::NotFinite { index: 5, .. }),
        "{error}"
    );
    assert_eq!(read_prompt_learner(&path).unwrap(), cocoop());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The error for a file of these tensors.
fn refused(tensors: &[(&str, Tensor)], metadata: Option<(&str, &str)>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("learner.safetensors");
    write_tensors(&path, tensors, metadata.as_slice());
    let error = read_prompt_learner(&path).unwrap_err().to_string();
    assert!(
        error.contains("learner.safetensors") && !error.contains('\n'),
        "{error}"
    );
    error
}

#[test]
fn other_tensors_are_refused_by_name() {
    let ctx = ("ctx", numbers(0, &[4, 24]));
    let mut nan = ctx.clone();
    nan.1.data[30] = f32::NAN;
    let net = |name, shape: &[usize]| (name, numbers(0, shape));
    let whole = [
        ctx.clone(),
        net("meta_net.linear1.weight", &[2, 16]),
        net("meta_net.linear1.bias", &[2]),
        net("meta_net.linear2.weight", &[24, 2]),
        net("meta_net.linear2.bias", &[24]),
    ];
    let mut misfit = whole.clone();
    misfit[3] = net("meta_net.linear2.weight", &[32, 2]);
    let mut specific = whole.clone();
    specific[0] = ("ctx", numbers(0, &[3, 4, 24]));
    for (tensors, metadata, expected) in [
        (vec![net("other", &[2])], None, "tensor other"),
        (vec![net("token_prefix", &[2])], None, "ctx: expected"),
        // MaPLe and other methods have a context too.
        (
            vec![ctx.clone(), net("proj.weight", &[2])],
            None,
            "proj.weight: expected [image_width, width]",
        ),
        (
            vec![ctx.clone(), net("other.weight", &[2])],
            None,
            "tensor other.weight",
        ),
        (
            vec![net("ctx", &[24])],
            None,
            "ctx: expected [n_ctx, width]",
        ),
        (vec![net("ctx", &[0, 24])], None, "found shape [0, 24]"),
        (whole[..4].to_vec(), None, "meta_net.linear2.bias: expected"),
        (
            misfit.to_vec(),
            None,
            "expected shape [24, 2], found [32, 2]",
        ),
        (
            specific.to_vec(),
            None,
            "ctx: expected [n_ctx, width], found shape [3, 4, 24]",
        ),
        (
            vec![nan],
            None,
            "ctx: expected finite values, found NaN at element 30",
        ),
        (
            vec![ctx.clone()],
            Some(("class_position", "top")),
            "class_position: expected end, middle or front, found top",
        ),
        (
            vec![ctx],
            Some(("trained_classes", "[\"cat\", 3]")),
            "metadata trained_classes: expected a JSON array of class names: field [1]: invalid type: integer",
        ),
    ] {
        let error = refused(&tensors, metadata);
        assert!(error.contains(expected), "{error}");
    }
    let error = read_prompt_learner(&golden("opaque-context.pth.tar"));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("ctx") && error.contains("ConstantWarmupScheduler"),
        "{error}"
    );
}
