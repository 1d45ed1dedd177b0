//! What the threads of a service share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use kdh_runtime::format::wire::{Frame, RequestFlags, RequestId, ServiceState, Status};

use crate::model::Model;
use crate::outbox::Outbox;
use crate::pool::{Pool, Slot};

/// A whole text that waits for a worker.
#[derive(Debug)]
pub struct Job {
    /// Names the request.
    pub id: RequestId,
    /// What the answer shall hold.
    pub flags: RequestFlags,
    /// The text; the answer goes in here.
    pub slot: Slot,
    /// Where the answer goes.
    pub outbox: Arc<Outbox>,
}

/// What the threads of a service share.
#[derive(Debug)]
pub struct State {
    /// Free memory for requests.
    pub pool: Pool,
    /// Texts that wait. It has room for every slot, so that sending never waits.
    pub work: SyncSender<Job>,
    /// Most requests of a link that have no answer yet.
    pub max_outstanding: usize,
    /// Longest text, in bytes.
    pub max_text_len: usize,
    /// Workers.
    pub threads: usize,
    started: Instant,
    model: RwLock<Arc<Model>>,
    links: Mutex<Vec<Arc<Outbox>>>,
    reloading: AtomicBool,
    draining: AtomicBool,
    labelled: AtomicU64,
    busy: AtomicU64,
    failed: AtomicU64,
    dropped_copies: AtomicU64,
    /// How long a text takes, in microseconds: a moving mean.
    duration_us: AtomicU32,
    /// When each worker last got on with its text, in milliseconds from the start, plus one; 0: it has none.
    working_since: Vec<AtomicU64>,
}

impl State {
    /// A service with `threads` workers.
    pub fn new(
        model: Model,
        pool: Pool,
        work: SyncSender<Job>,
        max_outstanding: usize,
        max_text_len: usize,
        threads: usize,
    ) -> Self {
        Self {
            pool,
            work,
            max_outstanding,
            max_text_len,
            threads,
            started: Instant::now(),
            model: RwLock::new(Arc::new(model)),
            links: Mutex::default(),
            reloading: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            labelled: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped_copies: AtomicU64::new(0),
            duration_us: AtomicU32::new(0),
            working_since: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The model of the moment.
    pub fn model(&self) -> Arc<Model> {
        self.model.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a new model in the place of the old one. Texts that are being labelled get their answer from the old one.
    pub fn set_model(&self, model: Model) {
        *self.model.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(model);
    }

    /// Adds a link.
    pub fn add_link(&self, outbox: &Arc<Outbox>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).push(outbox.clone());
    }

    /// Takes a link out.
    pub fn remove_link(&self, outbox: &Arc<Outbox>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).retain(|link| !Arc::ptr_eq(link, outbox));
    }

    /// The links of the moment.
    pub fn links(&self) -> Vec<Arc<Outbox>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives every display a copy of an answer.
    pub fn copy_to_displays(&self, answer: &[u8]) {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut copy = None;
        for link in links.iter().filter(|link| link.is_display()) {
            let copy: &Arc<[u8]> = copy.get_or_insert_with(|| answer.into());
            if !link.push_copy(copy) {
                self.dropped_copies.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Begins to end: no new request is taken.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether no new request is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Says whether a new bundle is being checked.
    pub fn set_reloading(&self, reloading: bool) {
        self.reloading.store(reloading, Ordering::SeqCst);
    }

    /// Whether a new bundle is being checked.
    pub fn is_reloading(&self) -> bool {
        self.reloading.load(Ordering::SeqCst)
    }

    /// Counts a text that was labelled, in `duration`.
    pub fn count_labelled(&self, duration: Duration) {
        self.labelled.fetch_add(1, Ordering::Relaxed);
        let new = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let old = self.duration_us.load(Ordering::Relaxed);
        let mean = if old == 0 { new } else { old - old / 8 + new / 8 };
        self.duration_us.store(mean, Ordering::Relaxed);
    }

    /// Counts a request that was refused because all slots are in use.
    pub fn count_busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was refused for another reason.
    pub fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// When to send a refused request again, in milliseconds: what the workers need for the texts that they have, 1 to
    /// 10,000.
    pub fn retry_after_ms(&self) -> u32 {
        let texts = self.pool.held().div_ceil(self.threads.max(1)) as u64;
        let wait = texts * u64::from(self.duration_us.load(Ordering::Relaxed)) / 1000;
        wait.clamp(1, 10_000) as u32
    }

    /// A worker begins a text, or goes on with it.
    pub fn begin_work(&self, worker: usize) {
        let now = self.started.elapsed().as_millis() as u64 + 1;
        self.working_since[worker].store(now, Ordering::Relaxed);
    }

    /// A worker has done with its text.
    pub fn end_work(&self, worker: usize) {
        self.working_since[worker].store(0, Ordering::Relaxed);
    }

    /// Whether a worker has not got on with its text for longer than `limit`.
    pub fn is_stalled(&self, limit: Duration) -> bool {
        let now = self.started.elapsed().as_millis() as u64 + 1;
        let since = self.working_since.iter().map(|since| since.load(Ordering::Relaxed));
        since.filter(|&since| since > 0).any(|since| now.saturating_sub(since) > limit.as_millis() as u64)
    }

    /// Time since the service started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Gives the status to `send`.
    pub fn with_status<T>(&self, send: impl FnOnce(&Frame<'_>) -> T) -> T {
        let model = self.model();
        let state = match (self.is_draining(), self.is_reloading()) {
            (true, _) => ServiceState::Draining,
            (false, true) => ServiceState::Reloading,
            (false, false) => ServiceState::Ready,
        };
        let counts = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        send(&Frame::Status(Status {
            state,
            uptime_s: u32::try_from(self.uptime().as_secs()).unwrap_or(u32::MAX),
            held: counts(self.pool.held()),
            capacity: counts(self.pool.capacity()),
            labelled: count(&self.labelled),
            busy: count(&self.busy),
            failed: count(&self.failed),
            dropped_copies: count(&self.dropped_copies),
            bundle: model.bundle,
            model: &model.name,
            model_version: &model.version,
        }))
    }

    /// Counters for the log: labelled, busy, failed.
    pub fn counts(&self) -> [u64; 3] {
        [&self.labelled, &self.busy, &self.failed].map(|counter| counter.load(Ordering::Relaxed))
    }
}
