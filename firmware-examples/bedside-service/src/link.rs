//! One line: a reader that fills slots, a writer that empties the outbox.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kdh_runtime::format::wire::{
    self, Assembly, Decoder, ErrorCode, ErrorFrame, Frame, Heartbeat, MAX_FRAME_LEN, Progress, RequestChunk, RequestId,
    Role, Welcome, crc32, negotiate,
};

use crate::line::{Line, Read};
use crate::outbox::{Next, Outbox};
use crate::pool::Slot;
use crate::state::{Job, State};

/// How long a reader or writer waits before it looks whether the link has ended.
const TICK: Duration = Duration::from_millis(200);
/// A side that has said nothing for so long sends a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A client that takes nothing for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A text whose next part does not come for so long is given up.
const PART_TIMEOUT: Duration = Duration::from_secs(5);
/// When a client shall send again what a lost part made incomplete, in milliseconds.
const RESEND_AFTER_MS: u32 = 1;
/// When a client shall send again what a service that ends refused, in milliseconds.
const SUCCESSOR_AFTER_MS: u32 = 1000;

/// Serves a line until it is closed or broken, or the outbox is closed.
pub fn serve(state: &Arc<State>, line: Line) {
    let outbox = Arc::new(Outbox::new(state.max_outstanding));
    state.add_link(&outbox);
    let line = Arc::new(line);
    let writer = {
        let (state, outbox, line) = (state.clone(), outbox.clone(), line.clone());
        thread::Builder::new().name("writer".into()).spawn(move || write(&state, &outbox, &line))
    };
    if let Ok(writer) = writer {
        let mut reader = Reader::new(state, &outbox);
        // A line that breaks ends like one that is closed: the client comes again and sends what has no answer.
        let _ = reader.run(&line);
        reader.abandon();
        outbox.close();
        let _ = writer.join();
    }
    state.remove_link(&outbox);
}

fn write(state: &State, outbox: &Outbox, line: &Line) {
    let mut sequence = 0;
    let mut broken = false;
    loop {
        let result = match outbox.next(HEARTBEAT) {
            Next::Closed => return,
            Next::Answer(slot) => {
                let result = if broken { Ok(()) } else { line.write_all(slot.answer(), WRITE_TIMEOUT) };
                state.pool.give_back(slot);
                outbox.answered();
                result
            }
            Next::Frame(_) | Next::Copy(_) if broken => Ok(()),
            Next::Frame(frame) => line.write_all(&frame, WRITE_TIMEOUT),
            Next::Copy(copy) => line.write_all(&copy, WRITE_TIMEOUT),
            Next::Nothing => {
                sequence += 1;
                let uptime_ms = state.uptime().as_millis() as u32;
                let mut buffer = [0; MAX_FRAME_LEN];
                match Frame::Heartbeat(Heartbeat { sequence, uptime_ms }).encode(&mut buffer) {
                    Ok(bytes) => line.write_all(bytes, WRITE_TIMEOUT),
                    Err(_) => Ok(()),
                }
            }
        };
        if result.is_err() {
            // Slots that still wait are given back above.
            broken = true;
            outbox.close();
        }
    }
}

struct Reader<'s> {
    state: &'s State,
    outbox: &'s Arc<Outbox>,
    session: Option<(u32, Role)>,
    assembly: Assembly,
    /// The text that is being put together.
    current: Option<(RequestId, Slot)>,
    /// Parts of this request are passed over until its beginning comes again: it was refused.
    refused: Option<RequestId>,
    last_part: Instant,
}

impl<'s> Reader<'s> {
    fn new(state: &'s State, outbox: &'s Arc<Outbox>) -> Self {
        let last_part = Instant::now();
        Self { state, outbox, session: None, assembly: Assembly::new(), current: None, refused: None, last_part }
    }

    fn run(&mut self, line: &Line) -> io::Result<()> {
        let mut decoder = Decoder::new();
        let mut buffer = [0; 4096];
        while !self.outbox.is_closed() {
            if let Some((id, _)) = self.current
                && self.last_part.elapsed() > PART_TIMEOUT
            {
                self.abandon();
                self.refuse(id, ErrorCode::IncompleteText, RESEND_AFTER_MS);
            }
            // A text that was begun may be finished: it holds its slot already.
            if self.current.is_none() && !self.outbox.wait_for_room(TICK) {
                continue;
            }
            let len = match line.read(&mut buffer, TICK)? {
                Read::Bytes(len) => len,
                Read::Nothing => continue,
                Read::Closed => return Ok(()),
            };
            let mut unread = &buffer[..len];
            while let Some(frame) = decoder.take(&mut unread) {
                // What is damaged has no name; who sent it misses the answer and sends it again.
                if let Ok(frame) = frame {
                    self.take(&frame);
                }
                while self.current.is_none() && !self.outbox.wait_for_room(TICK) && !self.outbox.is_closed() {}
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: &Frame<'_>) {
        match frame {
            Frame::Hello(hello) => {
                self.abandon();
                let ours = (wire::MIN_VERSION, wire::VERSION);
                let Some(version) = negotiate(ours, (hello.min_version, hello.max_version)) else {
                    self.session = None;
                    return self.error(None, ErrorCode::UnsupportedVersion, 0);
                };
                self.session = Some((hello.session, hello.role));
                self.outbox.set_display(hello.role == Role::Display);
                let model = self.state.model();
                self.outbox.push_frame(&Frame::Welcome(Welcome {
                    version,
                    session: hello.session,
                    max_text_len: u32::try_from(self.state.max_text_len).unwrap_or(u32::MAX),
                    max_outstanding: u16::try_from(self.state.max_outstanding).unwrap_or(u16::MAX),
                    labels: u8::try_from(model.labeler.codes().len()).unwrap_or(u8::MAX),
                    model: &model.name,
                    model_version: &model.version,
                }));
            }
            Frame::Request(chunk) => self.take_part(chunk),
            Frame::StatusRequest => self.state.with_status(|status| self.outbox.push_frame(status)),
            // Heartbeats, and what only a service says.
            _ => {}
        }
    }

    fn take_part(&mut self, chunk: &RequestChunk<'_>) {
        let id = chunk.id;
        self.last_part = Instant::now();
        let begins = chunk.offset == 0;
        if !begins && self.refused == Some(id) {
            return;
        }
        if begins {
            self.abandon();
            self.refused = None;
            match self.admit(chunk) {
                Ok(slot) => {
                    self.outbox.begin();
                    self.current = Some((id, slot));
                }
                Err((code, retry_after_ms)) => return self.refuse(id, code, retry_after_ms),
            }
        }
        let progress = self.assembly.accept(chunk);
        let Some((current, mut slot)) = self.current.take() else {
            // A part of a text whose beginning was lost.
            return self.refuse(id, ErrorCode::IncompleteText, RESEND_AFTER_MS);
        };
        let whole = matches!(progress, Ok(Progress::Last { .. }));
        if current != id || progress.is_err() || !slot.push_text(chunk.bytes) {
            self.give_up(slot);
            if current != id {
                self.refuse(current, ErrorCode::IncompleteText, RESEND_AFTER_MS);
            }
            return self.refuse(id, ErrorCode::IncompleteText, RESEND_AFTER_MS);
        }
        if !whole {
            self.current = Some((id, slot));
            return;
        }
        if crc32(slot.text()) != chunk.text_crc {
            self.give_up(slot);
            return self.refuse(id, ErrorCode::IncompleteText, RESEND_AFTER_MS);
        }
        let job = Job { id, flags: chunk.flags, slot, outbox: self.outbox.clone() };
        // There is room for every slot; without workers the service ends.
        if let Err(error) = self.state.work.try_send(job) {
            let (std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job)) = error;
            self.give_up(job.slot);
            self.refuse(id, ErrorCode::Draining, SUCCESSOR_AFTER_MS);
        }
    }

    /// A slot for the text that `chunk` begins, or why there is none.
    fn admit(&self, chunk: &RequestChunk<'_>) -> Result<Slot, (ErrorCode, u32)> {
        if self.session != Some((chunk.id.session, Role::Requester)) {
            return Err((ErrorCode::NoSession, 0));
        }
        if self.state.is_draining() {
            return Err((ErrorCode::Draining, SUCCESSOR_AFTER_MS));
        }
        if chunk.text_len as usize > self.state.max_text_len {
            return Err((ErrorCode::TextTooLong, 0));
        }
        self.state.pool.take().ok_or_else(|| (ErrorCode::Busy, self.state.retry_after_ms()))
    }

    /// Forgets the text that was begun.
    fn abandon(&mut self) {
        self.assembly.reset();
        if let Some((_, slot)) = self.current.take() {
            self.give_up(slot);
        }
    }

    fn give_up(&self, slot: Slot) {
        self.state.pool.give_back(slot);
        self.outbox.answered();
    }

    fn refuse(&mut self, id: RequestId, code: ErrorCode, retry_after_ms: u32) {
        self.refused = Some(id);
        match code {
            ErrorCode::Busy | ErrorCode::Draining => self.state.count_busy(),
            _ => self.state.count_failed(),
        }
        self.error(Some(id), code, retry_after_ms);
    }

    fn error(&self, id: Option<RequestId>, code: ErrorCode, retry_after_ms: u32) {
        self.outbox.push_frame(&Frame::Error(ErrorFrame { id, code, retry_after_ms }));
    }
}
