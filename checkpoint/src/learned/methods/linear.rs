//! A linear head over image embeddings, from any program: a linear probe, LP++, or scikit-learn's logistic regression.

use pinhole_model::{Learned, LearnedClasses, LearnedForm, LinearClassifier};

use super::super::method::{
    Files, LearnedTensors, Method, NamedTensors, Presence, Recognition, TensorSpec,
};
use crate::Error;

const WEIGHT: &str = "weight";
const BIAS: &str = "bias";

pub(crate) static LINEAR: Method = Method {
    key: "linear",
    name: "linear head",
    source: "Radford et al., ICML 2021; LP++; nn.Linear and scikit-learn",
    forms: &[LearnedForm::LinearHead],
    options: &[],
    files: Files::One,
    recognition: Recognition::Tensors,
    tensors: &[
        TensorSpec::required(WEIGHT, &[&["rows", "embedding"]]),
        TensorSpec::optional(BIAS, &[&["rows"]]),
        TensorSpec::new(
            "classes_",
            &[&["classes"]],
            Presence::Unused("the rows are taken in the order of --classes"),
        ),
    ],
    aliases: &[
        // scikit-learn's attributes, and usual names of a module.
        ("coef_", WEIGHT),
        ("intercept_", BIAS),
        ("fc.weight", WEIGHT),
        ("fc.bias", BIAS),
        ("head.weight", WEIGHT),
        ("head.bias", BIAS),
        ("linear.weight", WEIGHT),
        ("linear.bias", BIAS),
        ("classifier.weight", WEIGHT),
        ("classifier.bias", BIAS),
    ],
    read,
};

/// The tensors that [`LINEAR`] reads as this classifier.
pub(in crate::learned) fn tensors(classifier: &LinearClassifier) -> NamedTensors {
    let mut tensors = vec![(WEIGHT.to_owned(), classifier.weight.clone())];
    tensors.extend((classifier.bias.clone()).map(|bias| (BIAS.to_owned(), bias)));
    tensors
}

fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let weight = tensors.tensor(WEIGHT)?;
    let bias = tensors.optional(BIAS)?;
    Ok(tensors.learned(LearnedClasses::Linear(LinearClassifier { weight, bias })))
}
