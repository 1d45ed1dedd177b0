use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use zeroize::Zeroize;

use super::arena::Arena;
use super::exchange::{Exchange, LOOKS, Side, lock, wait_until};
use super::{EngineError, EngineScratch, RunError, Stop};

/// A second thread that computes half of every text. It waits for texts as long as this lives.
pub(super) struct Pair {
    shared: Arc<Shared>,
    /// `None` only while it ends.
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    arena: Arc<Arena>,
    exchange: Exchange,
    job: Mutex<Job>,
    /// Texts that were given to the second thread, and those that it has ended.
    given: AtomicU64,
    ended: AtomicU64,
    started: AtomicBool,
    quit: AtomicBool,
    gone: AtomicBool,
}

/// The second thread's part of a text.
struct Job {
    ids: Vec<u32>,
    scratch: EngineScratch<'static>,
    done: bool,
}

impl Pair {
    /// Bytes beside the scratches of the two threads, without the second thread's stack.
    pub(super) fn memory_required(arena: &Arena) -> usize {
        arena.program().shape().max_tokens * size_of::<u32>() + Exchange::memory_required(arena.longest_message())
    }

    /// `scratch` is the second thread's.
    pub(super) fn start(arena: Arc<Arena>, scratch: EngineScratch<'static>) -> Result<Self, EngineError> {
        let out_of_memory = || EngineError::OutOfMemory { bytes: Self::memory_required(&arena) };
        let exchange = Exchange::new(arena.longest_message()).ok_or_else(out_of_memory)?;
        let mut ids = Vec::new();
        ids.try_reserve_exact(arena.program().shape().max_tokens).map_err(|_| out_of_memory())?;
        let shared = Arc::new(Shared {
            arena,
            exchange,
            job: Mutex::new(Job { ids, scratch, done: false }),
            given: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            started: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("kdh-second".into()).spawn(move || of_thread.work());
        let thread = thread.map_err(|error: io::Error| EngineError::Thread(error.kind()))?;
        // What a thread allocates when it begins is not the first text's.
        wait_until(|| shared.started.load(Ordering::Acquire));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether the second thread runs this engine's program.
    pub(super) fn is_of(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(&self.shared.arena, arena)
    }

    /// As [`Arena::run`], with the second thread. It has ended its part when this returns.
    pub(super) fn run(
        &mut self,
        memory: &mut [u8],
        stop: &Stop,
        ids: &[u32],
        sentence_ids: &[i32],
    ) -> Result<(), RunError> {
        let shared = &*self.shared;
        let is_gone = || shared.gone.load(Ordering::Acquire);
        if ids.len() > shared.arena.program().shape().max_tokens || is_gone() {
            return Err(RunError::Failed);
        }
        {
            let job = &mut *lock(&shared.job);
            // The sentences are the first thread's.
            job.scratch.uses(ids.len(), 0);
            job.done = false;
            job.ids.clear();
            // Within the capacity that was reserved.
            job.ids.extend_from_slice(ids);
        }
        shared.exchange.begin();
        let given = shared.given.load(Ordering::Relaxed) + 1;
        shared.given.store(given, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        let first = shared.arena.run_half(memory, stop, ids, sentence_ids, shared.exchange.link(Side::First));
        if first.is_err() {
            shared.exchange.break_off();
        }
        wait_until(|| shared.ended.load(Ordering::Acquire) >= given || is_gone());
        first?;
        if lock(&shared.job).done { Ok(()) } else { Err(RunError::Failed) }
    }

    /// Overwrites what texts have left with the second thread and on the way to it.
    pub(super) fn zeroize(&mut self) {
        self.shared.exchange.zeroize();
        let job = &mut *lock(&self.shared.job);
        job.scratch.zeroize();
        // All of its capacity.
        job.ids.zeroize();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.zeroize();
        self.shared.quit.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say: a panic there has ended its texts already.
            drop(thread.join());
        }
    }
}

impl Shared {
    /// The second thread.
    fn work(&self) {
        let _gone = Gone(self);
        self.started.store(true, Ordering::Release);
        for next in 1.. {
            let mut looks = 0;
            while self.given.load(Ordering::Acquire) < next {
                if self.quit.load(Ordering::Acquire) {
                    return;
                }
                if looks < LOOKS {
                    looks += 1;
                    core::hint::spin_loop();
                } else {
                    thread::park();
                }
            }
            self.run(&mut lock(&self.job));
            self.ended.store(next, Ordering::Release);
        }
    }

    fn run(&self, job: &mut Job) {
        let link = self.exchange.link(Side::Second);
        // The first side alone looks whether it is time to end: this scratch's stop is never due.
        let half = job.scratch.arena_mut();
        job.done = half.is_some_and(|(memory, stop, _)| self.arena.run_half(memory, stop, &job.ids, &[], link).is_ok());
        if !job.done {
            self.exchange.break_off();
        }
    }
}

/// Lets nobody wait for the second thread when it is not there any more.
struct Gone<'s>(&'s Shared);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.0.exchange.break_off();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::{Bundle, Labeler, LabelerOptions};

    #[test]
    fn a_text_fails_when_the_second_thread_is_gone() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/default.kdh");
        let bytes = std::fs::read(path).unwrap();
        let options = LabelerOptions::new().allow_unsigned();
        let labeler = Labeler::from_bundle(&Bundle::parse(&bytes).unwrap(), &options).unwrap();
        let engine = labeler.engine();
        let mut scratch = engine.try_scratch_with_second_thread().unwrap();
        let (ids, sentence_ids) = ([1; Engine::TWO_THREADS_FROM], [0; Engine::TWO_THREADS_FROM]);
        assert!(engine.run(&mut scratch, &ids, &sentence_ids).is_ok());
        // As a panic there would end it.
        drop(Gone(&scratch.pair.as_ref().unwrap().shared));
        assert_eq!(engine.run(&mut scratch, &ids, &sentence_ids).unwrap_err(), RunError::Failed);
    }
}
