use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// When runs must end early: at a time, when another thread says so, or never.
///
/// The engine looks before a run and between two of its steps, so a run ends at most one step late: about a hundredth to a
/// twentieth of the time of a whole text. tract has no steps to look between: there only the look before a run counts.
///
/// A look at the clock is [`Instant::now`], which Linux answers without a system call where the processor's own clock is
/// the system's. A [`Cancel`] costs one load, whatever the system: a watchdog or a timer interrupt sets it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    deadline: Option<Instant>,
    cancel: Option<Cancel>,
}

impl Stop {
    /// Never.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not before this time.
    #[must_use]
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// When this is cancelled.
    #[must_use]
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Whether it is time to end.
    pub fn is_due(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::is_cancelled)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// A flag that stops the runs that watch it. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops runs until [`reset`](Self::reset).
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets runs go on.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
