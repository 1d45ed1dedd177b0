//! Checkpoints: everything that training needs to go on exactly where it was.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::encoder::NamedTensors;

/// Where training stands, beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps taken.
    pub step: usize,
    /// Epoch in progress, from 0.
    pub epoch: usize,
    /// Batches of that epoch that are done.
    pub batches_done: usize,
    /// Sum of the losses of those batches.
    pub epoch_loss: f64,
    /// Best score on dev so far.
    pub best_score: Option<f64>,
    /// Epochs since then.
    pub epochs_without_gain: usize,
    /// Digest of the options and of the data: a run goes on only with what it was started with.
    pub fingerprint: String,
}

/// The checkpoints of one run, each a folder `checkpoint-STEP`; `progress.json` is written last and makes it whole.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Checkpoints in `folder`, which exists.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Writes a checkpoint and then removes the older ones, so that there is a whole one at every moment.
    ///
    /// # Errors
    /// When a file cannot be written, as on a full disk; the older checkpoint then stays.
    pub fn save(&self, tensors: &[(String, Tensor)], progress: &Progress) -> Result<()> {
        let older = self.steps()?;
        let folder = self.path(progress.step);
        let attempt = || -> Result<()> {
            fs::create_dir_all(&folder)?;
            let weights = folder.join(TENSORS);
            Tensor::write_safetensors(tensors, &weights)?;
            File::open(&weights)?.sync_all()?;
            let draft = folder.join("progress.draft");
            let mut file = File::create(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(progress)?)?;
            file.sync_all()?;
            fs::rename(&draft, folder.join(PROGRESS))?;
            Ok(())
        };
        if let Err(error) = attempt() {
            // What was half written would only take room; failing to remove it changes nothing.
            let _ = fs::remove_dir_all(&folder);
            return Err(error.context(format!("cannot write the checkpoint {}", folder.display())));
        }
        for step in older.into_iter().filter(|&step| step != progress.step) {
            fs::remove_dir_all(self.path(step)).context("cannot remove an old checkpoint")?;
        }
        Ok(())
    }

    /// The newest whole checkpoint, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn load(&self) -> Result<Option<(NamedTensors, Progress)>> {
        let whole = self.steps()?.into_iter().filter(|&step| self.path(step).join(PROGRESS).is_file()).max();
        let Some(step) = whole else { return Ok(None) };
        let folder = self.path(step);
        let read = || -> Result<_> {
            let progress = serde_json::from_slice(&fs::read(folder.join(PROGRESS))?)?;
            Ok((Tensor::read_safetensors(folder.join(TENSORS))?, progress))
        };
        read().map(Some).with_context(|| format!("cannot read the checkpoint {}", folder.display()))
    }

    /// Path of the newest whole checkpoint, for messages.
    pub fn latest(&self) -> Option<PathBuf> {
        let steps = self.steps().ok()?;
        steps.into_iter().filter(|&step| self.path(step).join(PROGRESS).is_file()).max().map(|step| self.path(step))
    }

    /// Removes all checkpoints, when the run is done.
    ///
    /// # Errors
    /// When a folder cannot be removed.
    pub fn clear(&self) -> Result<()> {
        for step in self.steps()? {
            fs::remove_dir_all(self.path(step)).context("cannot remove a checkpoint")?;
        }
        Ok(())
    }

    fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("checkpoint-{step}"))
    }

    fn steps(&self) -> Result<Vec<usize>> {
        let entries = fs::read_dir(&self.folder).with_context(|| format!("cannot list {}", self.folder.display()))?;
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(step) = name.to_str().and_then(|name| name.strip_prefix("checkpoint-")?.parse().ok()) {
                steps.push(step);
            }
        }
        Ok(steps)
    }
}

const TENSORS: &str = "state.safetensors";
const PROGRESS: &str = "progress.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: usize) -> Progress {
        Progress {
            step,
            epoch: 0,
            batches_done: step,
            epoch_loss: 0.5,
            best_score: None,
            epochs_without_gain: 0,
            fingerprint: "f".into(),
        }
    }

    #[test]
    fn the_newest_whole_checkpoint_wins() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path());
        assert!(checkpoints.load().unwrap().is_none());
        let tensor = |value: f32| vec![("x".to_owned(), Tensor::from_slice(&[value]))];
        checkpoints.save(&tensor(1.0), &progress(1)).unwrap();
        checkpoints.save(&tensor(2.0), &progress(2)).unwrap();
        // A kill in the middle of the third leaves a folder without its last file.
        fs::create_dir(folder.path().join("checkpoint-3")).unwrap();
        fs::write(folder.path().join("checkpoint-3").join(TENSORS), b"torn").unwrap();
        let (tensors, found) = checkpoints.load().unwrap().unwrap();
        assert_eq!(found, progress(2));
        assert_eq!(tensors[0].1.double_value(&[0]), 2.0);
        assert!(!folder.path().join("checkpoint-1").exists());
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path());
        checkpoints.save(&[("x".to_owned(), Tensor::from_slice(&[1f32]))], &progress(1)).unwrap();
        // A file where the folder must go stands in for a disk that refuses.
        fs::write(folder.path().join("checkpoint-2"), b"").unwrap();
        assert!(checkpoints.save(&[("x".to_owned(), Tensor::from_slice(&[2f32]))], &progress(2)).is_err());
        assert_eq!(checkpoints.load().unwrap().unwrap().1, progress(1));
    }
}
