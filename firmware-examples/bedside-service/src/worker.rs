//! Threads that label.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kdh_runtime::format::wire::{ErrorCode, ErrorFrame, Frame};
use kdh_runtime::{DocumentOptions, DocumentReport, DocumentScratch, LabelError, Labeler};

use crate::answer::{append, encode_report, error_code};
use crate::log;
use crate::state::{Job, State};

/// Labels texts until the queue is closed, each whole: in windows if it has more tokens than the model takes. `index` names the
/// worker to the watchdog. Nothing of a text stays in the worker's scratch when its answer is given.
pub fn run(state: &State, queue: &Mutex<Receiver<Job>>, index: usize) {
    let mut model = state.model();
    let mut scratch = model.labeler.document_scratch();
    loop {
        // Only the wait for a text happens under the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut job) = job else { return };
        state.begin_work(index);
        let newest = state.model();
        if !Arc::ptr_eq(&newest, &model) {
            model = newest;
            scratch = model.labeler.document_scratch();
        }
        let start = Instant::now();
        // A panic would be a mistake of ours: it must cost one answer, not the service.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let text = str::from_utf8(job.slot.text()).map_err(|_| ErrorCode::NotUtf8)?;
            let found = label(&model.labeler, &mut scratch, text, || state.begin_work(index));
            let report = found.map_err(|error| error_code(&error))?.report;
            let duration = start.elapsed();
            encode_report(job.slot.answer_mut(), job.id, job.flags, model.bundle, &report, duration)
        }));
        let outcome = outcome.unwrap_or_else(|_| {
            scratch = model.labeler.document_scratch();
            log::error(format_args!("a worker panicked; please report this with the version of the service"));
            Err(ErrorCode::Internal)
        });
        scratch.zeroize();
        job.slot.clear_text();
        answer(state, job, outcome, start);
        state.end_work(index);
    }
}

/// Labels a text, and says after each piece that it goes on.
fn label<'l>(
    labeler: &'l Labeler,
    scratch: &mut DocumentScratch<'_>,
    text: &str,
    mut goes_on: impl FnMut(),
) -> Result<DocumentReport<'l>, LabelError> {
    /// Bytes. The labeler holds some of these back until their sentences are certain, 32 KiB at most.
    const PIECE: usize = 4 << 10;
    let mut document = labeler.document(scratch, &DocumentOptions::new())?;
    for piece in text.as_bytes().chunks(PIECE) {
        document.push(piece)?;
        goes_on();
    }
    document.finish()
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
