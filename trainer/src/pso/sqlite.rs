//! Studies in a SQLite file, for any number of workers on one machine.

use core::time::Duration;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, TransactionBehavior, params};

use super::storage::sql::{self, Row};
use super::storage::{Record, Storage, StudyError, Transaction};

/// One connection to a SQLite file.
///
/// Any number of processes of one machine may share the file. It must not be on a network file system, whose locks
/// cannot be trusted; use [`Postgres`](super::Postgres) across machines.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
}

/// How long to wait for other workers' transactions, each of which takes milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

impl Sqlite {
    /// Opens the file, or makes it in a folder that exists.
    ///
    /// # Errors
    /// When the file cannot be opened or written, or is something else.
    pub fn open(path: &Path) -> Result<Self, StudyError> {
        let open = || -> rusqlite::Result<Self> {
            let mut connection = Connection::open(path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(sql::SCHEMA)?;
            transaction.commit()?;
            Ok(Self { connection })
        };
        open().map_err(StudyError::storage)
    }
}

impl Storage for Sqlite {
    fn transaction(
        &mut self,
        study: &str,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), StudyError>,
    ) -> Result<(), StudyError> {
        // Immediate: a transaction that read first and locked then could fail where it writes.
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(StudyError::storage)?;
        work(&mut Open { transaction: &transaction, study })?;
        transaction.commit().map_err(StudyError::storage)
    }
}

struct Open<'a> {
    transaction: &'a rusqlite::Transaction<'a>,
    study: &'a str,
}

impl Transaction for Open<'_> {
    fn now(&mut self) -> Result<f64, StudyError> {
        let now = self.transaction.query_row("SELECT unixepoch('subsec')", [], |row| row.get(0));
        now.map_err(StudyError::storage)
    }

    fn state(&mut self) -> Result<Option<String>, StudyError> {
        let state = self.transaction.query_row(sql::STATE, [self.study], |row| row.get(0));
        state.optional().map_err(StudyError::storage)
    }

    fn set_state(&mut self, state: &str) -> Result<(), StudyError> {
        self.transaction.execute(sql::SET_STATE, [self.study, state]).map_err(StudyError::storage)?;
        Ok(())
    }

    fn records(&mut self, running_only: bool) -> Result<Vec<Record>, StudyError> {
        let rows = || {
            let mut statement = self.transaction.prepare(if running_only { sql::RUNNING } else { sql::RECORDS })?;
            statement.query_map([self.study], row)?.collect::<rusqlite::Result<Vec<Row>>>()
        };
        rows().map_err(StudyError::storage)?.into_iter().map(|row| row.record(self.study)).collect()
    }

    fn record(&mut self, evaluation: u64) -> Result<Option<Record>, StudyError> {
        let found = self.transaction.query_row(sql::RECORD, params![self.study, sql::number(evaluation)?], row);
        found.optional().map_err(StudyError::storage)?.map(|row| row.record(self.study)).transpose()
    }

    fn set_record(&mut self, record: &Record) -> Result<(), StudyError> {
        let row = Row::new(record)?;
        let Row { evaluation, attempt, worker, status, point, score, started, heartbeat, finished } = &row;
        let values =
            params![self.study, evaluation, attempt, worker, status, point, score, started, heartbeat, finished];
        self.transaction.execute(sql::SET_RECORD, values).map_err(StudyError::storage)?;
        Ok(())
    }
}

fn row(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        evaluation: row.get(0)?,
        attempt: row.get(1)?,
        worker: row.get(2)?,
        status: row.get(3)?,
        point: row.get(4)?,
        score: row.get(5)?,
        started: row.get(6)?,
        heartbeat: row.get(7)?,
        finished: row.get(8)?,
    })
}
