//! The reference: what every kernel computes, in plain Rust.

use super::approximation::{exp, gelu as gelu_of};
use super::family::{Attention, Family, Floats, FloatsMut, Integers, IntegersMut, LinearF32, LinearI8, NormView};

/// Kernels for every processor. Inputs are multiplied as signed bytes.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Family for Portable {
    fn quantize(self, input: Floats<'_>, output: IntegersMut<'_>) -> Option<()> {
        let width = input.width.next_multiple_of(LANES);
        for row in 0..input.rows {
            let from = row_of(input.values, row, input.stride, width)?;
            let to = row_of_mut(output.values, row, output.stride, width)?;
            let largest = from.iter().fold(TINY, |largest: f32, value| largest.max(value.abs()));
            let inverse = 127.0 / largest;
            for (to, value) in to.iter_mut().zip(from) {
                // The cast keeps the bits of the two's complement.
                *to = (value * inverse).round_ties_even() as i8 as u8;
            }
            *output.scales.get_mut(row)? = largest / 127.0;
        }
        Some(())
    }

    fn linear_i8(self, input: Integers<'_>, linear: &LinearI8<'_>, gelu: bool, output: FloatsMut<'_>) -> Option<()> {
        let inputs = linear.inputs.next_multiple_of(4);
        let panels = linear.outputs.div_ceil(LANES);
        (linear.inputs == input.width && linear.outputs == output.width && input.rows == output.rows).then_some(())?;
        for row in 0..input.rows {
            let from = row_of(input.values, row, input.stride, inputs)?;
            let by_row = *input.scales.get(row)?;
            let to = row_of_mut(output.values, row, output.stride, panels * LANES)?;
            for (panel, to) in to.chunks_exact_mut(LANES).enumerate() {
                let weights = row_of(linear.panels, panel, inputs * LANES, inputs * LANES)?;
                let mut sums = [0_i32; LANES];
                for (from, weights) in from.chunks_exact(4).zip(weights.chunks_exact(4 * LANES)) {
                    for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(4)) {
                        for (&from, &weight) in from.iter().zip(weights) {
                            *sum += i32::from(from as i8) * i32::from(weight);
                        }
                    }
                }
                let scales = row_of(linear.scales, panel, LANES, LANES)?;
                let bias = row_of(linear.bias, panel, LANES, LANES)?;
                for (((to, sum), scale), bias) in to.iter_mut().zip(sums).zip(scales).zip(bias) {
                    *to = (sum as f32 * by_row) * scale + bias;
                    if gelu {
                        *to = gelu_of(*to);
                    }
                }
            }
        }
        Some(())
    }

    fn linear_f32(self, input: Floats<'_>, linear: &LinearF32<'_>, gelu: bool, output: FloatsMut<'_>) -> Option<()> {
        let panels = linear.outputs.div_ceil(LANES);
        (linear.inputs == input.width && linear.outputs == output.width && input.rows == output.rows).then_some(())?;
        for row in 0..input.rows {
            let from = row_of(input.values, row, input.stride, linear.inputs)?;
            let to = row_of_mut(output.values, row, output.stride, panels * LANES)?;
            for (panel, to) in to.chunks_exact_mut(LANES).enumerate() {
                let weights = row_of(linear.panels, panel, linear.inputs * LANES, linear.inputs * LANES)?;
                let mut sums = [0.0_f32; LANES];
                for (from, weights) in from.iter().zip(weights.chunks_exact(LANES)) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = from.mul_add(*weight, *sum);
                    }
                }
                let bias = row_of(linear.bias, panel, LANES, LANES)?;
                for ((to, sum), bias) in to.iter_mut().zip(sums).zip(bias) {
                    *to = sum + bias;
                    if gelu {
                        *to = gelu_of(*to);
                    }
                }
            }
        }
        Some(())
    }

    fn norm(
        self,
        input: FloatsMut<'_>,
        residual: Option<Floats<'_>>,
        norm: &NormView<'_>,
        output: FloatsMut<'_>,
    ) -> Option<()> {
        let (count, width) = (input.width as f32, input.width.next_multiple_of(LANES));
        let (weight, bias) = (norm.weight.get(..width)?, norm.bias.get(..width)?);
        (output.width == input.width && output.rows == input.rows).then_some(())?;
        for row in 0..input.rows {
            let from = row_of_mut(input.values, row, input.stride, width)?;
            if let Some(residual) = residual {
                let other = row_of(residual.values, row, residual.stride, width)?;
                from.iter_mut().zip(other).for_each(|(value, other)| *value += other);
            }
            let mean = sum(from, |value, sum| sum + value) / count;
            let variance =
                sum(from.get(..input.width)?, |value, sum| (value - mean).mul_add(value - mean, sum)) / count;
            let inverse = 1.0 / (variance + norm.epsilon).sqrt();
            let to = row_of_mut(output.values, row, output.stride, width)?;
            for (((to, value), weight), bias) in to.iter_mut().zip(from).zip(weight).zip(bias) {
                *to = ((*value - mean) * inverse).mul_add(*weight, *bias);
            }
        }
        Some(())
    }

    fn attention_f32(self, attention: Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) -> Option<()> {
        let Attention { tokens, head, stride, .. } = attention;
        attention.fits(&output).then_some(())?;
        let scores = work.get_mut(..tokens)?;
        for row in 0..tokens {
            let query = row_of(attention.query, row, stride, head)?;
            for (token, score) in scores.iter_mut().enumerate() {
                let key = row_of(attention.key, token, stride, head)?;
                *score = query.iter().zip(key).fold(0.0, |sum, (query, key)| query.mul_add(*key, sum));
            }
            if let Some(bias) = attention.bias {
                let bias = bias.get((bias.len() / 2).checked_sub(row)?..)?;
                scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
            let largest = scores.iter().fold(f32::MIN, |largest, &score| largest.max(score));
            scores.iter_mut().for_each(|score| *score = exp(*score - largest));
            let inverse = 1.0 / sum(scores, |value, sum| sum + value);
            let to = row_of_mut(output.values, row, output.stride, head)?;
            to.fill(0.0);
            for (token, score) in scores.iter().enumerate() {
                let value = row_of(attention.value, token, stride, head)?;
                to.iter_mut().zip(value).for_each(|(to, value)| *to = score.mul_add(*value, *to));
            }
            to.iter_mut().for_each(|value| *value *= inverse);
        }
        Some(())
    }

    fn attention_i8(self, attention: Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) -> Option<()> {
        let Attention { tokens, head, stride, .. } = attention;
        attention.fits(&output).then_some(())?;
        let (keys, work) = split_bytes(work, tokens * head)?;
        let (values, work) = split_bytes(work, tokens * head)?;
        let (query, work) = split_bytes(work, head)?;
        let (key_scales, work) = work.split_at_mut_checked(tokens)?;
        let (value_scales, work) = work.split_at_mut_checked(head)?;
        let weights = work.get_mut(..tokens)?;
        for (token, (to, scale)) in keys.chunks_exact_mut(head).zip(&mut *key_scales).enumerate() {
            *scale = round_to(row_of(attention.key, token, stride, head)?.iter(), to.iter_mut());
        }
        for (dimension, scale) in value_scales.iter_mut().enumerate() {
            let column = attention.value.get(dimension..)?.iter().step_by(stride).take(tokens);
            *scale = round_to(column, values.get_mut(dimension..)?.iter_mut().step_by(head));
        }
        for row in 0..tokens {
            let query_scale = round_to(row_of(attention.query, row, stride, head)?.iter(), query.iter_mut());
            for ((weight, key), scale) in weights.iter_mut().zip(keys.chunks_exact(head)).zip(&*key_scales) {
                let sum: i32 = query.iter().zip(key).map(|(&query, &key)| i32::from(query) * i32::from(key)).sum();
                *weight = (sum as f32 * query_scale) * scale;
            }
            if let Some(bias) = attention.bias {
                let bias = bias.get((bias.len() / 2).checked_sub(row)?..)?;
                weights.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
            let largest = weights.iter().fold(f32::MIN, |largest, &score| largest.max(score));
            weights.iter_mut().for_each(|score| *score = (exp(*score - largest) * 4095.0).round_ties_even());
            let inverse = 1.0 / weights.iter().sum::<f32>();
            let to = row_of_mut(output.values, row, output.stride, head)?;
            for ((dimension, to), scale) in to.iter_mut().enumerate().zip(&*value_scales) {
                let column = values.get(dimension..)?.iter().step_by(head);
                let sum: i32 =
                    weights.iter().zip(column).map(|(&weight, &value)| weight as i32 * i32::from(value)).sum();
                // Adding 0 leaves no negative one.
                *to = (sum as f32 * inverse) * scale + 0.0;
            }
        }
        Some(())
    }
}

/// Lower bound of a largest magnitude, so that zeros have a finite inverse scale.
const TINY: f32 = 1e-30;

/// Rounds values to int8 and gives their scale.
fn round_to<'a>(from: impl Iterator<Item = &'a f32> + Clone, to: impl Iterator<Item = &'a mut i8>) -> f32 {
    let largest = from.clone().fold(TINY, |largest, value| largest.max(value.abs()));
    let inverse = 127.0 / largest;
    to.zip(from).for_each(|(to, value)| *to = (value * inverse).round_ties_even() as i8);
    largest / 127.0
}

/// The first floats of a work space as `len` bytes, and the floats after them.
fn split_bytes(work: &mut [f32], len: usize) -> Option<(&mut [i8], &mut [f32])> {
    let (bytes, rest) = work.split_at_mut_checked(len.div_ceil(4))?;
    Some((bytemuck::cast_slice_mut(bytes).get_mut(..len)?, rest))
}

const LANES: usize = 16;

/// Folds element `i` into lane `i % 16`, in ascending order, and adds the lanes: 8 apart, then 4, 2 and 1 apart.
fn sum(values: &[f32], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for values in values.chunks(LANES) {
        lanes.iter_mut().zip(values).for_each(|(lane, &value)| *lane = fold(value, *lane));
    }
    for apart in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(apart);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
    }
    lanes[0]
}

fn row_of<T>(values: &[T], row: usize, stride: usize, width: usize) -> Option<&[T]> {
    values.get(row.checked_mul(stride)?..)?.get(..width)
}

fn row_of_mut<T>(values: &mut [T], row: usize, stride: usize, width: usize) -> Option<&mut [T]> {
    values.get_mut(row.checked_mul(stride)?..)?.get_mut(..width)
}
