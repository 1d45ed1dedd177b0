//! The stored form, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `KDHPROG`, 0 |
//! | u32 | version |
//! | u32 | bytes of the head: all up to the weights, padded with zeros to a multiple of 64 |
//! | u64 | bytes of the weights |
//! | 4 x u32 | labels, max_sentences, max_tokens, vocabulary |
//! | u32, u32 each | number of rows, their widths |
//! | u32, ... | number of steps, the steps: a u32 that says which, and its fields in the order of their declaration |
//!
//! An optional field is a u32, 0 or 1, and the field if 1. Version 2 is version 1 with one more kind of step, an attention
//! with int8 products; a program without one is stored as version 1.

use core::ops::Range;

use super::weights::Weights;
use super::{
    ALIGNMENT, Document, Epilogue, Linear, Norm, Panels, Products, Program, ProgramError, Rows, Shape, Step, Table,
    TableValues, Vector, check::MAX_STEPS, round_up,
};

const MAGIC: &[u8; 8] = b"KDHPROG\0";
/// The newest version.
pub(super) const VERSION: u32 = 2;
/// The first version with int8 attention.
const INT8_ATTENTION: u32 = 2;
/// Magic, version, length of the head, length of the weights.
const PREAMBLE: usize = 24;

pub(super) fn write(program: &Program) -> Vec<u8> {
    let mut out = Writer(vec![0; PREAMBLE]);
    let Shape { labels, max_sentences, max_tokens, vocabulary } = program.shape;
    // The check has bounded all of them.
    for number in [labels, max_sentences, max_tokens, vocabulary, program.widths.len()] {
        out.u32(number as u32);
    }
    program.widths.iter().for_each(|&width| out.u32(width));
    out.u32(program.steps.len() as u32);
    program.steps.iter().for_each(|step| out.step(step));

    let Writer(mut bytes) = out;
    bytes.resize(round_up(bytes.len(), ALIGNMENT), 0);
    let head_len = bytes.len() as u32;
    let weights = program.weights.bytes();
    bytes[..8].copy_from_slice(MAGIC);
    let int8 = |step: &Step| matches!(step, Step::Attention { products: Products::Int8, .. });
    let version = if program.steps.iter().any(int8) { INT8_ATTENTION } else { 1 };
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[12..16].copy_from_slice(&head_len.to_le_bytes());
    bytes[16..24].copy_from_slice(&(weights.len() as u64).to_le_bytes());
    bytes.extend_from_slice(weights);
    bytes
}

/// `weights` takes the range of the weights in `bytes`.
pub(super) fn read(
    bytes: &[u8],
    weights: impl FnOnce(Range<usize>) -> Result<Weights, ProgramError>,
) -> Result<Program, ProgramError> {
    let mut input = Reader(bytes);
    if input.take(8) != Ok(MAGIC) {
        return Err(ProgramError::NotAProgram);
    }
    let version = input.u32()?;
    if !(1..=VERSION).contains(&version) {
        return Err(ProgramError::Version(version));
    }
    let head_len = input.u32()? as usize;
    let weights_len = u64::from(input.u32()?) | u64::from(input.u32()?) << 32;
    let rest = bytes.len().checked_sub(head_len).ok_or(ProgramError::Malformed("length"))?;
    if rest as u64 != weights_len || !head_len.is_multiple_of(ALIGNMENT) {
        return Err(ProgramError::Malformed("length"));
    }
    input.0 = bytes.get(PREAMBLE..head_len).ok_or(ProgramError::Malformed("length"))?;

    let [labels, max_sentences, max_tokens, vocabulary] = input.numbers()?.map(|number| number as usize);
    let shape = Shape { labels, max_sentences, max_tokens, vocabulary };
    let widths = input.list(Reader::u32)?;
    let steps = input.list(|input| input.step(version))?;
    if input.0.len() >= ALIGNMENT || input.0.iter().any(|&byte| byte != 0) {
        return Err(ProgramError::Malformed("padding"));
    }
    Program::assemble(shape, widths, steps, weights(head_len..bytes.len())?)
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Embed { words, positions, norm, output } => {
                self.u32(0);
                self.table(words);
                self.table(positions);
                self.norm(norm);
                self.u32(output.0);
            }
            Step::Linear { input, linear, epilogue, output } => {
                self.u32(1);
                self.u32(input.0);
                self.linear(linear);
                match epilogue {
                    Epilogue::None => self.u32(0),
                    Epilogue::Gelu => self.u32(1),
                    Epilogue::ResidualNorm { residual, norm } => {
                        self.u32(2);
                        self.u32(residual.0);
                        self.norm(norm);
                    }
                }
                self.u32(output.0);
            }
            Step::Attention { input, heads, products, relative_bias, output } => {
                self.u32(match products {
                    Products::F32 => 2,
                    Products::Int8 => 4,
                });
                self.u32(input.0);
                self.u32(heads);
                self.u32(u32::from(relative_bias.is_some()));
                if let Some(bias) = relative_bias {
                    self.vector(bias);
                }
                self.u32(output.0);
            }
            Step::Head { input, linear, document } => {
                self.u32(3);
                self.u32(input.0);
                self.linear(linear);
                match document {
                    Document::LogSumExp { bias } => {
                        self.u32(0);
                        self.vector(bias);
                    }
                    Document::Mean => self.u32(1),
                }
            }
        }
    }

    fn vector(&mut self, vector: Vector) {
        self.u32(vector.offset);
        self.u32(vector.len);
    }

    fn norm(&mut self, norm: Norm) {
        self.vector(norm.weight);
        self.vector(norm.bias);
        self.u32(norm.epsilon.to_bits());
    }

    fn table(&mut self, table: Table) {
        self.u32(table.rows);
        self.u32(table.width);
        match table.values {
            TableValues::I8 { values, scales } => {
                self.u32(0);
                self.u32(values);
                self.vector(scales);
            }
            TableValues::F32 { values } => {
                self.u32(1);
                self.u32(values);
            }
        }
    }

    fn linear(&mut self, linear: Linear) {
        self.u32(linear.outputs);
        self.u32(linear.inputs);
        self.vector(linear.bias);
        match linear.panels {
            Panels::I8 { values, scales, sums } => {
                self.u32(0);
                self.u32(values);
                self.vector(scales);
                self.u32(sums);
            }
            Panels::F32 { values } => {
                self.u32(1);
                self.u32(values);
            }
        }
    }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], ProgramError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(ProgramError::Malformed("head"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, ProgramError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(ProgramError::Malformed("head"))?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*taken))
    }

    fn numbers<const N: usize>(&mut self) -> Result<[u32; N], ProgramError> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.u32()?;
        }
        Ok(numbers)
    }

    /// A list of at most as many items as a program can have of anything.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, ProgramError>) -> Result<Vec<T>, ProgramError> {
        let len = self.u32()? as usize;
        if len > MAX_STEPS {
            return Err(ProgramError::OutOfRange("number of steps"));
        }
        (0..len).map(|_| item(self)).collect()
    }

    fn step(&mut self, version: u32) -> Result<Step, ProgramError> {
        match self.u32()? {
            0 => Ok(Step::Embed {
                words: self.table()?,
                positions: self.table()?,
                norm: self.norm()?,
                output: Rows(self.u32()?),
            }),
            1 => Ok(Step::Linear {
                input: Rows(self.u32()?),
                linear: self.linear()?,
                epilogue: self.epilogue()?,
                output: Rows(self.u32()?),
            }),
            2 => self.attention(Products::F32),
            3 => Ok(Step::Head { input: Rows(self.u32()?), linear: self.linear()?, document: self.document()? }),
            4 if version >= INT8_ATTENTION => self.attention(Products::Int8),
            _ => Err(ProgramError::Malformed("steps")),
        }
    }

    fn attention(&mut self, products: Products) -> Result<Step, ProgramError> {
        Ok(Step::Attention {
            input: Rows(self.u32()?),
            heads: self.u32()?,
            products,
            relative_bias: self.optional(Self::vector)?,
            output: Rows(self.u32()?),
        })
    }

    fn epilogue(&mut self) -> Result<Epilogue, ProgramError> {
        match self.u32()? {
            0 => Ok(Epilogue::None),
            1 => Ok(Epilogue::Gelu),
            2 => Ok(Epilogue::ResidualNorm { residual: Rows(self.u32()?), norm: self.norm()? }),
            _ => Err(ProgramError::Malformed("steps")),
        }
    }

    fn document(&mut self) -> Result<Document, ProgramError> {
        match self.u32()? {
            0 => Ok(Document::LogSumExp { bias: self.vector()? }),
            1 => Ok(Document::Mean),
            _ => Err(ProgramError::Malformed("steps")),
        }
    }

    fn optional<T>(
        &mut self,
        item: impl FnOnce(&mut Self) -> Result<T, ProgramError>,
    ) -> Result<Option<T>, ProgramError> {
        match self.u32()? {
            0 => Ok(None),
            1 => item(self).map(Some),
            _ => Err(ProgramError::Malformed("steps")),
        }
    }

    fn vector(&mut self) -> Result<Vector, ProgramError> {
        Ok(Vector { offset: self.u32()?, len: self.u32()? })
    }

    fn norm(&mut self) -> Result<Norm, ProgramError> {
        Ok(Norm { weight: self.vector()?, bias: self.vector()?, epsilon: f32::from_bits(self.u32()?) })
    }

    fn table(&mut self) -> Result<Table, ProgramError> {
        let [rows, width] = self.numbers()?;
        let values = match self.u32()? {
            0 => TableValues::I8 { values: self.u32()?, scales: self.vector()? },
            1 => TableValues::F32 { values: self.u32()? },
            _ => return Err(ProgramError::Malformed("weights")),
        };
        Ok(Table { rows, width, values })
    }

    fn linear(&mut self) -> Result<Linear, ProgramError> {
        let [outputs, inputs] = self.numbers()?;
        let bias = self.vector()?;
        let panels = match self.u32()? {
            0 => Panels::I8 { values: self.u32()?, scales: self.vector()?, sums: self.u32()? },
            1 => Panels::F32 { values: self.u32()? },
            _ => return Err(ProgramError::Malformed("weights")),
        };
        Ok(Linear { outputs, inputs, bias, panels })
    }
}
