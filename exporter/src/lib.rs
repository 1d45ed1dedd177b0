//! Exports a trained student: ONNX graphs of standard operators, int8 quantisation, the parity gate and the bundle.

pub mod config;
pub mod encoder;
pub mod graph;
mod protobuf;
pub mod quantize;
pub mod session;
pub mod student;
pub mod weights;
