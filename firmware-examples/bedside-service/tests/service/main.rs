//! The service as a client and systemd see it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test may panic")]

mod answers;
mod daemon;
mod hostile;
mod killed;
mod load;
mod serial;
mod systemd;
