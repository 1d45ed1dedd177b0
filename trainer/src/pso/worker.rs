//! The loop of one worker: ask, evaluate with heartbeats, tell.

use core::time::Duration;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use super::optimizer::{Optimizer, Outcome, StopReason};
use super::storage::StudyError;
use super::study::{Assignment, Study, Ticket};

/// Evaluates points of a study until the search is over.
///
/// `open` connects to the study; it is called once for the worker and again for its heartbeats, which come from a
/// thread of their own at a quarter of the lease. `worker` is unique among the workers alive, and the same as before
/// for one that comes back after a kill: it then gets the evaluation that it lost at once.
///
/// A point that cannot be scored is [`Outcome::Failed`], and the search goes on. An error of `evaluate` ends the worker;
/// its evaluation stays with its name, to be done when the cause is mended.
///
/// # Errors
/// That of `evaluate`, or when the storage fails.
pub fn work<O: Optimizer, E: From<StudyError>>(
    open: impl Fn() -> Result<Study<O>, StudyError> + Sync,
    worker: &str,
    mut evaluate: impl FnMut(&Ticket) -> Result<Outcome, E>,
) -> Result<StopReason, E> {
    let mut study = open()?;
    let interval = study.lease()?.timeout / 4;
    loop {
        match study.ask(worker)? {
            Assignment::Finished(reason) => return Ok(reason),
            Assignment::Wait => thread::sleep(interval.min(LONGEST_WAIT)),
            Assignment::Evaluate(ticket) => {
                let outcome = with_heartbeats(&open, &ticket, interval, || evaluate(&ticket))?;
                study.tell(&ticket, outcome)?;
            }
        }
    }
}

/// Pause between two questions of a worker that finds nothing to do.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

fn with_heartbeats<O: Optimizer, R>(
    open: &(impl Fn() -> Result<Study<O>, StudyError> + Sync),
    ticket: &Ticket,
    interval: Duration,
    evaluate: impl FnOnce() -> R,
) -> R {
    thread::scope(|scope| {
        // Dropped when the evaluation returns or panics, which ends the thread.
        let (_running, stopped) = channel::<()>();
        scope.spawn(move || {
            let mut study = None;
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                // A heartbeat that fails is tried again at the next beat, on a new connection. One that is missed for
                // good costs the lease, which telling the result will find out.
                let beat = match study.take().map_or_else(open, Ok) {
                    Ok(mut study) => study.heartbeat(ticket).map(|_| study),
                    Err(error) => Err(error),
                };
                study = beat.ok();
            }
        });
        evaluate()
    })
}
