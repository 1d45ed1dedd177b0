//! The frames: what is written is read, damage costs what it touches, and nothing makes a reader panic.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test may panic")]

mod frames;
mod golden;
mod resynchronisation;
mod round_trip;
mod text;
