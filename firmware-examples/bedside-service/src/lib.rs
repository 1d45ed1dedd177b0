//! A daemon that labels texts for the software beside it: texts come as frames over a Unix socket or a serial line, answers
//! go back as frames ([`kdh_runtime::format::wire`]).
//!
//! Everything that it holds is made when it starts. A fixed number of [`Slot`](pool::Slot)s hold texts and answers, from
//! the first part of a text until its answer is written. Who finds no slot is told when to come again, and who does not
//! take answers is not read from.
//!
//! ```text
//!  socket, serial line ─▶ reader ─▶ slot ─▶ work queue ─▶ worker ─▶ outbox ─▶ writer ─▶ socket, serial line
//!                           ▲                              labels     │
//!                           └───────────── free slots ◀───────────────┘
//! ```

pub mod answer;
pub mod client;
pub mod line;
pub mod link;
pub mod log;
pub mod memory;
pub mod model;
pub mod notify;
pub mod options;
pub mod outbox;
pub mod pool;
pub mod service;
pub mod state;
pub mod worker;
