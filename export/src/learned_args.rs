//! The command line's options about learned methods.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pinhole::internal::UsageError;
use pinhole::note;
use pinhole_checkpoint::{Checkpoint, LearnedOptions, Method, check_method_options, read_learned};
use pinhole_model::{ClassPosition, Learned, PromptLearner};

#[derive(Args)]
#[command(next_help_heading = "Learned methods")]
pub(crate) struct LearnedArgs {
    /// What a learned method saved: its reference implementation's file, such as model.pth.tar-50, a
    /// file of pinhole-train, or the output folder of either. The method is recognised by the tensors
    #[arg(
        long,
        visible_alias = "prompt-learner",
        value_name = "FILE|FOLDER",
        long_help = learned_help()
    )]
    pub(crate) learned: Option<PathBuf>,
    /// The method of --learned [default: recognised by the tensors]
    #[arg(long, requires = "learned", value_name = "NAME", value_parser = Method::find)]
    method: Option<&'static Method>,
    /// A number that the files of the method do not state, such as alpha=0.5; --help lists them. May be repeated
    #[arg(
        long = "method-option",
        requires = "learned",
        value_name = "NAME=VALUE",
        value_parser = value,
        long_help = options_help()
    )]
    values: Vec<(String, f32)>,
    /// Position of the class name among the learned context vectors [default: from the file, else end]
    #[arg(long, requires = "learned", ignore_case = true)]
    class_position: Option<PositionName>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PositionName {
    End,
    Middle,
    Front,
}

fn learned_help() -> String {
    let mut help = String::from(
        "What a learned method saved: its reference implementation's file, such as model.pth.tar-50, a \
         file of pinhole-train, or the output folder of either. The method is recognised by the tensors:\n",
    );
    for method in Method::all() {
        let forms: Vec<String> = method.forms.iter().map(ToString::to_string).collect();
        help += &format!(
            "\n{}: {}, {} ({})",
            method.key,
            method.name,
            forms.join(" and "),
            method.source
        );
    }
    help
}

fn options_help() -> String {
    let mut help =
        String::from("A number that the files of the method do not state. May be repeated:\n");
    for method in Method::all() {
        for option in method.options {
            let default = option.default.map(|value| format!(" [default: {value}]"));
            help += &format!(
                "\n{} {}=VALUE: {}{}",
                method.key,
                option.name,
                option.help,
                default.unwrap_or_default()
            );
        }
    }
    help
}

fn value(text: &str) -> Result<(String, f32), String> {
    let found = text
        .split_once('=')
        .and_then(|(name, value)| Some((name.to_owned(), value.parse::<f32>().ok()?)));
    found
        .filter(|(_, value)| value.is_finite())
        .ok_or_else(|| "expected a name and a number, such as alpha=0.5".into())
}

impl LearnedArgs {
    /// Checks the options of a method that is named, before anything is read.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        match self.method {
            Some(method) => {
                check_method_options(method, Path::new("--method-option"), &self.values)
                    .map_err(UsageError::new)
            }
            None => Ok(()),
        }
    }

    /// Reads `--learned` for a CLIP, and reports what its reader noted.
    pub(crate) fn read(&self, clip: Option<&Checkpoint>) -> Result<Option<Learned>> {
        let Some(path) = &self.learned else {
            return Ok(None);
        };
        let options = LearnedOptions {
            method: self.method,
            values: self.values.clone(),
            clip: clip.map(|checkpoint| checkpoint.config().clone()),
        };
        let learned = read_learned(path, &options).context("--learned")?;
        for note in &learned.notes {
            note!("note: {note}");
        }
        Ok(Some(learned))
    }

    /// From the command line, else from the file, else the reference implementation's default, which is reported.
    pub(crate) fn class_position(&self, learner: &PromptLearner) -> ClassPosition {
        let asked = self.class_position.map(|position| match position {
            PositionName::End => ClassPosition::End,
            PositionName::Middle => ClassPosition::Middle,
            PositionName::Front => ClassPosition::Front,
        });
        asked.or(learner.class_position).unwrap_or_else(|| {
            note!(
                "note: the prompt learner's file does not record the position of the class name: assuming the end \
                 (--class-position end)"
            );
            ClassPosition::End
        })
    }
}
