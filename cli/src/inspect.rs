//! `pinhole inspect`: what a bundle holds, as text or JSON.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use pinhole::internal::{NetworkOperator, operators};
use pinhole::manifest::{
    Agreement, CacheInfo, ConditionalInfo, CropRounding, Fidelity, HeadForm, Resize,
};
use pinhole::{Classifier, Manifest, Precision, Score};
use serde::Serialize;

use crate::cli::InspectArgs;
use crate::{open, output};

#[derive(Serialize)]
struct Inspection<'a> {
    manifest: &'a Manifest,
    threads: usize,
    kernels: &'static str,
    f16_arithmetic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    operators: Option<Vec<NetworkOperator>>,
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let classifier = open::classifier(&args.bundle)?;
    let mut out = output::stdout();
    if args.json {
        let inspection = Inspection {
            manifest: classifier.manifest(),
            threads: classifier.threads(),
            kernels: classifier.kernels(),
            f16_arithmetic: classifier.f16_arithmetic(),
            operators: args.operators.then(|| operators(&classifier)),
        };
        out.json(&inspection)?;
    } else {
        write_text(&mut out, &classifier, args.operators)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_text(
    out: &mut impl Write,
    classifier: &Classifier,
    with_operators: bool,
) -> std::io::Result<()> {
    let manifest = classifier.manifest();
    let model = &manifest.model;
    writeln!(
        out,
        "bundle         version {}, written by {}",
        manifest.version, manifest.created_by
    )?;
    writeln!(
        out,
        "model          {}, {} x {} pixels, embedding size {}",
        model.name, model.image_size, model.image_size, model.embedding_size
    )?;
    writeln!(
        out,
        "precision      {}{}",
        manifest.precision,
        arithmetic(classifier)
    )?;
    let preprocess = &manifest.preprocessing;
    writeln!(
        out,
        "preprocessing  {} to {}, {} filter, centre crop rounded {}",
        match preprocess.resize {
            Resize::Shortest => "shortest side",
            Resize::Longest => "longest side",
            Resize::Squash => "both sides",
        },
        preprocess.size,
        format!("{:?}", preprocess.filter).to_lowercase(),
        match preprocess.crop {
            CropRounding::HalfEven => "half to even",
            CropRounding::Floor => "down",
        }
    )?;
    writeln!(
        out,
        "logit scale    {}, temperature {}",
        manifest.logit_scale, manifest.temperature
    )?;
    writeln!(out, "probabilities  {}", probabilities(&manifest.score))?;
    match &manifest.fidelity {
        Some(f) => writeln!(out, "fidelity       {}", fidelity(f, "against f32"))?,
        None => writeln!(
            out,
            "fidelity       the weights are those of the checkpoint"
        )?,
    }
    if let Some(f) = &manifest.f16_arithmetic {
        writeln!(out, "               {}", fidelity(f, "multiplied in f16"))?;
    }
    match &manifest.prompt_learner {
        Some(learner) => writeln!(
            out,
            "prompts        {} learned {}context vectors, class name at the {}",
            learner.n_ctx,
            if learner.class_specific {
                "class-specific "
            } else {
                ""
            },
            learner.class_position
        )?,
        None => writeln!(out, "prompts        {}", manifest.templates.join(" | "))?,
    }
    write_text_encoder(out, manifest)?;
    if let Some(method) = &manifest.method {
        writeln!(out, "method         {method}")?;
    }
    match (&manifest.conditional, &manifest.cache) {
        (Some(conditional), _) => write_conditional(out, conditional)?,
        (None, Some(cache)) => {
            let examples = match &classifier.bundle().head().form {
                HeadForm::Cache(terms) => terms.labels.len(),
                _ => 0,
            };
            let CacheInfo { alpha, beta } = cache;
            writeln!(
                out,
                "head           cache of {examples} examples, alpha {alpha}, beta {beta}"
            )?;
        }
        (None, None) => writeln!(out, "head           {}", manifest.head)?,
    }
    write_calibration(out, manifest)?;
    writeln!(
        out,
        "kernels        {}, {} threads",
        classifier.kernels(),
        classifier.threads()
    )?;
    writeln!(out, "files")?;
    for file in &manifest.files {
        writeln!(out, "  {:>12}  {}", file.bytes, file.path)?;
    }
    writeln!(out, "classes        {}", manifest.classes.len())?;
    for class in &manifest.classes {
        writeln!(out, "  {class}")?;
    }
    if with_operators {
        writeln!(out, "operators")?;
        for o in operators(classifier) {
            writeln!(out, "  {:<34} {:<16} {}", o.operator, o.kernel, o.name)?;
        }
    }
    if !manifest.model_card.is_empty() {
        writeln!(out, "model card\n{}", manifest.model_card)?;
    }
    Ok(())
}

/// In which precision f16 weights are multiplied, and why.
fn arithmetic(classifier: &Classifier) -> &'static str {
    let manifest = classifier.manifest();
    match manifest.f16_arithmetic {
        _ if manifest.precision != Precision::F16 => "",
        _ if classifier.f16_arithmetic() => ", multiplied in f16",
        None => ", multiplied in f32: the export did not measure f16 arithmetic, or rejected it",
        Some(_) => ", multiplied in f32: this processor has no f16 kernels",
    }
}

fn fidelity(f: &Fidelity, what: &str) -> String {
    format!(
        "{what}, {} images: cosine mean {:.6}, worst {:.6}; top-1 agreement {:.1} %",
        f.images,
        f.mean_cosine,
        f.worst_cosine,
        100.0 * f.top1_agreement
    )
}

fn write_text_encoder(out: &mut impl Write, manifest: &Manifest) -> std::io::Result<()> {
    let Some(text) = &manifest.text_encoder else {
        return writeln!(out, "text encoder   none: the classes cannot be changed");
    };
    match &text.fidelity {
        Some(f) => writeln!(
            out,
            "text encoder   {}; class embeddings against f32, {} classes: cosine mean {:.6}, worst {:.6}",
            text.precision, f.classes, f.mean_cosine, f.worst_cosine
        ),
        None => writeln!(out, "text encoder   {}", text.precision),
    }
}

/// The images that the modes of a conditional head were compared on. Fewer than 8 are used for the fit, too, or say little.
fn compared_images(c: &ConditionalInfo) -> String {
    match (c.fitted_images, c.compared_images) {
        (fitted, images @ 0..8) if fitted == images => {
            format!("the same {images} images, which says little")
        }
        (_, images @ 0..8) => format!("{images} others, too few to judge by"),
        (_, images) => format!("{images} held-out images"),
    }
}

fn write_conditional(out: &mut impl Write, c: &ConditionalInfo) -> std::io::Result<()> {
    let agreement = |a: &Agreement| {
        format!(
            "top-1 agreement {:.1} %, logit difference at most {:.3}, mean {:.4}",
            100.0 * a.top1,
            a.largest_logit_difference,
            a.mean_logit_difference
        )
    };
    writeln!(
        out,
        "head           conditional, fitted to {} images; against mode exact on {}:",
        c.fitted_images,
        compared_images(c)
    )?;
    writeln!(out, "               linear: {}", agreement(&c.linear))?;
    writeln!(
        out,
        "               shortlist of {}: {}",
        c.shortlist_length,
        agreement(&c.shortlist)
    )
}

/// What the probabilities are.
fn probabilities(score: &Score) -> String {
    match score {
        Score::Softmax => score.to_string(),
        Score::Sigmoid {
            logit_bias,
            calibrated_bias,
        } => {
            let calibrated = calibrated_bias.map_or(String::new(), |b| format!(", calibrated {b}"));
            format!("{score}; logit bias {logit_bias}{calibrated}")
        }
    }
}

/// The calibration of the probabilities, and when the answer is "unknown".
fn write_calibration(out: &mut impl Write, manifest: &Manifest) -> std::io::Result<()> {
    match &manifest.calibration {
        Some(c) => writeln!(
            out,
            "calibration    {} images, accuracy {:.1} %: expected calibration error {:.1} %, before {:.1} %",
            c.images,
            100.0 * c.accuracy,
            100.0 * c.ece_after,
            100.0 * c.ece_before
        )?,
        None => writeln!(
            out,
            "calibration    none: the probabilities do not estimate how often an answer is right"
        )?,
    }
    let policy = &manifest.unknown;
    let mut conditions = vec![];
    if let Some(least) = policy.min_similarity {
        conditions.push(format!("similarity below {least:.4}"));
    }
    if let Some(least) = policy.min_margin {
        conditions.push(format!("margin below {least:.4}"));
    }
    if !policy.negatives.is_empty() {
        conditions.push(format!("more similar to: {}", policy.negatives.join(" | ")));
    }
    if conditions.is_empty() {
        conditions.push("never: no threshold is set".into());
    }
    writeln!(out, "unknown        {}", conditions.join(", or "))?;
    if let Some(c) = &manifest.calibration {
        let rejected = |share: Option<f32>, of: &str| {
            share.map_or(String::new(), |v| format!(", {:.1} % of {of}", 100.0 * v))
        };
        writeln!(
            out,
            "               rejects {:.1} % of the right answers{}{}",
            100.0 * (1.0 - c.kept),
            rejected(c.wrong_rejected, "the wrong answers"),
            rejected(c.strangers_rejected, "images of no class")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_images_are_not_called_held_out() {
        let agreement = Agreement {
            top1: 1.0,
            largest_logit_difference: 0.0,
            mean_logit_difference: 0.0,
        };
        let text = |fitted_images, images| {
            compared_images(&ConditionalInfo {
                fitted_images,
                compared_images: images,
                movement: 0.0,
                linear: agreement,
                shortlist_length: 1,
                shortlist: agreement,
            })
        };
        assert!(text(7, 7).starts_with("the same 7"));
        assert!(text(6, 2).starts_with("2 others"));
        assert_eq!(text(24, 8), "8 held-out images");
        assert_eq!(text(512, 512), "512 held-out images");
    }
}
