//! Two slots for bundles in a folder, so that a device always has a model that it can start with.
//!
//! A new bundle goes into the slot that the device does not depend on, and is on *trial* until the caller says that it is
//! good. After [`MAX_FAILED_STARTS`] starts that nobody called good, or when it cannot be started, the store goes back to the
//! other slot. Whatever moment the power goes at, the store holds the old bundle or the new one, whole.
//!
//! ```no_run
//! use kdh_runtime::store::Store;
//! use kdh_runtime::{LabelerOptions, Trust};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = LabelerOptions::new().trust(Trust::parse(&std::fs::read_to_string("maker.trust")?)?);
//! let store = Store::open("/var/lib/device/models")?;
//! store.install(&std::fs::read("update.kdh")?, &options)?; // when an update came
//! let started = store.start(&options)?; // at each start of the device
//! // ... label texts, see that the device works as a whole ...
//! store.mark_good(started.labeler.bundle_digest())?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rollback
//!
//! Calling a bundle good raises the store's lowest rollback counter to that of the bundle. From then on bundles of lower
//! counters are neither installed nor started, the other slot's among them. The counter is as safe as the folder: whoever can
//! write there can lower it.

use core::fmt;
use std::io;
use std::path::Path;

use kdh_format::{Bundle, BundleError, Untrusted};

use crate::labeler::{BuildError, Labeler, LabelerOptions};
use state::{Content, State};

pub use files::{Files, Folder};
pub use state::Slot;

mod files;
mod state;

/// Starts of a bundle on trial, after which the store goes back to the other slot.
pub const MAX_FAILED_STARTS: u32 = 3;

/// A model store in a folder, or wherever `F` keeps files. One process at a time: [`Folder`] holds a lock.
#[derive(Debug)]
pub struct Store<F = Folder> {
    files: F,
}

/// What [`Store::start`] gives.
#[derive(Debug)]
#[non_exhaustive]
pub struct Started {
    /// Has passed the self-test.
    pub labeler: Labeler,
    /// Where its bundle lies.
    pub slot: Slot,
    /// Nobody has called the bundle good yet.
    pub trial: bool,
    /// Why the store went back to this slot, if it did in this start.
    pub went_back: Option<WentBack>,
}

/// Why a store went back to the other slot.
#[derive(Debug)]
#[non_exhaustive]
pub enum WentBack {
    /// [`MAX_FAILED_STARTS`] starts, and nobody called the bundle good.
    FailedStarts,
    /// The bundle could not be started.
    Unusable(StoreError),
}

/// What a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The slot that the next start takes.
    pub active: Option<Slot>,
    /// Starts since the active bundle was installed, if nobody called it good.
    pub failed_starts: u32,
    /// Lowest rollback counter that is taken.
    pub minimum_rollback_counter: u64,
    /// Slot a, slot b.
    pub slots: [Option<SlotStatus>; 2],
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotStatus {
    /// [`Bundle::digest`].
    pub digest: [u8; 32],
    /// Of the bundle.
    pub rollback_counter: u64,
    /// Somebody called it good.
    pub good: bool,
}

impl Store {
    /// Opens the store in a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; [`StoreError::Busy`] when another process has it open.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, StoreError> {
        match Folder::open(folder.as_ref()) {
            Ok(folder) => Ok(Self::new(folder)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(StoreError::Busy),
            Err(error) => Err(StoreError::Io(error)),
        }
    }

    /// The file of a slot.
    pub fn path(&self, slot: Slot) -> std::path::PathBuf {
        self.files.path(slot.file())
    }
}

impl<F: Files> Store<F> {
    /// The store in these files.
    pub fn new(files: F) -> Self {
        Self { files }
    }

    /// What the store holds, as it says itself; nothing is verified.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when its state cannot be read.
    pub fn status(&self) -> Result<Status, StoreError> {
        let state = self.load()?;
        let slot = |content: Content| SlotStatus {
            digest: content.digest,
            rollback_counter: content.rollback_counter,
            good: content.good,
        };
        Ok(Status {
            active: state.active,
            failed_starts: state.failed_starts,
            minimum_rollback_counter: state.minimum_rollback_counter,
            slots: state.slots.map(|content| content.map(slot)),
        })
    }

    /// Installs a bundle: verifies it, writes it to the slot that the device does not depend on, tests it there, and lets the
    /// next start take it, on trial.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the store then still starts what it would have started before.
    pub fn install(&self, bytes: &[u8], options: &LabelerOptions) -> Result<Slot, StoreError> {
        let mut state = self.load()?;
        let options = options.clone().minimum_rollback_counter(state.minimum_rollback_counter).self_test(true);
        let bundle = Bundle::parse(bytes).map_err(StoreError::Bundle)?;
        options.verify(&bundle).map_err(StoreError::Untrusted)?;

        let target = state.target();
        // From here on nothing that the state names is changed.
        if state.slot(target).is_some() || state.active == Some(target) {
            state.drop(target);
            self.save(&state)?;
        }
        self.write(target.file(), bytes)?;
        let labeler = self.build(target, &options)?;
        if labeler.bundle_digest() != bundle.digest() {
            return Err(StoreError::Changed { slot: target });
        }
        state
            .put(target, Content { digest: bundle.digest(), rollback_counter: bundle.rollback_counter(), good: false });
        self.save(&state)?;
        Ok(target)
    }

    /// Starts the active bundle: verifies it, tests it, and gives its labeler. A bundle on trial that has been started
    /// [`MAX_FAILED_STARTS`] times, or a bundle that cannot be started, gives way to the other slot's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Empty`] when nothing is installed; otherwise why the last slot that was tried cannot be started.
    pub fn start(&self, options: &LabelerOptions) -> Result<Started, StoreError> {
        let mut state = self.load()?;
        let options = options.clone().minimum_rollback_counter(state.minimum_rollback_counter).self_test(true);
        let mut went_back = None;
        let first = state.active.ok_or(StoreError::Empty)?;
        if state.trial() {
            if state.failed_starts >= MAX_FAILED_STARTS && self.can_go_back(&state, &options) {
                state.drop(first);
                went_back = Some(WentBack::FailedStarts);
                // On a full disk the next start decides the same again.
                let _ = self.save(&state);
            } else {
                state.failed_starts = state.failed_starts.saturating_add(1);
                // Before the bundle can do harm. A start that cannot be counted is not made with it, if there is another.
                if let Err(error) = self.save(&state)
                    && let Ok(labeler) = self.open_slot(&state, first.other(), &options)
                {
                    let trial = state.slot(first.other()).is_some_and(|content| !content.good);
                    let went_back = Some(WentBack::Unusable(error));
                    return Ok(Started { labeler, slot: first.other(), trial, went_back });
                }
            }
        }
        let slot = state.active.ok_or(StoreError::Empty)?;
        let error = match self.open_slot(&state, slot, &options) {
            Ok(labeler) => return Ok(Started { labeler, slot, trial: state.trial(), went_back }),
            Err(error) => error,
        };
        let other = slot.other();
        let Ok(labeler) = self.open_slot(&state, other, &options) else { return Err(error) };
        // A good bundle may fail for a reason that goes away, a full memory say: the state keeps it.
        if state.trial() {
            state.drop(slot);
            let _ = self.save(&state);
        }
        let trial = state.slot(other).is_some_and(|content| !content.good);
        Ok(Started { labeler, slot: other, trial, went_back: Some(WentBack::Unusable(error)) })
    }

    /// Calls the active bundle good: its trial ends, and bundles of lower rollback counters are refused from now on.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotActive`] when `digest`, of the bundle that the caller runs, is not the active one's.
    pub fn mark_good(&self, digest: [u8; 32]) -> Result<(), StoreError> {
        let mut state = self.load()?;
        let content = state.active.and_then(|slot| state.slot_mut(slot).as_mut());
        let content = content.filter(|content| content.digest == digest).ok_or(StoreError::NotActive)?;
        content.good = true;
        let counter = content.rollback_counter;
        state.failed_starts = 0;
        state.minimum_rollback_counter = state.minimum_rollback_counter.max(counter);
        self.save(&state)
    }

    /// Gives up the bundle on trial: the next start takes the other slot's.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoWayBack`] when the active bundle is good, or the other slot has none.
    pub fn go_back(&self) -> Result<Slot, StoreError> {
        let mut state = self.load()?;
        let active = state.active.ok_or(StoreError::Empty)?;
        if !state.trial() || state.slot(active.other()).is_none() {
            return Err(StoreError::NoWayBack);
        }
        state.drop(active);
        self.save(&state)?;
        Ok(active.other())
    }

    /// Whether the other slot's bundle can be started; the one on trial stays while it is all there is.
    fn can_go_back(&self, state: &State, options: &LabelerOptions) -> bool {
        state.active.is_some_and(|active| self.open_slot(state, active.other(), options).is_ok())
    }

    fn open_slot(&self, state: &State, slot: Slot, options: &LabelerOptions) -> Result<Labeler, StoreError> {
        let content = state.slot(slot).ok_or(StoreError::Empty)?;
        let labeler = self.build(slot, options)?;
        if labeler.bundle_digest() == content.digest { Ok(labeler) } else { Err(StoreError::Changed { slot }) }
    }

    fn build(&self, slot: Slot, options: &LabelerOptions) -> Result<Labeler, StoreError> {
        let bytes = self.files.open(slot.file()).map_err(StoreError::Io)?;
        Labeler::from_shared(bytes, options).map_err(|error| StoreError::Build { slot, error })
    }

    fn load(&self) -> Result<State, StoreError> {
        match self.files.read(STATE) {
            Ok(bytes) => State::parse(&bytes).ok_or(StoreError::State),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(StoreError::Io(error)),
        }
    }

    fn save(&self, state: &State) -> Result<(), StoreError> {
        self.write(STATE, &state.to_bytes())
    }

    /// Replaces a file so that it holds the old bytes or the new ones, whenever the power goes.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let new = format!("{name}.new");
        let written = self.files.write(&new, bytes).and_then(|()| self.files.sync(&new));
        if let Err(error) = written.and_then(|()| self.files.rename(&new, name)) {
            // Makes room, should that have been the reason. The first error is the one to tell.
            let _ = self.files.remove(&new);
            return Err(StoreError::Io(error));
        }
        self.files.sync_folder().map_err(StoreError::Io)
    }
}

/// A store cannot do what it is asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refuses.
    Io(io::Error),
    /// Another process has the store open.
    Busy,
    /// The store's state is damaged.
    State,
    /// Nothing is installed.
    Empty,
    /// The bundle to be installed is damaged.
    Bundle(BundleError),
    /// Nobody trusted vouches for the bundle to be installed, or it is older than what is allowed.
    Untrusted(Untrusted),
    /// A slot's bundle does not make a labeler, or fails its self-test.
    Build {
        /// Which.
        slot: Slot,
        /// Why.
        error: BuildError,
    },
    /// A slot's bundle is not the one that was installed.
    Changed {
        /// Which.
        slot: Slot,
    },
    /// The bundle is not the active one.
    NotActive,
    /// There is no bundle to go back to.
    NoWayBack,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the model store cannot be read or written: {error}"),
            Self::Busy => f.write_str("another process has the model store open; end it first"),
            Self::State => f.write_str(
                "the model store's state is damaged; remove the file `state` in it, which forgets the rollback counter, and \
                 install a bundle again",
            ),
            Self::Empty => f.write_str("the model store is empty; install a bundle"),
            Self::Bundle(error) => error.fmt(f),
            Self::Untrusted(error) => error.fmt(f),
            Self::Build { slot, error } => write!(f, "slot {slot}: {error}"),
            Self::Changed { slot } => {
                write!(f, "slot {slot} of the model store holds another bundle than was installed; install it again")
            }
            Self::NotActive => f.write_str("this bundle is not the active one of the model store; start it again"),
            Self::NoWayBack => f.write_str("the active bundle is good, or the other slot is empty; install a bundle"),
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for StoreError {}

impl fmt::Display for WentBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailedStarts => {
                write!(f, "the new bundle was started {MAX_FAILED_STARTS} times and never called good")
            }
            Self::Unusable(error) => error.fmt(f),
        }
    }
}

/// The state's file.
const STATE: &str = "state";
