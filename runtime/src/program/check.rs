use core::cell::Cell;

use kdh_format::{MAX_LABELS, MAX_SENTENCES, MAX_TOKENS};

use super::weights::Weights;
use super::{
    ALIGNMENT, Document, Epilogue, LANES, Linear, Norm, Panels, ProgramError, Rows, Shape, Step, Table, TableValues,
    Vector, round_up,
};

/// Widest row of any step. 127 * 255 times this is below 2^31, so that no sum of int8 products overflows.
const MAX_WIDTH: usize = 1 << 15;
/// Most steps of a program: 1,000 layers.
pub(super) const MAX_STEPS: usize = 4096;

/// How often each byte of the weights may be used, on average: layers may share weights, as ALBERT's do, but many steps over
/// the same bytes must not make a small file long to check.
const MAX_SHARING: u64 = 64;

/// Checks that the steps fit each other, the shape and the weights, so that running them only ever reads what is there.
pub(super) fn check(shape: &Shape, widths: &[u32], steps: &[Step], weights: &Weights) -> Result<(), ProgramError> {
    in_range(shape.labels, MAX_LABELS, "number of labels")?;
    in_range(shape.max_sentences, MAX_SENTENCES as usize, "number of sentences")?;
    in_range(shape.max_tokens, MAX_TOKENS as usize, "number of tokens")?;
    in_range(shape.vocabulary, u32::MAX as usize, "vocabulary")?;
    in_range(steps.len(), MAX_STEPS, "number of steps")?;
    let last = steps.len() - 1;
    let mut checker =
        Checker { shape, widths, weights, written: 0, unread: Cell::new(MAX_SHARING * weights.bytes().len() as u64) };
    for (index, step) in steps.iter().enumerate() {
        let (first_step, last_step) = (matches!(step, Step::Embed { .. }), matches!(step, Step::Head { .. }));
        fits((index == 0) == first_step && (index == last) == last_step, "first an embedding, last a head")?;
        checker.step(step)?;
    }
    fits(checker.written == widths.len(), "rows and the steps that write them")
}

struct Checker<'p> {
    shape: &'p Shape,
    widths: &'p [u32],
    weights: &'p Weights,
    /// Rows are numbered in the order in which they are written.
    written: usize,
    /// Bytes of weights that may still be read.
    unread: Cell<u64>,
}

impl Checker<'_> {
    fn step(&mut self, step: &Step) -> Result<(), ProgramError> {
        match *step {
            Step::Embed { words, positions, norm, output } => {
                let width = self.write(output)?;
                fits(words.rows as usize == self.shape.vocabulary, "word embeddings and vocabulary")?;
                fits(positions.rows as usize >= self.shape.max_tokens, "position embeddings and tokens")?;
                fits(words.width as usize == width && positions.width as usize == width, "widths of embeddings")?;
                self.table(words)?;
                self.table(positions)?;
                self.norm(norm, width)
            }
            Step::Linear { input, linear, epilogue, output } => {
                let inputs = self.read(input)?;
                if let Epilogue::ResidualNorm { residual, norm } = epilogue {
                    fits(residual != input, "a residual that is its own linear layer's input")?;
                    fits(self.read(residual)? == linear.outputs as usize, "a residual and its linear layer")?;
                    self.norm(norm, linear.outputs as usize)?;
                }
                let outputs = self.write(output)?;
                fits(
                    linear.inputs as usize == inputs && linear.outputs as usize == outputs,
                    "a linear layer and its rows",
                )?;
                self.linear(linear)
            }
            Step::Attention { input, heads, relative_bias, output, products: _ } => {
                let inputs = self.read(input)?;
                let outputs = self.write(output)?;
                fits(inputs == 3 * outputs, "an attention and its rows")?;
                let heads = heads as usize;
                fits(heads > 0 && outputs.is_multiple_of(heads), "an attention's heads and its rows")?;
                let Some(bias) = relative_bias else { return Ok(()) };
                fits(bias.len as usize == heads * (2 * self.shape.max_tokens - 1), "a relative bias and its heads")?;
                self.vector(bias)
            }
            Step::Head { input, linear, document } => {
                let inputs = self.read(input)?;
                fits(
                    linear.inputs as usize == inputs && linear.outputs as usize == self.shape.labels,
                    "a head and its rows",
                )?;
                fits(matches!(linear.panels, Panels::F32 { .. }), "a head has f32 weights")?;
                self.linear(linear)?;
                let Document::LogSumExp { bias } = document else { return Ok(()) };
                fits(bias.len as usize == self.shape.labels, "a document bias and the labels")?;
                self.vector(bias)
            }
        }
    }

    fn read(&self, rows: Rows) -> Result<usize, ProgramError> {
        fits(rows.index() < self.written, "rows are written before they are read")?;
        self.width(rows)
    }

    fn write(&mut self, rows: Rows) -> Result<usize, ProgramError> {
        fits(rows.index() == self.written, "rows are written once and in order")?;
        self.written += 1;
        self.width(rows)
    }

    fn width(&self, rows: Rows) -> Result<usize, ProgramError> {
        let width = self.widths.get(rows.index()).copied().unwrap_or_default() as usize;
        in_range(width, MAX_WIDTH, "row width")?;
        Ok(width)
    }

    fn norm(&self, norm: Norm, width: usize) -> Result<(), ProgramError> {
        fits(
            norm.weight.len as usize == width && norm.bias.len as usize == width,
            "a layer normalisation and its rows",
        )?;
        if !(norm.epsilon.is_finite() && norm.epsilon > 0.0) {
            return Err(ProgramError::OutOfRange("layer normalisation epsilon"));
        }
        self.vector(norm.weight)?;
        self.vector(norm.bias)
    }

    /// The padding must be zeros: kernels compute whole lanes, and what is past a row must not reach its maximum.
    fn vector(&self, vector: Vector) -> Result<(), ProgramError> {
        self.aligned(vector.offset)?;
        let values = self.weights.vector(vector).ok_or(ProgramError::Malformed("weights"))?;
        self.read_once(size_of_val(values))?;
        let padding = values.get(vector.len as usize..).unwrap_or_default();
        fits(padding.iter().all(|value| value.to_bits() == 0), "padding of zeros")
    }

    fn table(&self, table: Table) -> Result<(), ProgramError> {
        let len = (table.rows as usize).checked_mul(table.width as usize).ok_or(ProgramError::Malformed("weights"))?;
        match table.values {
            TableValues::I8 { values, scales } => {
                fits(scales.len == table.rows, "an int8 table and its scales")?;
                self.vector(scales)?;
                self.view::<i8>(values, len).map(drop)
            }
            TableValues::F32 { values } => self.view::<f32>(values, len).map(drop),
        }
    }

    fn linear(&self, linear: Linear) -> Result<(), ProgramError> {
        let (outputs, inputs) = (linear.outputs as usize, linear.inputs as usize);
        in_range(outputs, MAX_WIDTH, "row width")?;
        in_range(inputs, MAX_WIDTH, "row width")?;
        let panels = outputs.div_ceil(LANES);
        fits(linear.bias.len as usize == outputs, "a linear layer and its bias")?;
        self.vector(linear.bias)?;
        match linear.panels {
            Panels::I8 { values, scales, sums } => {
                fits(scales.len as usize == outputs, "a linear layer and its scales")?;
                self.vector(scales)?;
                self.view::<i32>(sums, panels * LANES)?;
                let values = self.view::<i8>(values, panels * LANES * round_up(inputs, 4))?;
                // The kernels without a dot product of their own move the input's sign to the weight.
                if values.contains(&i8::MIN) {
                    return Err(ProgramError::OutOfRange("int8 weight (-128)"));
                }
                let panel = LANES * round_up(inputs, 4);
                let last_quads = values.chunks_exact(panel).filter_map(|panel| panel.last_chunk::<{ 4 * LANES }>());
                let used = inputs - (round_up(inputs, 4) - 4);
                let zeros =
                    last_quads.flat_map(|quads| quads.chunks_exact(4)).all(|quad| quad[used..].iter().all(|&w| w == 0));
                fits(zeros, "padding of zeros")
            }
            Panels::F32 { values } => {
                let values = self.view::<f32>(values, panels * LANES * inputs)?;
                let last = values.chunks_exact(LANES * inputs).next_back().unwrap_or_default();
                let used = outputs - (panels - 1) * LANES;
                let zeros = last.chunks_exact(LANES).all(|lanes| lanes[used..].iter().all(|w| w.to_bits() == 0));
                fits(zeros, "padding of zeros")
            }
        }
    }

    fn view<T: bytemuck::AnyBitPattern>(&self, offset: u32, len: usize) -> Result<&[T], ProgramError> {
        self.aligned(offset)?;
        let values = self.weights.view(offset, len).ok_or(ProgramError::Malformed("weights"))?;
        self.read_once(size_of_val(values))?;
        Ok(values)
    }

    fn read_once(&self, bytes: usize) -> Result<(), ProgramError> {
        let unread =
            self.unread.get().checked_sub(bytes as u64).ok_or(ProgramError::OutOfRange("sharing of weights"))?;
        self.unread.set(unread);
        Ok(())
    }

    fn aligned(&self, offset: u32) -> Result<(), ProgramError> {
        if (offset as usize).is_multiple_of(ALIGNMENT) { Ok(()) } else { Err(ProgramError::Malformed("offsets")) }
    }
}

fn in_range(value: usize, most: usize, name: &'static str) -> Result<(), ProgramError> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(ProgramError::OutOfRange(name)) }
}

fn fits(condition: bool, parts: &'static str) -> Result<(), ProgramError> {
    if condition { Ok(()) } else { Err(ProgramError::Mismatch(parts)) }
}
