//! Threads that label.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kdh_runtime::format::wire::{ErrorCode, ErrorFrame, Frame};

use crate::answer::{append, encode_report, error_code};
use crate::log;
use crate::state::{Job, State};

/// Labels texts until the queue is closed. `index` names the worker to the watchdog.
pub fn run(state: &State, queue: &Mutex<Receiver<Job>>, index: usize) {
    let mut model = state.model();
    let mut scratch = model.labeler.scratch();
    loop {
        // Only the wait for a text happens under the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut job) = job else { return };
        state.begin_work(index);
        let newest = state.model();
        if !Arc::ptr_eq(&newest, &model) {
            model = newest;
            scratch = model.labeler.scratch();
        }
        let start = Instant::now();
        // A panic would be a mistake of ours: it must cost one answer, not the service.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let text = str::from_utf8(job.slot.text()).map_err(|_| ErrorCode::NotUtf8)?;
            let report = model.labeler.label(&mut scratch, text).map_err(|error| error_code(&error))?;
            let duration = start.elapsed();
            encode_report(job.slot.answer_mut(), job.id, job.flags, model.bundle, &report, duration)
        }));
        let outcome = outcome.unwrap_or_else(|_| {
            scratch = model.labeler.scratch();
            log::error(format_args!("a worker panicked; please report this with the version of the service"));
            Err(ErrorCode::Internal)
        });
        job.slot.clear_text();
        answer(state, job, outcome, start);
        state.end_work(index);
    }
}

fn answer(state: &State, mut job: Job, outcome: Result<(), ErrorCode>, start: Instant) {
    match outcome {
        Ok(()) => {
            state.count_labelled(start.elapsed());
            state.copy_to_displays(job.slot.answer());
        }
        Err(code) => {
            state.count_failed();
            let answer = job.slot.answer_mut();
            answer.clear();
            let _ = append(answer, &Frame::Error(ErrorFrame { id: Some(job.id), code, retry_after_ms: 0 }));
        }
    }
    if let Err(slot) = job.outbox.push_answer(job.slot) {
        state.pool.give_back(slot);
    }
}
