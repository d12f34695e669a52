//! The training loop with log and saved states.

use std::{fs, path::PathBuf};

use super::training::Pretraining;
use crate::{
    Result,
    error::io,
    log::{LogLine, LogRecord, TrainingLog},
    pairs::PairSource,
    state_file::lock_output,
};

/// Where a pre-training writes, and how often.
#[derive(Clone, Debug)]
pub struct PretrainingOutput {
    /// The folder for log, state and checkpoint.
    pub folder: PathBuf,
    /// Updates per line of the log.
    pub log_every: u64,
    /// Updates per saved state.
    pub save_every: u64,
}

impl PretrainingOutput {
    /// The file of the exact training state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    /// The file of the log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }

    /// The folder of the model.
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }
}

/// Trains until `until` updates are done (at most the options' steps), and writes log, states and checkpoints.
/// `observe` is called with each line of the log. Returns the whole log, earlier sessions included.
///
/// # Errors
/// Those of the data; [`crate::Error::State`] if another process trains in the folder; [`crate::Error::Diverged`] and
/// [`crate::Error::Io`].
pub fn pretrain(
    training: &mut Pretraining,
    source: &PairSource,
    output: &PretrainingOutput,
    until: u64,
    mut observe: impl FnMut(&LogRecord) -> Result<()>,
) -> Result<Vec<LogRecord>> {
    fs::create_dir_all(&output.folder).map_err(io(&output.folder))?;
    let _lock = lock_output(&output.folder)?;
    let mut log = TrainingLog::open(&output.log(), training.done, training.spent)?;
    let until = until.min(training.options.steps);
    while training.done < until {
        let learning_rate = training.learning_rate();
        let batch = training.batch(source, training.done)?;
        log.add(training.update(&batch)?);
        training.spent = log.spent();
        if training.done.is_multiple_of(output.log_every) || training.done == until {
            let record = log.write(LogLine {
                step: training.done,
                learning_rate,
                logit_scale: f64::from(training.model.logit_scale.to_scalar::<f32>()?.exp()),
                images: training.done * training.options.batch_size as u64,
            })?;
            observe(record)?;
        }
        if training.done.is_multiple_of(output.save_every) || training.done == until {
            log.sync()?;
            // Before the state: a training that is continued does not save what the state says is done.
            training.write_checkpoint(&output.checkpoint())?;
            training.save(source, &output.state())?;
        }
    }
    Ok(log.into_records())
}
