//! Byte layouts of kdh: every file and frame that crosses a boundary between a host, a box and a device.
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "alloc")]
pub mod student;
