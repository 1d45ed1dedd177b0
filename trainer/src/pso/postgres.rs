//! Studies in PostgreSQL, for workers on any number of machines.

use core::fmt;
use core::time::Duration;
use std::thread;

use ::postgres::{Client, Config, NoTls, Row as SqlRow};

use super::storage::sql::{self, Row};
use super::storage::{Record, Storage, StudyError, Transaction};

/// One connection to a PostgreSQL database, made again when it is lost.
///
/// The connection is not encrypted: keep the database in a network of your own, or behind an SSH tunnel.
pub struct Postgres {
    config: Config,
    client: Client,
}

/// Pauses before the attempts to connect again: a restart of the server is not the end of a night of training.
const RETRY_SECONDS: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// A worker whose machine vanishes in the middle of a transaction holds up the others no longer than this.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '60s'";
/// Silence after which a connection is asked whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Postgres {
    /// Connects to a database such as `postgres://user@host/database`, and makes the tables when they are not there.
    ///
    /// # Errors
    /// When the address cannot be read, the server not be reached or the tables not be made.
    pub fn open(url: &str) -> Result<Self, StudyError> {
        let open = || -> Result<Self, ::postgres::Error> {
            let mut config: Config = url.parse()?;
            config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(KEEPALIVE);
            let mut client = connect(&config)?;
            let mut transaction = client.transaction()?;
            // Even `IF NOT EXISTS` fails when two workers make a table at the same moment.
            transaction.execute(LOCK, &[&"kdh schema"])?;
            transaction.batch_execute(sql::SCHEMA)?;
            transaction.commit()?;
            Ok(Self { config, client })
        };
        open().map_err(StudyError::storage)
    }

    fn attempt(
        &mut self,
        study: &str,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), StudyError>,
    ) -> Result<(), StudyError> {
        let mut transaction = self.client.transaction().map_err(StudyError::storage)?;
        transaction.execute(LOCK, &[&format!("kdh study {study}")]).map_err(StudyError::storage)?;
        work(&mut Open { transaction: &mut transaction, study })?;
        transaction.commit().map_err(StudyError::storage)
    }
}

fn connect(config: &Config) -> Result<Client, ::postgres::Error> {
    let mut client = config.connect(NoTls)?;
    client.batch_execute(SESSION)?;
    Ok(client)
}

/// Held until the end of the transaction; of two studies with the same hash one waits for the other, no more.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

impl Storage for Postgres {
    fn transaction(
        &mut self,
        study: &str,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), StudyError>,
    ) -> Result<(), StudyError> {
        let mut pauses = RETRY_SECONDS.into_iter().map(Duration::from_secs);
        loop {
            let result = self.attempt(study, work);
            if result.is_ok() || !self.client.is_closed() {
                return result;
            }
            loop {
                let Some(pause) = pauses.next() else { return result };
                thread::sleep(pause);
                if let Ok(client) = connect(&self.config) {
                    self.client = client;
                    break;
                }
            }
        }
    }
}

struct Open<'a, 'b> {
    transaction: &'a mut ::postgres::Transaction<'b>,
    study: &'a str,
}

impl Transaction for Open<'_, '_> {
    fn now(&mut self) -> Result<f64, StudyError> {
        let row = self.transaction.query_one("SELECT extract(epoch FROM clock_timestamp())::double precision", &[]);
        row.and_then(|row| row.try_get(0)).map_err(StudyError::storage)
    }

    fn state(&mut self) -> Result<Option<String>, StudyError> {
        let row = self.transaction.query_opt(sql::STATE, &[&self.study]).map_err(StudyError::storage)?;
        row.map(|row| row.try_get(0)).transpose().map_err(StudyError::storage)
    }

    fn set_state(&mut self, state: &str) -> Result<(), StudyError> {
        self.transaction.execute(sql::SET_STATE, &[&self.study, &state]).map_err(StudyError::storage)?;
        Ok(())
    }

    fn records(&mut self, running_only: bool) -> Result<Vec<Record>, StudyError> {
        let statement = if running_only { sql::RUNNING } else { sql::RECORDS };
        let rows = self.transaction.query(statement, &[&self.study]).map_err(StudyError::storage)?;
        rows.iter().map(|found| row(found).map_err(StudyError::storage)?.record(self.study)).collect()
    }

    fn record(&mut self, evaluation: u64) -> Result<Option<Record>, StudyError> {
        let found = self.transaction.query_opt(sql::RECORD, &[&self.study, &sql::number(evaluation)?]);
        let found = found.map_err(StudyError::storage)?;
        found.map(|found| row(&found).map_err(StudyError::storage)?.record(self.study)).transpose()
    }

    fn set_record(&mut self, record: &Record) -> Result<(), StudyError> {
        let Row { evaluation, attempt, worker, status, point, score, started, heartbeat, finished } =
            &Row::new(record)?;
        self.transaction
            .execute(
                sql::SET_RECORD,
                &[&self.study, evaluation, attempt, worker, status, point, score, started, heartbeat, finished],
            )
            .map_err(StudyError::storage)?;
        Ok(())
    }
}

fn row(row: &SqlRow) -> Result<Row, ::postgres::Error> {
    Ok(Row {
        evaluation: row.try_get(0)?,
        attempt: row.try_get(1)?,
        worker: row.try_get(2)?,
        status: row.try_get(3)?,
        point: row.try_get(4)?,
        score: row.try_get(5)?,
        started: row.try_get(6)?,
        heartbeat: row.try_get(7)?,
        finished: row.try_get(8)?,
    })
}

/// Shows no password.
impl fmt::Debug for Postgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Postgres").finish_non_exhaustive()
    }
}
