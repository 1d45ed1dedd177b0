//! A search that several workers share and that outlives them.

use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::optimizer::{Ask, Optimizer, Outcome, StopReason};
use super::space::Point;
use super::storage::{Record, Status, Storage, StudyError, Transaction};

/// An optimizer in a storage, as one worker sees it.
///
/// Asking and telling are transactions: after a kill at any moment the study stands as after the last of them, and what
/// is lost is at most the evaluation that was running. A worker that comes back under its name gets that one again; the
/// evaluation of a worker that stays away is handed to another when its [`Lease`] is over. Every result is taken once.
pub struct Study<O> {
    storage: Box<dyn Storage>,
    name: String,
    optimizer: PhantomData<fn() -> O>,
}

/// How long an evaluation belongs to a worker that is not heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Time after the last heartbeat.
    pub timeout: Duration,
    /// An evaluation that was handed out so often and lost every time has failed: it may be what kills the workers.
    pub attempts: u32,
}

/// What comes of asking.
#[derive(Clone, Debug, PartialEq)]
pub enum Assignment {
    /// Evaluate this, with heartbeats, and tell.
    Evaluate(Ticket),
    /// Other workers have all there is at the moment; ask again later.
    Wait,
    /// The search is over.
    Finished(StopReason),
}

/// An evaluation in the hands of one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    /// Number of the evaluation, counted from 0.
    pub evaluation: u64,
    /// How often it was handed out, this time included.
    pub attempt: u32,
    /// What to evaluate.
    pub point: Point,
}

/// What became of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is saved; also when it was already, by the same ticket and with the same score.
    Recorded,
    /// It came too late and changed nothing: the evaluation was handed on, given up, or has another result.
    Late,
}

#[derive(Serialize, Deserialize)]
struct Saved<O> {
    /// Digest of everything the study was started with.
    started_with: String,
    lease: Lease,
    optimizer: O,
}

const TIMEOUTS: core::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(365 * 24 * 60 * 60);

impl Default for Lease {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(120), attempts: 3 }
    }
}

impl<O: Optimizer> Study<O> {
    /// Starts a study, or goes on with it when it is there.
    ///
    /// `optimizer` is fresh, as made from its options; `objective` names whatever else decides a score (a digest of
    /// data, weights and fidelity), because scores of different objectives cannot be compared.
    ///
    /// # Errors
    /// When there is a study of that name that was started with something else, or when the storage fails.
    pub fn start(
        storage: impl Storage + 'static,
        name: &str,
        objective: &str,
        optimizer: &O,
        lease: Lease,
    ) -> Result<Self, StudyError> {
        if !TIMEOUTS.contains(&lease.timeout) || lease.attempts == 0 {
            return Err(StudyError::Lease);
        }
        let mut study = Self::new(storage, name);
        let fresh = serde_json::to_string(optimizer).map_err(StudyError::storage)?;
        let digest = Sha256::digest(serde_json::to_vec(&(objective, lease, &fresh)).map_err(StudyError::storage)?);
        let started_with = crate::hex::hex(&digest);
        study.transact(|transaction| {
            if transaction.state()?.is_none() {
                let started_with = started_with.clone();
                // A copy by way of its text, as every later reader gets it.
                let optimizer: O = serde_json::from_str(&fresh).map_err(StudyError::storage)?;
                return save(transaction, &Saved { started_with, lease, optimizer });
            }
            let saved: Saved<O> = load(transaction, name)?;
            if saved.started_with == started_with {
                Ok(())
            } else {
                Err(StudyError::Different { study: name.to_owned() })
            }
        })?;
        Ok(study)
    }

    /// Joins a study that was started elsewhere.
    ///
    /// # Errors
    /// When there is none of that name, or one of another optimizer, or when the storage fails.
    pub fn join(storage: impl Storage + 'static, name: &str) -> Result<Self, StudyError> {
        let mut study = Self::new(storage, name);
        study.optimizer()?;
        Ok(study)
    }

    fn new(storage: impl Storage + 'static, name: &str) -> Self {
        Self { storage: Box::new(storage), name: name.to_owned(), optimizer: PhantomData }
    }

    /// Gives `worker` its next evaluation.
    ///
    /// Names of workers are unique among those alive, and a worker has one evaluation at a time: asking without having
    /// told says that the last one was lost.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn ask(&mut self, worker: &str) -> Result<Assignment, StudyError> {
        let name = self.name.clone();
        self.transact(|transaction| {
            let mut saved: Saved<O> = load(transaction, &name)?;
            let now = transaction.now()?;
            let mut lost = transaction.records(true)?;
            lost.retain(|record| record.worker == worker || now - record.heartbeat > saved.lease.timeout.as_secs_f64());
            lost.sort_by_key(|record| record.worker != worker);
            for record in lost {
                if record.attempt < saved.lease.attempts {
                    let attempt = record.attempt + 1;
                    let worker = worker.to_owned();
                    let record = Record { attempt, worker, started: now, heartbeat: now, ..record };
                    transaction.set_record(&record)?;
                    save(transaction, &saved)?;
                    let Record { evaluation, attempt, point, .. } = record;
                    return Ok(Assignment::Evaluate(Ticket { evaluation, attempt, point }));
                }
                tell(&mut saved.optimizer, record.evaluation, Outcome::Failed, &name)?;
                transaction.set_record(&Record { status: Status::Failed, finished: Some(now), ..record })?;
            }
            let assignment = match saved.optimizer.ask() {
                Ask::Wait => Assignment::Wait,
                Ask::Finished(reason) => Assignment::Finished(reason),
                Ask::Evaluate(proposal) => {
                    let ticket = Ticket { evaluation: proposal.evaluation, attempt: 1, point: proposal.point };
                    transaction.set_record(&Record {
                        evaluation: ticket.evaluation,
                        attempt: ticket.attempt,
                        worker: worker.to_owned(),
                        status: Status::Running,
                        point: ticket.point.clone(),
                        score: None,
                        started: now,
                        heartbeat: now,
                        finished: None,
                    })?;
                    Assignment::Evaluate(ticket)
                }
            };
            save(transaction, &saved)?;
            Ok(assignment)
        })
    }

    /// Renews the lease of an evaluation; false when it is lost, and its result will come too late.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn heartbeat(&mut self, ticket: &Ticket) -> Result<bool, StudyError> {
        self.transact(|transaction| {
            let Some(record) = transaction.record(ticket.evaluation)? else { return Ok(false) };
            let held = record.status == Status::Running && record.attempt == ticket.attempt;
            if held {
                let heartbeat = transaction.now()?;
                transaction.set_record(&Record { heartbeat, ..record })?;
            }
            Ok(held)
        })
    }

    /// Saves the result of an evaluation. A lease that is over, while nobody else has the evaluation, does not matter.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn tell(&mut self, ticket: &Ticket, outcome: Outcome) -> Result<Told, StudyError> {
        let name = self.name.clone();
        self.transact(|transaction| {
            let Some(record) = transaction.record(ticket.evaluation)? else { return Ok(Told::Late) };
            let score = outcome.score();
            let status = if score.is_some() { Status::Scored } else { Status::Failed };
            if record.attempt != ticket.attempt {
                return Ok(Told::Late);
            }
            if record.status != Status::Running {
                // The same again: a worker that could not know whether its first telling was committed.
                let same = record.status == status && record.score == score;
                return Ok(if same { Told::Recorded } else { Told::Late });
            }
            let mut saved: Saved<O> = load(transaction, &name)?;
            tell(&mut saved.optimizer, ticket.evaluation, outcome, &name)?;
            save(transaction, &saved)?;
            let heartbeat = transaction.now()?;
            transaction.set_record(&Record { status, score, heartbeat, finished: Some(heartbeat), ..record })?;
            Ok(Told::Recorded)
        })
    }

    /// The optimizer as it stands.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn optimizer(&mut self) -> Result<O, StudyError> {
        let name = self.name.clone();
        self.transact(|transaction| Ok(load::<O>(transaction, &name)?.optimizer))
    }

    /// Every evaluation so far, in order.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn records(&mut self) -> Result<Vec<Record>, StudyError> {
        self.transact(|transaction| transaction.records(false))
    }

    /// The lease that the study was started with.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn lease(&mut self) -> Result<Lease, StudyError> {
        let name = self.name.clone();
        self.transact(|transaction| Ok(load::<O>(transaction, &name)?.lease))
    }

    fn transact<R>(
        &mut self,
        mut work: impl FnMut(&mut dyn Transaction) -> Result<R, StudyError>,
    ) -> Result<R, StudyError> {
        let mut result = None;
        self.storage.transaction(&self.name, &mut |transaction| {
            result = Some(work(transaction)?);
            Ok(())
        })?;
        result.ok_or_else(|| StudyError::storage("the storage did not run the transaction"))
    }
}

impl<O> fmt::Debug for Study<O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Study").field("name", &self.name).finish_non_exhaustive()
    }
}

fn load<O: Optimizer>(transaction: &mut dyn Transaction, name: &str) -> Result<Saved<O>, StudyError> {
    let state = transaction.state()?.ok_or_else(|| StudyError::Unknown { study: name.to_owned() })?;
    serde_json::from_str(&state).map_err(|_| StudyError::Damaged { study: name.to_owned() })
}

fn save<O: Optimizer>(transaction: &mut dyn Transaction, saved: &Saved<O>) -> Result<(), StudyError> {
    transaction.set_state(&serde_json::to_string(saved).map_err(StudyError::storage)?)
}

/// Tells the optimizer what the records say is outstanding.
fn tell<O: Optimizer>(optimizer: &mut O, evaluation: u64, outcome: Outcome, name: &str) -> Result<(), StudyError> {
    optimizer.tell(evaluation, outcome).map_err(|_| StudyError::Damaged { study: name.to_owned() })
}
