//! `kdh store`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use kdh_runtime::LabelerOptions;
use kdh_runtime::store::{MAX_FAILED_STARTS, Status, Store, StoreError};
use serde_json::{Value, json};

use crate::source::{EngineArgs, note_signer};
use crate::verify::hex;
use crate::{Outcome, print, print_json};

/// Keep two bundles in a folder, so that an update can never leave a device without a model
///
/// `install` puts a bundle into the slot that the device does not depend on. It is on trial: the device calls `start` at each
/// start, which verifies and tests the bundle and prints its path, and `mark-good` when it has seen that all is well. After
/// three starts without `mark-good`, or when the bundle cannot be started, `start` goes back to the other slot. A power cut at
/// any moment leaves the old bundle or the new one.
///
/// `mark-good` also raises the lowest rollback counter that the store takes to the bundle's.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Verify, write and test a bundle, for the next start; exit code 1 when it is refused
    Install {
        /// Folder of the store, which is made if it is not there
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Bundle to install
        #[arg(value_name = "BUNDLE")]
        bundle: PathBuf,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Count a start, verify and test the active bundle, and print its path; exit code 1 when no slot can be started
    Start {
        /// Folder of the store
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Show what the store holds
    Status {
        /// Folder of the store
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// End the trial of the active bundle
    MarkGood {
        /// Folder of the store
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Give up the bundle on trial
    GoBack {
        /// Folder of the store
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Install { folder, bundle, engine } => {
            let options = engine.options(LabelerOptions::new())?;
            let bytes = std::fs::read(bundle).with_context(|| bundle.display().to_string())?;
            let store = open(folder)?;
            match store.install(&bytes, &options) {
                Ok(slot) => {
                    say(args, &format!("installed in slot {slot}, on trial\n"), json!({ "slot": slot.to_string() }))
                }
                Err(error) => refuse(args, folder, error),
            }
        }
        Command::Start { folder, engine } => {
            let store = open(folder)?;
            let started = match store.start(&engine.options(LabelerOptions::new())?) {
                Ok(started) => started,
                Err(error) => return refuse(args, folder, error),
            };
            note_signer(started.labeler.signer());
            let went_back = started.went_back.as_ref().map(ToString::to_string);
            if let Some(reason) = &went_back {
                let _ = writeln!(io::stderr(), "note: went back to slot {}: {reason}", started.slot);
            }
            let path = store.path(started.slot);
            let value = json!({
                "path": path, "slot": started.slot.to_string(), "trial": started.trial, "went_back": went_back,
                "digest": hex(&started.labeler.bundle_digest()),
            });
            say(args, &format!("{}\n", path.display()), value)
        }
        Command::Status { folder } => {
            let status = open(folder)?.status().with_context(|| folder.display().to_string())?;
            say(args, &table(&status), value(&status))
        }
        Command::MarkGood { folder } => {
            let store = open(folder)?;
            let status = store.status().with_context(|| folder.display().to_string())?;
            let active = status.active.and_then(|slot| status.slots[slot as usize]);
            let digest = active.map(|slot| slot.digest).ok_or(StoreError::Empty);
            digest.and_then(|digest| store.mark_good(digest)).with_context(|| folder.display().to_string())?;
            let status = store.status()?;
            say(args, &table(&status), value(&status))
        }
        Command::GoBack { folder } => match open(folder)?.go_back() {
            Ok(slot) => say(args, &format!("the next start takes slot {slot}\n"), json!({ "slot": slot.to_string() })),
            Err(error) => Err(error).with_context(|| folder.display().to_string()),
        },
    }
}

fn open(folder: &Path) -> anyhow::Result<Store> {
    Store::open(folder).with_context(|| folder.display().to_string())
}

fn say(args: &Args, text: &str, value: Value) -> anyhow::Result<Outcome> {
    if args.json {
        print_json(&value)?
    } else {
        print(text)?
    }
    Ok(Outcome::Done)
}

/// A check said no; what else went wrong is an error.
fn refuse(args: &Args, folder: &Path, error: StoreError) -> anyhow::Result<Outcome> {
    if matches!(error, StoreError::Io(_) | StoreError::Busy | StoreError::State | StoreError::Empty) {
        return Err(error).with_context(|| folder.display().to_string());
    }
    if args.json {
        print_json(&json!({ "ok": false, "error": error.to_string() }))?;
    } else {
        print(&format!("{}: REFUSED: {error}\n", folder.display()))?;
    }
    Ok(Outcome::CheckFailed)
}

fn value(status: &Status) -> Value {
    let slots = status.slots.map(|slot| {
        slot.map(
            |slot| json!({ "digest": hex(&slot.digest), "rollback_counter": slot.rollback_counter, "good": slot.good }),
        )
    });
    json!({
        "active": status.active.map(|slot| slot.to_string()),
        "failed_starts": status.failed_starts,
        "minimum_rollback_counter": status.minimum_rollback_counter,
        "slots": { "a": slots[0], "b": slots[1] },
    })
}

fn table(status: &Status) -> String {
    let mut table = String::new();
    for (name, slot) in ["a", "b"].into_iter().zip(status.slots) {
        let active = if status.active.is_some_and(|active| active.to_string() == name) { ", active" } else { "" };
        let _ = match slot {
            None => writeln!(table, "slot {name}  empty"),
            Some(slot) => writeln!(
                table,
                "slot {name}  {}{active}, rollback counter {}, digest {}",
                if slot.good { "good" } else { "on trial" },
                slot.rollback_counter,
                hex(&slot.digest)
            ),
        };
    }
    let _ = writeln!(table, "starts on trial           {} of {MAX_FAILED_STARTS}", status.failed_starts);
    let _ = writeln!(table, "lowest rollback counter   {}", status.minimum_rollback_counter);
    table
}
