use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

/// Where the two threads of one text give each other rows. Both exchange equally often and in the same order: a message
/// each way.
///
/// A side has two mailboxes and posts to them in turn. When it posts for the third time, it has taken the other side's second
/// message, which was posted after its own first one was taken: so the mailbox is free, and no lock is ever waited for.
/// Each side posts before it takes, so neither waits for the other in a circle.
#[derive(Debug)]
pub(super) struct Exchange {
    sides: [Posts; 2],
    broken: AtomicBool,
}

/// One of the two threads of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The thread that labels.
    First,
    /// Its helper.
    Second,
}

/// One side of the messages of one text.
pub(super) struct Link<'e> {
    exchange: &'e Exchange,
    side: Side,
    exchanged: u64,
}

#[derive(Debug)]
struct Posts {
    mailboxes: [Mutex<Mailbox>; 2],
    /// Messages of this text.
    posted: AtomicU64,
}

#[derive(Debug)]
struct Mailbox {
    bytes: Vec<u8>,
    /// Longest message since the bytes were overwritten.
    used: usize,
}

impl Exchange {
    /// For messages of at most `len` bytes. `None` when the system does not give the memory.
    pub(super) fn new(len: usize) -> Option<Self> {
        let mailbox = || {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).ok()?;
            bytes.resize(len, 0);
            Some(Mutex::new(Mailbox { bytes, used: 0 }))
        };
        let posts = || Some(Posts { mailboxes: [mailbox()?, mailbox()?], posted: AtomicU64::new(0) });
        Some(Self { sides: [posts()?, posts()?], broken: AtomicBool::new(false) })
    }

    /// Bytes of all mailboxes for messages of at most `len` bytes.
    pub(super) fn memory_required(len: usize) -> usize {
        4 * len
    }

    /// Before a text, when neither side is at work.
    pub(super) fn begin(&self) {
        self.broken.store(false, Ordering::Relaxed);
        self.sides.iter().for_each(|side| side.posted.store(0, Ordering::Release));
    }

    /// Ends the text for both sides: whoever waits for a message gets none.
    pub(super) fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(super) fn link(&self, side: Side) -> Link<'_> {
        Link { exchange: self, side, exchanged: 0 }
    }

    fn posts(&self, side: Side) -> &Posts {
        let [first, second] = &self.sides;
        match side {
            Side::First => first,
            Side::Second => second,
        }
    }

    /// Overwrites what the messages have left, when neither side is at work.
    pub(super) fn zeroize(&self) {
        for mailbox in self.sides.iter().flat_map(|side| &side.mailboxes) {
            let mailbox = &mut *lock(mailbox);
            mailbox.bytes.get_mut(..mailbox.used).unwrap_or_default().zeroize();
            mailbox.used = 0;
        }
    }
}

impl Link<'_> {
    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// Posts the next message: `len` bytes that `write` writes. `None` when there is no room.
    pub(super) fn post(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> Option<()>) -> Option<()> {
        let own = self.exchange.posts(self.side);
        {
            let mailbox = &mut *lock(own.mailbox(self.exchanged));
            mailbox.used = mailbox.used.max(len);
            write(mailbox.bytes.get_mut(..len)?)?;
        }
        self.exchanged += 1;
        own.posted.store(self.exchanged, Ordering::Release);
        Some(())
    }

    /// Has `read` read the other side's message, whose length the reader knows, after this side has posted its own. `None` when
    /// the other side has ended the text.
    pub(super) fn take(&mut self, read: impl FnOnce(&[u8]) -> Option<()>) -> Option<()> {
        let other = self.exchange.posts(self.side.other());
        let is_posted = || other.posted.load(Ordering::Acquire) >= self.exchanged;
        wait_until(|| is_posted() || self.exchange.broken.load(Ordering::Acquire));
        if !is_posted() {
            return None;
        }
        read(&lock(other.mailbox(self.exchanged.checked_sub(1)?)).bytes)
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

impl Posts {
    fn mailbox(&self, number: u64) -> &Mutex<Mailbox> {
        let [even, odd] = &self.mailboxes;
        if number.is_multiple_of(2) { even } else { odd }
    }
}

/// Waits for what another thread does at once: it looks, and lets other threads run only when that took long.
pub(super) fn wait_until(mut is_done: impl FnMut() -> bool) {
    let mut looks = 0;
    while !is_done() {
        if looks < LOOKS {
            looks += 1;
            core::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Looks before a thread that waits gives its turn away: two free cores come to a message at nearly the same time, and then nobody
/// gives it away.
pub(super) const LOOKS: u32 = 10_000;

/// What a thread that panicked left in it does no harm: a message is read only when it was posted.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn talk(exchange: &Exchange, side: Side, messages: u8) -> Option<Vec<u8>> {
        let mut link = exchange.link(side);
        let mut taken = Vec::new();
        for message in 0..messages {
            let own = if side == Side::First { message } else { 100 + message };
            let write = |bytes: &mut [u8]| {
                bytes.fill(own);
                Some(())
            };
            link.post(1 + usize::from(message % 3), write)?;
            link.take(|bytes| {
                taken.push(*bytes.first()?);
                Some(())
            })?;
        }
        Some(taken)
    }

    #[test]
    fn every_message_arrives_once_and_in_order() {
        let exchange = Exchange::new(3).unwrap();
        for messages in [0, 1, 2, 3, 100] {
            exchange.begin();
            let [first, second] = thread::scope(|scope| {
                let second = scope.spawn(|| talk(&exchange, Side::Second, messages));
                [talk(&exchange, Side::First, messages), second.join().unwrap()]
            });
            assert_eq!(first, Some((0..messages).map(|message| 100 + message).collect()));
            assert_eq!(second, Some((0..messages).collect()));
        }
    }

    #[test]
    fn nobody_waits_for_a_side_that_has_ended() {
        let exchange = Exchange::new(3).unwrap();
        exchange.begin();
        let first = thread::scope(|scope| {
            scope.spawn(|| {
                assert!(talk(&exchange, Side::Second, 5).is_some());
                exchange.break_off();
            });
            talk(&exchange, Side::First, 6)
        });
        assert_eq!(first, None);
        exchange.begin();
        assert_eq!(exchange.link(Side::First).post(4, |_| Some(())), None, "no room");
    }

    #[test]
    fn messages_are_overwritten() {
        let exchange = Exchange::new(3).unwrap();
        exchange.begin();
        thread::scope(|scope| {
            scope.spawn(|| talk(&exchange, Side::Second, 5));
            talk(&exchange, Side::First, 5)
        });
        let left = || exchange.sides.iter().flat_map(|side| &side.mailboxes).flat_map(|one| lock(one).bytes.clone());
        assert!(left().any(|byte| byte > 0));
        exchange.zeroize();
        assert!(left().all(|byte| byte == 0));
    }
}
