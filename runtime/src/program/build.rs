use super::weights::Weights;
use super::{
    ALIGNMENT, Document, Epilogue, LANES, Linear, Norm, Panels, Products, Program, ProgramError, Rows, Shape, Step,
    Table, TableValues, Vector, round_up,
};

/// Packs weights and strings steps together.
///
/// ```
/// use kdh_runtime::program::{Document, Epilogue, ProgramBuilder, Shape};
///
/// # fn main() -> Result<(), kdh_runtime::program::ProgramError> {
/// let mut builder = ProgramBuilder::new(Shape { labels: 1, max_sentences: 4, max_tokens: 8, vocabulary: 5 });
/// let words = builder.table_f32(5, 2, &[0.5; 10])?;
/// let positions = builder.table_i8(8, 2, &[1; 16], &[0.1; 8])?;
/// let norm = builder.norm(&[1.0; 2], &[0.0; 2], 1e-12)?;
/// let states = builder.embed(words, positions, norm);
/// let linear = builder.linear_i8(2, 2, &[1, 2, 3, 4], &[0.1; 2], &[0.0; 2])?;
/// let states = builder.linear(states, linear, Epilogue::Gelu);
/// let head = builder.linear_f32(1, 2, &[1.0, 2.0], &[0.0])?;
/// builder.head(states, head, Document::Mean);
/// let program = builder.finish()?;
/// assert_eq!(program.steps().len(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ProgramBuilder {
    shape: Shape,
    widths: Vec<u32>,
    steps: Vec<Step>,
    weights: Vec<u8>,
}

impl ProgramBuilder {
    /// A program without steps.
    pub fn new(shape: Shape) -> Self {
        Self { shape, widths: Vec::new(), steps: Vec::new(), weights: Vec::new() }
    }

    /// Stores an int8 embedding table: row `r` is `values[r] * scales[r]`.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Mismatch`] unless `values` is `[rows, width]` and `scales` is `[rows]`;
    /// [`ProgramError::OutOfRange`] when the weights are too large.
    pub fn table_i8(
        &mut self,
        rows: usize,
        width: usize,
        values: &[i8],
        scales: &[f32],
    ) -> Result<Table, ProgramError> {
        fits(rows.checked_mul(width) == Some(values.len()) && scales.len() == rows, "an int8 table and its shape")?;
        let values =
            TableValues::I8 { values: self.store(bytemuck::cast_slice(values))?, scales: self.vector(scales)? };
        Ok(Table { rows: number(rows)?, width: number(width)?, values })
    }

    /// Stores an f32 embedding table.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Mismatch`] unless `values` is `[rows, width]`; [`ProgramError::OutOfRange`] when the weights are too
    /// large.
    pub fn table_f32(&mut self, rows: usize, width: usize, values: &[f32]) -> Result<Table, ProgramError> {
        fits(rows.checked_mul(width) == Some(values.len()), "an f32 table and its shape")?;
        let values = TableValues::F32 { values: self.store_f32(values)? };
        Ok(Table { rows: number(rows)?, width: number(width)?, values })
    }

    /// Stores a linear layer's int8 weights `[outputs, inputs]`: row `o` is `weights[o] * scales[o]`.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Mismatch`] unless the slices have the lengths that `outputs` and `inputs` say;
    /// [`ProgramError::OutOfRange`] when a weight is -128 or the weights are too large.
    pub fn linear_i8(
        &mut self,
        outputs: usize,
        inputs: usize,
        weights: &[i8],
        scales: &[f32],
        bias: &[f32],
    ) -> Result<Linear, ProgramError> {
        let lens =
            outputs.checked_mul(inputs) == Some(weights.len()) && scales.len() == outputs && bias.len() == outputs;
        fits(lens && inputs > 0, "an int8 linear layer and its shape")?;
        if weights.contains(&i8::MIN) {
            return Err(ProgramError::OutOfRange("int8 weight (-128)"));
        }
        let quads = inputs.div_ceil(4);
        let mut panels = vec![0_i8; round_up(outputs, LANES) * quads * 4];
        let mut sums = vec![0_i32; round_up(outputs, LANES)];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            let (panel, lane) = (output / LANES, output % LANES);
            for (input, &weight) in row.iter().enumerate() {
                panels[((panel * quads + input / 4) * LANES + lane) * 4 + input % 4] = weight;
                sums[output] += i32::from(weight);
            }
        }
        let values = self.store(bytemuck::cast_slice(&panels))?;
        let sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let panels = Panels::I8 { values, scales: self.vector(scales)?, sums: self.store(&sums)? };
        Ok(Linear { outputs: number(outputs)?, inputs: number(inputs)?, bias: self.vector(bias)?, panels })
    }

    /// Stores a linear layer's f32 weights `[outputs, inputs]`.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Mismatch`] unless the slices have the lengths that `outputs` and `inputs` say;
    /// [`ProgramError::OutOfRange`] when the weights are too large.
    pub fn linear_f32(
        &mut self,
        outputs: usize,
        inputs: usize,
        weights: &[f32],
        bias: &[f32],
    ) -> Result<Linear, ProgramError> {
        let lens = outputs.checked_mul(inputs) == Some(weights.len()) && bias.len() == outputs;
        fits(lens && inputs > 0, "an f32 linear layer and its shape")?;
        let mut panels = vec![0.0; round_up(outputs, LANES) * inputs];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            let (panel, lane) = (output / LANES, output % LANES);
            for (input, &weight) in row.iter().enumerate() {
                panels[(panel * inputs + input) * LANES + lane] = weight;
            }
        }
        let panels = Panels::F32 { values: self.store_f32(&panels)? };
        Ok(Linear { outputs: number(outputs)?, inputs: number(inputs)?, bias: self.vector(bias)?, panels })
    }

    /// Stores a layer normalisation's weight and bias.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Mismatch`] when they have different lengths; [`ProgramError::OutOfRange`] when the weights are too
    /// large.
    pub fn norm(&mut self, weight: &[f32], bias: &[f32], epsilon: f32) -> Result<Norm, ProgramError> {
        fits(weight.len() == bias.len(), "weight and bias of a layer normalisation")?;
        Ok(Norm { weight: self.vector(weight)?, bias: self.vector(bias)?, epsilon })
    }

    /// Stores values as they are: a relative bias, a document bias.
    ///
    /// # Errors
    ///
    /// [`ProgramError::OutOfRange`] when the weights are too large.
    pub fn vector(&mut self, values: &[f32]) -> Result<Vector, ProgramError> {
        let offset = self.store_f32(values)?;
        self.weights.resize(offset as usize + 4 * round_up(values.len(), LANES), 0);
        Ok(Vector { offset, len: number(values.len())? })
    }

    /// Adds [`Step::Embed`].
    pub fn embed(&mut self, words: Table, positions: Table, norm: Norm) -> Rows {
        let output = self.rows(words.width);
        self.steps.push(Step::Embed { words, positions, norm, output });
        output
    }

    /// Adds [`Step::Linear`].
    pub fn linear(&mut self, input: Rows, linear: Linear, epilogue: Epilogue) -> Rows {
        let output = self.rows(linear.outputs);
        self.steps.push(Step::Linear { input, linear, epilogue, output });
        output
    }

    /// Adds [`Step::Attention`].
    pub fn attention(&mut self, input: Rows, heads: usize, products: Products, relative_bias: Option<Vector>) -> Rows {
        let width = self.widths.get(input.index()).map_or(0, |width| width / 3);
        let output = self.rows(width);
        // A number of heads beyond `u32` divides no width, so that the check of the whole refuses it.
        self.steps.push(Step::Attention {
            input,
            heads: u32::try_from(heads).unwrap_or(u32::MAX),
            products,
            relative_bias,
            output,
        });
        output
    }

    /// Adds [`Step::Head`], the last one.
    pub fn head(&mut self, input: Rows, linear: Linear, document: Document) {
        self.steps.push(Step::Head { input, linear, document });
    }

    /// Checks that the steps fit each other and plans their buffers.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] says what does not fit.
    pub fn finish(self) -> Result<Program, ProgramError> {
        Program::assemble(self.shape, self.widths, self.steps, Weights::copied(&self.weights)?)
    }

    /// The weights alone, for tests of what multiplies them.
    #[cfg(test)]
    pub(crate) fn into_weights(self) -> Weights {
        Weights::copied(&self.weights).unwrap()
    }

    fn rows(&mut self, width: u32) -> Rows {
        self.widths.push(width);
        Rows(self.widths.len() as u32 - 1)
    }

    fn store_f32(&mut self, values: &[f32]) -> Result<u32, ProgramError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.store(&bytes)
    }

    /// Stores bytes at the next multiple of 64.
    fn store(&mut self, bytes: &[u8]) -> Result<u32, ProgramError> {
        let offset = round_up(self.weights.len(), ALIGNMENT);
        // The last part may be padded by less than one alignment.
        number(offset.saturating_add(bytes.len()).saturating_add(ALIGNMENT))?;
        self.weights.resize(offset, 0);
        self.weights.extend_from_slice(bytes);
        number(offset)
    }
}

fn fits(condition: bool, parts: &'static str) -> Result<(), ProgramError> {
    if condition { Ok(()) } else { Err(ProgramError::Mismatch(parts)) }
}

fn number(value: usize) -> Result<u32, ProgramError> {
    u32::try_from(value).map_err(|_| ProgramError::OutOfRange("size of weights"))
}
