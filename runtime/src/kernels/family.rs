#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "only kernels with pointers check sizes as a whole")
)]

/// The kernels of one instruction set. A value of it is the proof that the processor has the instructions.
///
/// Every kernel returns `None`, and has written nothing or a part, when a buffer is shorter than its sizes say: an
/// executor that plans its buffers never sees it.
///
/// Rows of floats are padded with zeros to a multiple of 16 values. Kernels compute the padding along, keep it zero, and
/// leave it out of means and variances.
pub(crate) trait Family: Copy {
    /// Rounds each row to int8 in the byte form that this family multiplies, with a scale of its own: `amax = max(max|x|,
    /// 1e-30)`, `q = round_half_even(x * (127 / amax))`, `scale = amax / 127`.
    fn quantize(self, input: Floats<'_>, output: IntegersMut<'_>) -> Option<()>;

    /// Words that [`prepare`](Self::prepare) writes for an int8 layer of this shape.
    fn prepared_len(self, _outputs: usize, _inputs: usize) -> usize {
        0
    }

    /// Finds once, for all runs, what this family wants to know of a layer's weights.
    fn prepare(self, _: &LinearI8<'_>, _: &mut [u64]) -> Option<()> {
        Some(())
    }

    /// `output = (f32(sum q w) * row scale) * scale + bias`, then GELU if asked for. The layer has been prepared by this family.
    fn linear_i8(self, input: Integers<'_>, linear: &LinearI8<'_>, gelu: bool, output: FloatsMut<'_>) -> Option<()>;

    /// `output = fma chain over the inputs, from 0 + bias`, then GELU if asked for.
    fn linear_f32(self, input: Floats<'_>, linear: &LinearF32<'_>, gelu: bool, output: FloatsMut<'_>) -> Option<()>;

    /// `output = (u - mean) * (1 / sqrt(variance + epsilon)) fma weight + bias`, where `u = input + residual`.
    /// The input is overwritten.
    fn norm(
        self,
        input: FloatsMut<'_>,
        residual: Option<Floats<'_>>,
        norm: &NormView<'_>,
        output: FloatsMut<'_>,
    ) -> Option<()>;

    /// One head of an attention: for every query the scores (fma chain over the dimensions; plus bias), their exponentials
    /// `p` after the largest was taken off, and `(fma chain over the keys of p v) * (1 / sum p)`.
    fn attention_f32(self, attention: Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) -> Option<()>;

    /// One head of an attention with integer products. Queries and keys are rounded row by row as [`Family::quantize`] does,
    /// values dimension by dimension. For every query: `score = (f32(sum q k) * query scale) * key scale`, plus bias; `p =
    /// round_half_even(4095 exp(score - largest))`; `output = (f32(sum p v) * (1 / sum p)) * value scale + 0`.
    fn attention_i8(self, attention: Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) -> Option<()>;
}

/// Rows of floats: row `r` is `values[r * stride..][..width]`, padded with zeros to a multiple of 16 where the row's owner
/// has room for it.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

/// Rows of floats to write.
pub(crate) struct FloatsMut<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

/// Rows of int8 in a family's byte form, with a scale each.
#[derive(Clone, Copy)]
pub(crate) struct Integers<'a> {
    pub(crate) values: &'a [u8],
    pub(crate) scales: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

/// Rows of int8 to write.
pub(crate) struct IntegersMut<'a> {
    pub(crate) values: &'a mut [u8],
    pub(crate) scales: &'a mut [f32],
    pub(crate) stride: usize,
}

/// Weights of an int8 linear layer, as a program stores them.
#[derive(Clone, Copy)]
pub(crate) struct LinearI8<'a> {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// `[panels][quads][16][4]`.
    pub(crate) panels: &'a [i8],
    /// `[panels * 16]`, as are the next two.
    pub(crate) scales: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) sums: &'a [i32],
    /// What [`Family::prepare`] wrote; as many words for each panel.
    pub(crate) prepared: &'a [u64],
}

/// Weights of an f32 linear layer, as a program stores them.
pub(crate) struct LinearF32<'a> {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// `[panels][inputs][16]`.
    pub(crate) panels: &'a [f32],
    /// `[panels * 16]`.
    pub(crate) bias: &'a [f32],
}

/// A layer normalisation's weights, padded to a multiple of 16.
pub(crate) struct NormView<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) epsilon: f32,
}

/// One head's queries, keys and values, `[tokens, head]` each, in rows of their common buffer.
pub(crate) struct Attention<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) key: &'a [f32],
    pub(crate) value: &'a [f32],
    pub(crate) tokens: usize,
    pub(crate) head: usize,
    pub(crate) stride: usize,
    /// Added to the score of query `i` and key `j`: entry `j + len / 2 - i` (the middle one for `i == j`).
    pub(crate) bias: Option<&'a [f32]>,
}

impl Floats<'_> {
    /// Whether `width` values of every row are there.
    pub(crate) fn holds(&self, width: usize) -> bool {
        holds(self.values.len(), self.rows, width, self.stride)
    }
}

impl FloatsMut<'_> {
    /// Whether `width` values of every row are there.
    pub(crate) fn holds(&self, width: usize) -> bool {
        holds(self.values.len(), self.rows, width, self.stride)
    }
}

impl Integers<'_> {
    /// Whether `width` bytes and the scale of every row are there.
    pub(crate) fn holds(&self, width: usize) -> bool {
        holds(self.values.len(), self.rows, width, self.stride) && self.scales.len() >= self.rows
    }
}

impl IntegersMut<'_> {
    /// Whether `width` bytes and the scale of `rows` rows are there.
    pub(crate) fn holds(&self, rows: usize, width: usize) -> bool {
        holds(self.values.len(), rows, width, self.stride) && self.scales.len() >= rows
    }
}

impl LinearI8<'_> {
    pub(crate) fn holds(&self) -> bool {
        let padded = self.outputs.next_multiple_of(16);
        self.panels.len() >= padded * self.inputs.next_multiple_of(4)
            && [self.scales.len(), self.bias.len(), self.sums.len()].iter().all(|&len| len >= padded)
    }
}

impl LinearF32<'_> {
    pub(crate) fn holds(&self) -> bool {
        let padded = self.outputs.next_multiple_of(16);
        self.panels.len() >= padded * self.inputs && self.bias.len() >= padded
    }
}

impl Attention<'_> {
    /// Floats of work space: keys by panels of 16, values, scores of a tile of queries.
    pub(crate) fn work_len_f32(tokens: usize, head: usize) -> usize {
        let keys = tokens.next_multiple_of(16);
        keys * (head + head.next_multiple_of(16) + QUERIES)
    }

    /// Floats of work space of the integer form: queries, keys and values as bytes, what goes with each, a panel of keys,
    /// scores and weights of a tile of queries, and their output.
    pub(crate) fn work_len_i8(tokens: usize, head: usize) -> usize {
        let (keys, head) = (tokens.next_multiple_of(64), head.next_multiple_of(16));
        let tokens = tokens.next_multiple_of(16);
        let bytes = tokens * head * 3 + 2 * QUERIES * keys;
        bytes / 4 + 3 * tokens + head + 16 * head + QUERIES * (keys + head)
    }

    /// Whether queries, keys, values, bias and output hold what the sizes say.
    pub(super) fn fits(&self, output: &FloatsMut<'_>) -> bool {
        self.holds() && output.width == self.head && output.rows == self.tokens && output.holds(self.head)
    }

    fn holds(&self) -> bool {
        self.tokens > 0
            && [self.query, self.key, self.value]
                .iter()
                .all(|values| holds(values.len(), self.tokens, self.head, self.stride))
            && self.bias.is_none_or(|bias| bias.len() % 2 == 1 && bias.len() / 2 + 1 >= self.tokens)
    }
}

/// Whether the buffers of [`Family::quantize`] hold what their sizes say.
pub(super) fn quantize_fits(input: &Floats<'_>, output: &IntegersMut<'_>) -> bool {
    let width = input.width.next_multiple_of(16);
    input.holds(width) && output.holds(input.rows, width)
}

/// Whether the buffers of [`Family::linear_i8`] hold what their sizes say, of a layer that is prepared to so many words.
pub(super) fn linear_i8_fits(
    input: &Integers<'_>,
    linear: &LinearI8<'_>,
    prepared: usize,
    output: &FloatsMut<'_>,
) -> bool {
    (linear.inputs == input.width && linear.outputs == output.width && input.rows == output.rows)
        && (input.holds(input.width.next_multiple_of(16)) && linear.holds() && linear.prepared.len() >= prepared)
        && output.holds(output.width.next_multiple_of(16))
}

/// Whether the buffers of [`Family::linear_f32`] hold what their sizes say.
pub(super) fn linear_f32_fits(input: &Floats<'_>, linear: &LinearF32<'_>, output: &FloatsMut<'_>) -> bool {
    (linear.inputs == input.width && linear.outputs == output.width && input.rows == output.rows)
        && (input.holds(input.width) && linear.holds())
        && output.holds(output.width.next_multiple_of(16))
}

/// Whether the buffers of [`Family::norm`] hold what their sizes say.
pub(super) fn norm_fits(
    input: &FloatsMut<'_>,
    residual: Option<&Floats<'_>>,
    norm: &NormView<'_>,
    output: &FloatsMut<'_>,
) -> bool {
    let width = input.width.next_multiple_of(16);
    let residual_fits = residual.is_none_or(|residual| residual.rows >= input.rows && residual.holds(width));
    (input.width > 0 && output.width == input.width && output.rows == input.rows)
        && (input.holds(width) && output.holds(width) && residual_fits)
        && (norm.weight.len() >= width && norm.bias.len() >= width)
}

/// Whether the buffers of [`Family::attention_f32`] hold what their sizes say.
pub(super) fn attention_f32_fits(attention: &Attention<'_>, work: &[f32], output: &FloatsMut<'_>) -> bool {
    let Attention { tokens, head, .. } = *attention;
    work.len() >= Attention::work_len_f32(tokens, head) && attention.fits(output)
}

/// Whether the buffers of [`Family::attention_i8`] hold what their sizes say.
pub(super) fn attention_i8_fits(attention: &Attention<'_>, work: &[f32], output: &FloatsMut<'_>) -> bool {
    let Attention { tokens, head, .. } = *attention;
    work.len() >= Attention::work_len_i8(tokens, head) && attention.fits(output)
}

/// Queries whose scores are held at once.
pub(crate) const QUERIES: usize = 12;

/// Implements [`Family`] with what is written once over lanes and tiles, compiled for the family's instructions where they
/// are not part of the target.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! kernels_of {
    ($family:ident, $lanes:ty $(, $features:literal)?) => {
        const _: () = {
            use crate::kernels::family::{
                self, Attention, Family, Floats, FloatsMut, Integers, IntegersMut, LinearF32, LinearI8, NormView,
            };
            use crate::kernels::{attention, floats, integers};

            impl Family for $family {
                fn quantize(self, input: Floats<'_>, output: IntegersMut<'_>) -> Option<()> {
                    $(#[target_feature(enable = $features)])?
                    unsafe fn compiled(input: Floats<'_>, output: IntegersMut<'_>) {
                        // SAFETY: as this function's.
                        unsafe { floats::quantize::<$lanes>(input, output) }
                    }
                    // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
                    family::quantize_fits(&input, &output).then(|| unsafe { compiled(input, output) })
                }

                fn prepared_len(self, outputs: usize, inputs: usize) -> usize {
                    integers::prepared_len::<$family>(outputs, inputs)
                }

                fn prepare(self, linear: &LinearI8<'_>, to: &mut [u64]) -> Option<()> {
                    $(#[target_feature(enable = $features)])?
                    unsafe fn compiled(linear: &LinearI8<'_>, to: &mut [u64]) {
                        // SAFETY: as this function's.
                        unsafe { integers::prepare::<$family>(linear, to) }
                    }
                    let fits = linear.holds() && to.len() >= self.prepared_len(linear.outputs, linear.inputs);
                    // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
                    fits.then(|| unsafe { compiled(linear, to) })
                }

                fn linear_i8(
                    self,
                    input: Integers<'_>,
                    linear: &LinearI8<'_>,
                    gelu: bool,
                    output: FloatsMut<'_>,
                ) -> Option<()> {
                    $(#[target_feature(enable = $features)])?
                    unsafe fn compiled(input: Integers<'_>, linear: &LinearI8<'_>, gelu: bool, output: FloatsMut<'_>) {
                        // SAFETY: as this function's.
                        unsafe { integers::linear::<$family>(input, linear, gelu, output) }
                    }
                    let prepared = self.prepared_len(linear.outputs, linear.inputs);
                    // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
                    family::linear_i8_fits(&input, linear, prepared, &output)
                        .then(|| unsafe { compiled(input, linear, gelu, output) })
                }

                fn linear_f32(
                    self,
                    input: Floats<'_>,
                    linear: &LinearF32<'_>,
                    gelu: bool,
                    output: FloatsMut<'_>,
                ) -> Option<()> {
                    $(#[target_feature(enable = $features)])?
                    unsafe fn compiled(input: Floats<'_>, linear: &LinearF32<'_>, gelu: bool, output: FloatsMut<'_>) {
                        // SAFETY: as this function's.
                        unsafe { floats::linear::<$lanes>(input, linear, gelu, output) }
                    }
                    // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
                    family::linear_f32_fits(&input, linear, &output)
                        .then(|| unsafe { compiled(input, linear, gelu, output) })
                }

                fn norm(
                    self,
                    input: FloatsMut<'_>,
                    residual: Option<Floats<'_>>,
                    norm: &NormView<'_>,
                    output: FloatsMut<'_>,
                ) -> Option<()> {
                    $(#[target_feature(enable = $features)])?
                    unsafe fn compiled(
                        input: FloatsMut<'_>,
                        residual: Option<Floats<'_>>,
                        norm: &NormView<'_>,
                        output: FloatsMut<'_>,
                    ) {
                        // SAFETY: as this function's.
                        unsafe { floats::norm::<$lanes>(input, residual, norm, output) }
                    }
                    // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
                    family::norm_fits(&input, residual.as_ref(), norm, &output)
                        .then(|| unsafe { compiled(input, residual, norm, output) })
                }

                fn attention_f32(
                    self,
                    attention: Attention<'_>,
                    work: &mut [f32],
                    output: FloatsMut<'_>,
                ) -> Option<()> {
                    $(#[target_feature(enable = $features)])?
                    unsafe fn compiled(attention: &Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) {
                        // SAFETY: as this function's.
                        unsafe { floats::attention::<$lanes>(attention, work, output) }
                    }
                    // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
                    family::attention_f32_fits(&attention, work, &output)
                        .then(|| unsafe { compiled(&attention, work, output) })
                }

                fn attention_i8(self, attention: Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) -> Option<()> {
                    $(#[target_feature(enable = $features)])?
                    unsafe fn compiled(attention: &Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) {
                        // SAFETY: as this function's.
                        unsafe { attention::attention::<$family>(attention, work, output) }
                    }
                    // SAFETY: `self` proves the instructions; the buffers hold what is read and written.
                    family::attention_i8_fits(&attention, work, &output)
                        .then(|| unsafe { compiled(&attention, work, output) })
                }
            }
        };
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use kernels_of;

fn holds(len: usize, rows: usize, width: usize, stride: usize) -> bool {
    rows == 0 || (width <= stride && rows.checked_mul(stride).is_some_and(|all| len >= all - stride + width))
}
