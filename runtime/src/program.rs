//! A model as plain data: a flat list of fused steps over planned buffers, and the weights in the layout in which the
//! kernels of every instruction set read them.
//!
//! A [`ProgramBuilder`] makes a [`Program`] from plain matrices; [`Program::to_bytes`] and [`Program::parse`] store and
//! read it. The arithmetic of each step is stated at [`Step`].

use core::fmt;
use std::sync::Arc;

pub use build::ProgramBuilder;

mod build;
mod check;
mod plan;
mod weights;
mod wire;

pub(crate) use plan::{BLOCK, Buffer, Plan, Pooled, RowsPlan, float_stride, integer_stride, round_up};
pub(crate) use weights::Weights;

/// A model that is ready to run on the arena engine.
#[derive(Clone)]
pub struct Program {
    shape: Shape,
    /// Width of every [`Rows`].
    widths: Vec<u32>,
    steps: Vec<Step>,
    weights: Weights,
    plan: Arc<Plan>,
}

/// What a model must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the four numbers that fix every buffer of the graph's contract")]
pub struct Shape {
    /// Labels of the model.
    pub labels: usize,
    /// Sentences in `sentence_logits`.
    pub max_sentences: usize,
    /// Longest input, in tokens, special tokens included.
    pub max_tokens: usize,
    /// Tokens of the vocabulary; ids are below it.
    pub vocabulary: usize,
}

/// A matrix of `f32` with one row for each token of the text: its number in the program. One step writes it, later steps
/// read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows(pub(crate) u32);

/// One fused step. `T` is the number of tokens of the text.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "whoever runs a program must know every step")]
pub enum Step {
    /// `output[t] = LayerNorm(words[id[t]] + positions[t])`. Always the first step, and never another.
    Embed {
        /// `[vocabulary, hidden]`.
        words: Table,
        /// `[max_tokens, hidden]`, the first row for the first token.
        positions: Table,
        /// Over `hidden`.
        norm: Norm,
        /// `[T, hidden]`.
        output: Rows,
    },
    /// `output = epilogue(input W^T + bias)`.
    ///
    /// With int8 weights every input row is rounded to int8 first: `amax = max(max|x|, 1e-30)`, `q = round_half_even(x *
    /// (127 / amax))`, `y = (f32(sum q w) * (amax / 127)) * scale + bias`.
    Linear {
        /// `[T, inputs]`.
        input: Rows,
        /// `[outputs, inputs]`.
        linear: Linear,
        /// What happens to a row before it is stored.
        epilogue: Epilogue,
        /// `[T, outputs]`.
        output: Rows,
    },
    /// For every head: `softmax(q k^T (+ bias)) v`, where the input's columns are all heads' `q`, then all heads' `k`,
    /// then all heads' `v`, each head `hidden / heads` wide. A scale of the scores must already be in `q`.
    Attention {
        /// `[T, 3 * hidden]`.
        input: Rows,
        /// Number of heads; divides `hidden`.
        heads: u32,
        /// Of what numbers the two products are.
        products: Products,
        /// `[heads, 2 * max_tokens - 1]`, row by row: column `j - i + max_tokens - 1` is added to the score of query `i`
        /// and key `j`.
        relative_bias: Option<Vector>,
        /// `[T, hidden]`, heads side by side.
        output: Rows,
    },
    /// `z[s] = mean(input[t] for the tokens t of sentence s) W^T + bias`, -1e9 for a sentence without tokens: the sentence
    /// logits; and the document logits of them. Always the last step, and never another.
    Head {
        /// `[T, hidden]`.
        input: Rows,
        /// `[labels, hidden]`, of f32 weights.
        linear: Linear,
        /// How the document logits are made.
        document: Document,
    },
}

/// The numbers that an attention multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever runs a program must know every kind of product")]
pub enum Products {
    /// f32 throughout.
    F32,
    /// int8, with scales of their own: each token's query and key of a head, and each dimension of a head's values over all
    /// tokens, are rounded as the rows of [`Step::Linear`] are. The weights are `p = round_half_even(4095 exp(score -
    /// largest))`, and the result is `(f32(sum p v) * (1 / sum p)) * scale of v`.
    Int8,
}

/// What follows a linear layer, before its rows are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "whoever runs a program must know every epilogue")]
pub enum Epilogue {
    /// Nothing.
    None,
    /// The exact GELU, `u / 2 * (1 + erf(u / sqrt(2)))`.
    Gelu,
    /// `LayerNorm(u + residual)`.
    ResidualNorm {
        /// `[T, outputs]`.
        residual: Rows,
        /// Over `outputs`.
        norm: Norm,
    },
}

/// How a head's document logits come about.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "whoever runs a program must know every head")]
pub enum Document {
    /// Sentence evidence: `log(sum over s of exp(z[s])) + bias`, for each label.
    LogSumExp {
        /// `[labels]`.
        bias: Vector,
    },
    /// The head's linear layer over the mean of all tokens that belong to a sentence.
    Mean,
}

/// `(u - mean) / sqrt(variance + epsilon) * weight + bias` over a row, the variance over `n`, not `n - 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the three numbers of a layer normalisation")]
pub struct Norm {
    /// `[n]`.
    pub weight: Vector,
    /// `[n]`.
    pub bias: Vector,
    /// Added to the variance; above zero.
    pub epsilon: f32,
}

/// `f32` values in the weights, padded with zeros to a multiple of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Byte offset in the weights, a multiple of 64.
    pub(crate) offset: u32,
    /// Number of values, without the padding.
    pub(crate) len: u32,
}

/// An embedding table in the weights, row by row; rows are not padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) values: TableValues,
}

/// The numbers of a [`Table`]. Byte offsets in the weights, multiples of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableValues {
    /// `[rows, width]` int8 and one `f32` scale a row.
    I8 { values: u32, scales: Vector },
    /// `[rows, width]` f32.
    F32 { values: u32 },
}

/// A linear layer's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    pub(crate) outputs: u32,
    pub(crate) inputs: u32,
    /// `[outputs]`.
    pub(crate) bias: Vector,
    pub(crate) panels: Panels,
}

/// The matrix of a [`Linear`], in panels of 16 outputs; the last panel is filled up with rows of zeros. Byte offsets in the
/// weights, multiples of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Panels {
    /// `[ceil(outputs / 16)][ceil(inputs / 4)][16 outputs][4 inputs]` int8 in -127..=127, inputs filled up with zeros.
    I8 {
        values: u32,
        /// `[outputs]`.
        scales: Vector,
        /// `i32 [ceil(outputs / 16) * 16]`: sum of each output's weights. A kernel that multiplies unsigned inputs, `q +
        /// 128`, takes 128 times the sum off again.
        sums: u32,
    },
    /// `[ceil(outputs / 16)][inputs][16 outputs]` f32.
    F32 { values: u32 },
}

/// Outputs in a panel of weights, and lanes over which every float reduction is defined.
pub(crate) const LANES: usize = 16;
/// Alignment of the weights, of each of their parts and of the arena, in bytes.
pub(crate) const ALIGNMENT: usize = 64;

impl Program {
    /// Reads a program and copies its weights.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] when the bytes are not a program that can be run.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProgramError> {
        wire::read(bytes, |range| Weights::copied(bytes.get(range).ok_or(ProgramError::Malformed("weights"))?))
    }

    /// Reads a program that is the bytes `range` of `owner`, and leaves the weights where they are if they lie at a
    /// multiple of 64 in memory; otherwise copies them.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] when the bytes are not a program that can be run.
    pub fn parse_shared(
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: core::ops::Range<usize>,
    ) -> Result<Self, ProgramError> {
        let bytes = (*owner).as_ref().get(range.clone()).ok_or(ProgramError::Malformed("length"))?;
        wire::read(bytes, |weights| {
            Weights::shared(owner.clone(), range.start + weights.start..range.start + weights.end)
        })
    }

    /// The stored form: the same program always gives the same bytes. Weights start at a multiple of 64.
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::write(self)
    }

    /// What the program takes and gives.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The steps, first to last.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Bytes that a run writes to: the arena of one thread. All else is only read.
    pub fn memory_required(&self) -> usize {
        self.plan.arena_len()
    }

    /// Multiply-adds of matrix products for a text of `tokens` tokens, or the longest: nearly all of its arithmetic.
    pub fn multiply_adds(&self, tokens: usize) -> u64 {
        let width = |rows: &Rows| u64::from(self.widths.get(rows.index()).copied().unwrap_or_default());
        let tokens = tokens.min(self.shape.max_tokens) as u64;
        // No product overflows: a check has bounded widths, tokens, sentences and labels.
        let of_step = |step: &Step| match step {
            Step::Embed { .. } => 0,
            Step::Linear { linear, .. } => tokens * u64::from(linear.outputs) * u64::from(linear.inputs),
            Step::Attention { output, .. } => 2 * tokens * tokens * width(output),
            Step::Head { linear, .. } => {
                (self.shape.max_sentences as u64 + 1) * u64::from(linear.outputs) * u64::from(linear.inputs)
            }
        };
        self.steps.iter().map(of_step).fold(0, u64::saturating_add)
    }

    /// Bytes of the weights.
    pub fn weights_len(&self) -> usize {
        self.weights.bytes().len()
    }

    /// Whether the weights are used where they were found, and not copied.
    pub fn weights_in_place(&self) -> bool {
        self.weights.in_place()
    }

    /// Whether every linear layer of the encoder has int8 weights.
    pub fn is_int8(&self) -> bool {
        self.steps.iter().all(|step| match step {
            Step::Linear { linear, .. } => matches!(linear.panels, Panels::I8 { .. }),
            _ => true,
        })
    }

    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Checks the parts against each other and plans the buffers.
    fn assemble(shape: Shape, widths: Vec<u32>, steps: Vec<Step>, weights: Weights) -> Result<Self, ProgramError> {
        // The weights are used as they are stored.
        if cfg!(target_endian = "big") {
            return Err(ProgramError::BigEndian);
        }
        check::check(&shape, &widths, &steps, &weights)?;
        let plan = Arc::new(Plan::new(&shape, &widths, &steps)?);
        Ok(Self { shape, widths, steps, weights, plan })
    }
}

/// Shows the shape and the sizes, not the weights.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("shape", &self.shape)
            .field("steps", &self.steps.len())
            .field("weights_len", &self.weights_len())
            .field("memory_required", &self.memory_required())
            .finish_non_exhaustive()
    }
}

impl Rows {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why a program cannot be built or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramError {
    /// The bytes are not a stored program.
    NotAProgram,
    /// The stored program's version, which this build does not read.
    Version(u32),
    /// A part of the stored program does not lie inside it, or has a value that no program has: which part.
    Malformed(&'static str),
    /// Two parts do not fit each other: which.
    Mismatch(&'static str),
    /// A number is beyond what the engine takes: which.
    OutOfRange(&'static str),
    /// The system does not give the memory for the weights.
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Programs run on little-endian processors only.
    BigEndian,
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAProgram => f.write_str("not a stored program; pack the bundle again"),
            Self::Version(version) => write!(
                f,
                "a stored program of version {version}, this build reads versions up to {}; pack the bundle again",
                wire::VERSION
            ),
            Self::Malformed(part) => write!(f, "the stored program's {part} cannot be right; pack the bundle again"),
            Self::Mismatch(parts) => write!(f, "parts of the program do not fit each other: {parts}"),
            Self::OutOfRange(number) => write!(f, "the engine does not take a program with this {number}"),
            Self::OutOfMemory { bytes } => {
                write!(
                    f,
                    "the system does not give {bytes} bytes for the weights; free memory, or map the bundle's file"
                )
            }
            Self::BigEndian => f.write_str("programs run on little-endian processors only"),
        }
    }
}

impl core::error::Error for ProgramError {}
