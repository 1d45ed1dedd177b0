//! What waits to be written to one line.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kdh_runtime::format::heapless;
use kdh_runtime::format::wire::{Frame, MAX_FRAME_LEN};

use crate::pool::Slot;

/// An encoded frame.
pub type Encoded = heapless::Vec<u8, MAX_FRAME_LEN>;

/// Most frames beside answers that wait.
const MAX_FRAMES: usize = 8;
/// Most copies that wait for a display.
const MAX_COPIES: usize = 16;

/// What waits to be written to one line: answers, other frames, and copies for a display. None of them grows: a link has at
/// most [`max_outstanding`](Outbox::new) requests, frames beside answers make their sender wait, copies are dropped.
#[derive(Debug)]
pub struct Outbox {
    queues: Mutex<Queues>,
    changed: Condvar,
    max_outstanding: usize,
}

#[derive(Debug)]
struct Queues {
    answers: VecDeque<Slot>,
    frames: VecDeque<Encoded>,
    copies: VecDeque<Arc<[u8]>>,
    /// Requests between their first part and the end of their answer.
    outstanding: usize,
    display: bool,
    closed: bool,
}

/// What to write next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the writer's stack")]
pub enum Next {
    /// An answer. Tell [`Outbox::answered`] when its slot is free.
    Answer(Slot),
    /// Another frame.
    Frame(Encoded),
    /// A copy of another link's answer.
    Copy(Arc<[u8]>),
    /// Nothing came in time.
    Nothing,
    /// The link has ended.
    Closed,
}

impl Outbox {
    /// For a link with at most `max_outstanding` requests.
    pub fn new(max_outstanding: usize) -> Self {
        let queues = Queues {
            answers: VecDeque::with_capacity(max_outstanding),
            frames: VecDeque::with_capacity(MAX_FRAMES),
            copies: VecDeque::new(),
            outstanding: 0,
            display: false,
            closed: false,
        };
        Self { queues: Mutex::new(queues), changed: Condvar::new(), max_outstanding }
    }

    /// Waits at most `timeout` until the link may have another request. `false` when it may not yet.
    pub fn wait_for_room(&self, timeout: Duration) -> bool {
        let full = |queues: &mut Queues| queues.outstanding >= self.max_outstanding && !queues.closed;
        let (queues, _) =
            self.changed.wait_timeout_while(self.lock(), timeout, full).unwrap_or_else(PoisonError::into_inner);
        queues.outstanding < self.max_outstanding
    }

    /// Counts a request whose first part has come.
    pub fn begin(&self) {
        self.lock().outstanding += 1;
    }

    /// Counts a request that is over: answered, refused or abandoned.
    pub fn answered(&self) {
        let mut queues = self.lock();
        queues.outstanding = queues.outstanding.saturating_sub(1);
        drop(queues);
        self.changed.notify_all();
    }

    /// Adds an answer; never waits. Gives the slot back when the link has ended.
    ///
    /// # Errors
    ///
    /// The slot, when nobody will read the answer.
    pub fn push_answer(&self, slot: Slot) -> Result<(), Slot> {
        let mut queues = self.lock();
        if queues.closed {
            return Err(slot);
        }
        queues.answers.push_back(slot);
        drop(queues);
        self.changed.notify_all();
        Ok(())
    }

    /// Adds another frame, and waits while too many are there: the caller is the link's reader, which then reads nothing.
    pub fn push_frame(&self, frame: &Frame<'_>) {
        let mut buffer = [0; MAX_FRAME_LEN];
        // A frame of ours keeps the rules, or nothing is sent.
        let Ok(bytes) = frame.encode(&mut buffer) else { return };
        let Ok(encoded) = Encoded::from_slice(bytes) else { return };
        let full = |queues: &mut Queues| queues.frames.len() >= MAX_FRAMES && !queues.closed;
        let mut queues = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if !queues.closed {
            queues.frames.push_back(encoded);
        }
        drop(queues);
        self.changed.notify_all();
    }

    /// Adds a copy of another link's answer. `false` when there is no room for it.
    pub fn push_copy(&self, copy: &Arc<[u8]>) -> bool {
        let mut queues = self.lock();
        let room = queues.copies.len() < MAX_COPIES;
        if room && !queues.closed {
            queues.copies.push_back(copy.clone());
            drop(queues);
            self.changed.notify_all();
        }
        room
    }

    /// Waits at most `timeout` for something to write.
    pub fn next(&self, timeout: Duration) -> Next {
        let nothing = |queues: &mut Queues| queues.is_empty() && !queues.closed;
        let (mut queues, _) =
            self.changed.wait_timeout_while(self.lock(), timeout, nothing).unwrap_or_else(PoisonError::into_inner);
        let next = if let Some(frame) = queues.frames.pop_front() {
            Next::Frame(frame)
        } else if let Some(slot) = queues.answers.pop_front() {
            Next::Answer(slot)
        } else if let Some(copy) = queues.copies.pop_front() {
            Next::Copy(copy)
        } else if queues.closed {
            Next::Closed
        } else {
            Next::Nothing
        };
        drop(queues);
        self.changed.notify_all();
        next
    }

    /// The link takes copies, or no longer.
    pub fn set_display(&self, display: bool) {
        self.lock().display = display;
    }

    /// Whether the link takes copies.
    pub fn is_display(&self) -> bool {
        self.lock().display
    }

    /// Ends the link. What waits is still written, if the line takes it.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Whether the link has ended.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.frames.is_empty() && self.copies.is_empty()
    }
}
