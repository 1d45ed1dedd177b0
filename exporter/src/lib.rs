//! Exports a trained student: ONNX graphs of standard operators, int8 quantisation, the parity gate and the bundle.
//!
//! ```text
//! student folder ─▶ Student ─▶ prune ─▶ onnx (f32, int8) ─▶ Parity ─▶ pack ─▶ model.kdh
//! ```
//!
//! [`student`] reads and checks the folder, [`vocabulary`] prunes it, [`graph`] writes the ONNX models,
//! [`parity`] compares them on labelled data and [`pack`] writes the bundle. The arithmetic of the int8 graph is
//! stated in `ARITHMETIC.md`.

pub mod config;
pub mod encode;
pub mod encoder;
pub mod golden;
pub mod graph;
pub mod pack;
pub mod parity;
mod protobuf;
pub mod quantize;
mod record;
pub mod session;
pub mod student;
pub mod vocabulary;
pub mod weights;
