//! Where a study lives: one saved state and one record for every evaluation, changed in transactions.

use core::error::Error;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::space::Point;

/// A database that several workers may have open at once, each through its own `Storage`.
pub trait Storage: Send {
    /// Runs `work` on one study: alone (no other worker sees or changes the study meanwhile) and as a whole (when it or
    /// the commit fails, nothing has changed).
    ///
    /// What `work` wrote is durable when this returns. `work` may run again from the start when the connection was lost;
    /// the caller must allow that the first run was committed.
    ///
    /// # Errors
    /// Those of `work`, and when the database cannot be used.
    fn transaction(
        &mut self,
        study: &str,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), StudyError>,
    ) -> Result<(), StudyError>;
}

impl Storage for Box<dyn Storage> {
    fn transaction(
        &mut self,
        study: &str,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), StudyError>,
    ) -> Result<(), StudyError> {
        self.as_mut().transaction(study, work)
    }
}

/// One study, while nobody else has it.
///
/// Every method fails when the database does, or holds what is not of our making.
pub trait Transaction {
    /// Seconds since 1970 by the clock of the database, the only one that all workers share.
    fn now(&mut self) -> Result<f64, StudyError>;

    /// The saved state; `None` when there is no such study.
    fn state(&mut self) -> Result<Option<String>, StudyError>;

    /// Saves the state, making the study when it is new.
    fn set_state(&mut self, state: &str) -> Result<(), StudyError>;

    /// All records in the order of their evaluations, or only those that are running.
    fn records(&mut self, running_only: bool) -> Result<Vec<Record>, StudyError>;

    /// The record of one evaluation.
    fn record(&mut self, evaluation: u64) -> Result<Option<Record>, StudyError>;

    /// Adds a record, or replaces the one of the same evaluation.
    fn set_record(&mut self, record: &Record) -> Result<(), StudyError>;
}

/// What is known of one evaluation. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, counted from 0.
    pub evaluation: u64,
    /// How often it was handed out.
    pub attempt: u32,
    /// Who has it, or had it last.
    pub worker: String,
    /// Where it stands.
    pub status: Status,
    /// What is evaluated.
    pub point: Point,
    /// Its score, once there is one.
    pub score: Option<f64>,
    /// When this attempt began.
    pub started: f64,
    /// When its worker was last heard of.
    pub heartbeat: f64,
    /// When it ended.
    pub finished: Option<f64>,
}

/// Where an evaluation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Handed out, without a result.
    Running,
    /// It has a score.
    Scored,
    /// It failed, or was given up after too many attempts.
    Failed,
}

/// Why a study cannot go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum StudyError {
    /// The database refused, or could not be reached.
    Storage(Box<dyn Error + Send + Sync>),
    /// There is no study of this name.
    Unknown {
        /// The name.
        study: String,
    },
    /// The study was started with other options, or scores something else.
    Different {
        /// The name.
        study: String,
    },
    /// What is stored is not what was saved.
    Damaged {
        /// The name.
        study: String,
    },
    /// The lease is out of its range.
    Lease,
}

impl StudyError {
    pub(super) fn storage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Storage(error.into())
    }
}

impl fmt::Display for StudyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(_) => {
                write!(formatter, "the storage of the study cannot be used; check that it is there and may be written")
            }
            Self::Unknown { study } => write!(formatter, "there is no study `{study}` here; start it first"),
            Self::Different { study } => write!(
                formatter,
                "the study `{study}` was started with other options or data; \
                 go on with those, or give this one another name"
            ),
            Self::Damaged { study } => {
                write!(formatter, "the stored study `{study}` is damaged; restore it or give this one another name")
            }
            Self::Lease => {
                write!(formatter, "a lease needs a timeout from 10 milliseconds to a year and at least 1 attempt")
            }
        }
    }
}

impl Error for StudyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let Self::Storage(error) = self { Some(error.as_ref()) } else { None }
    }
}

/// Statements and values that SQLite and PostgreSQL both understand. Parameters are numbered in the order in which they
/// first occur, which is how SQLite, to which `$1` is but a name, numbers them.
pub(super) mod sql {
    use super::{Record, Status, StudyError};

    pub(in super::super) const SCHEMA: &str = "
        CREATE TABLE IF NOT EXISTS kdh_studies (
            study TEXT PRIMARY KEY,
            state TEXT NOT NULL
        );
        CREATE TABLE IF NOT EXISTS kdh_evaluations (
            study TEXT NOT NULL REFERENCES kdh_studies (study) ON DELETE CASCADE,
            evaluation BIGINT NOT NULL,
            attempt BIGINT NOT NULL,
            worker TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('running', 'scored', 'failed')),
            point TEXT NOT NULL,
            score DOUBLE PRECISION,
            started DOUBLE PRECISION NOT NULL,
            heartbeat DOUBLE PRECISION NOT NULL,
            finished DOUBLE PRECISION,
            PRIMARY KEY (study, evaluation)
        );";
    pub(in super::super) const STATE: &str = "SELECT state FROM kdh_studies WHERE study = $1";
    pub(in super::super) const SET_STATE: &str = "INSERT INTO kdh_studies (study, state) VALUES ($1, $2)
        ON CONFLICT (study) DO UPDATE SET state = excluded.state";
    pub(in super::super) const RECORDS: &str =
        "SELECT evaluation, attempt, worker, status, point, score, started, heartbeat, finished
        FROM kdh_evaluations WHERE study = $1 ORDER BY evaluation";
    pub(in super::super) const RUNNING: &str =
        "SELECT evaluation, attempt, worker, status, point, score, started, heartbeat, finished
        FROM kdh_evaluations WHERE study = $1 AND status = 'running' ORDER BY evaluation";
    pub(in super::super) const RECORD: &str =
        "SELECT evaluation, attempt, worker, status, point, score, started, heartbeat, finished
        FROM kdh_evaluations WHERE study = $1 AND evaluation = $2";
    pub(in super::super) const SET_RECORD: &str = "INSERT INTO kdh_evaluations
        (study, evaluation, attempt, worker, status, point, score, started, heartbeat, finished)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (study, evaluation) DO UPDATE SET attempt = excluded.attempt, worker = excluded.worker,
            status = excluded.status, point = excluded.point, score = excluded.score, started = excluded.started,
            heartbeat = excluded.heartbeat, finished = excluded.finished";

    /// A [`Record`] in the types of the columns.
    pub(in super::super) struct Row {
        pub(in super::super) evaluation: i64,
        pub(in super::super) attempt: i64,
        pub(in super::super) worker: String,
        pub(in super::super) status: String,
        pub(in super::super) point: String,
        pub(in super::super) score: Option<f64>,
        pub(in super::super) started: f64,
        pub(in super::super) heartbeat: f64,
        pub(in super::super) finished: Option<f64>,
    }

    impl Row {
        pub(in super::super) fn new(record: &Record) -> Result<Self, StudyError> {
            Ok(Self {
                evaluation: number(record.evaluation)?,
                attempt: i64::from(record.attempt),
                worker: record.worker.clone(),
                status: match record.status {
                    Status::Running => "running",
                    Status::Scored => "scored",
                    Status::Failed => "failed",
                }
                .to_owned(),
                point: serde_json::to_string(&record.point).map_err(StudyError::storage)?,
                score: record.score,
                started: record.started,
                heartbeat: record.heartbeat,
                finished: record.finished,
            })
        }

        pub(in super::super) fn record(self, study: &str) -> Result<Record, StudyError> {
            let damaged = || StudyError::Damaged { study: study.to_owned() };
            Ok(Record {
                evaluation: u64::try_from(self.evaluation).map_err(|_| damaged())?,
                attempt: u32::try_from(self.attempt).map_err(|_| damaged())?,
                worker: self.worker,
                status: match self.status.as_str() {
                    "running" => Status::Running,
                    "scored" => Status::Scored,
                    "failed" => Status::Failed,
                    _ => return Err(damaged()),
                },
                point: serde_json::from_str(&self.point).map_err(|_| damaged())?,
                score: self.score,
                started: self.started,
                heartbeat: self.heartbeat,
                finished: self.finished,
            })
        }
    }

    /// The number of an evaluation in the type of its column.
    pub(in super::super) fn number(evaluation: u64) -> Result<i64, StudyError> {
        i64::try_from(evaluation).map_err(StudyError::storage)
    }
}
