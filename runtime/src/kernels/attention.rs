//! Attention with integer products, written once over the tiles of an instruction set.
//!
//! # Safety
//!
//! As that of `floats`.

#![expect(unsafe_code, reason = "instructions of one processor family, behind `IntegerTiles`")]
#![allow(clippy::needless_range_loop, reason = "rows number registers and memory alike")]

use super::approximation::MAGIC;
use super::family::{Attention, FloatsMut, QUERIES};
use super::floats::{TINY, add, exp_of, largest, tiles, transpose_panel};
use super::integers::{IntegerTile, IntegerTiles};
use super::lanes::Lanes;

#[inline(always)]
pub(super) unsafe fn attention<T: IntegerTiles>(attention: &Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) {
    let Attention { tokens, head, stride, .. } = *attention;
    let (keys, padded) = (tokens.next_multiple_of(16), head.next_multiple_of(16));
    let (columns, quads) = (tokens.next_multiple_of(64), tokens.div_ceil(4));
    // SAFETY: the work space has `Attention::work_len_i8` floats, queries, keys, values, bias and output what their sizes say.
    unsafe {
        let space = Space::of(work, tokens, head);
        round_rows::<T::Lanes>(attention.query.as_ptr(), stride, tokens, head, space.queries, space.query_scales);
        pack_keys::<T>(attention, &space);
        pack_values::<T::Lanes>(attention, &space);

        // Heads lie side by side in the output: where one ends inside a register, it is copied.
        let direct = head == padded;
        for (first, rows) in tiles(tokens, T::ROWS) {
            let tile = IntegerTile {
                left: space.queries.add(first * padded),
                left_stride: padded,
                planes: 1,
                plane: 0,
                row_scales: space.query_scales.add(first),
                right: space.keys,
                panel: 16 * padded,
                quads: head.div_ceil(4),
                start: space.key_starts,
                scales: space.key_scales,
                bias: ZEROS.as_ptr(),
                to: space.scores,
                to_stride: columns,
                prepared: &[],
            };
            T::multiply_shallow(&tile, rows, keys / 16);
            if let Some(bias) = attention.bias {
                for row in 0..rows {
                    // Column `j - i` from the middle on.
                    add::<T::Lanes>(
                        space.scores.add(row * columns),
                        bias.as_ptr().add(bias.len() / 2 - first - row),
                        tokens,
                    );
                }
            }
            let inverses = softmax::<T::Lanes>(space.scores, space.weights, columns, rows, tokens);
            let own = output.values.as_mut_ptr().add(first * output.stride);
            let (to, to_stride) = if direct { (own, output.stride) } else { (space.context, padded) };
            for panel in (0..padded / 16).step_by(T::PANELS) {
                let tile = IntegerTile {
                    left: space.weights,
                    left_stride: 2 * columns,
                    planes: 2,
                    plane: columns,
                    row_scales: inverses.as_ptr(),
                    right: space.values.add(panel * 16 * keys),
                    panel: 16 * keys,
                    quads,
                    start: NO_START.as_ptr(),
                    scales: space.value_scales.add(panel * 16),
                    bias: ZEROS.as_ptr(),
                    to: to.add(panel * 16),
                    to_stride,
                    prepared: &[],
                };
                T::multiply(&tile, rows, T::PANELS.min(padded / 16 - panel));
            }
            if !direct {
                for row in 0..rows {
                    let from = space.context.add(row * padded);
                    core::ptr::copy_nonoverlapping(from, own.add(row * output.stride), head);
                }
            }
        }
    }
}

static ZEROS: [f32; 32] = [0.0; 32];
static NO_START: [i32; 32] = [0; 32];

/// The parts of the work space.
struct Space {
    /// `[tokens][padded head]`, in the byte form that the family multiplies.
    queries: *mut u8,
    query_scales: *mut f32,
    /// Panels of 16 keys, `[quads of dimensions][16][4]`, `16 * padded head` bytes apart.
    keys: *mut i8,
    key_scales: *mut f32,
    key_starts: *mut i32,
    /// A panel of keys before it is rounded, `[padded head][16]`.
    panel: *mut f32,
    /// Panels of 16 dimensions, `[quads of tokens][16][4]`, `16 * padded tokens` bytes apart. Of `n` quads, number `i` has the
    /// tokens `i`, `i + n`, `i + 2 n` and `i + 3 n`: sixteen lanes of four registers are sixteen quads.
    values: *mut i8,
    value_scales: *mut f32,
    /// `[QUERIES][columns]`, `columns` the tokens rounded up to a multiple of 64.
    scores: *mut f32,
    /// `[QUERIES][2][columns]`: upper and lower six bits, in quads as the values.
    weights: *mut u8,
    /// `[QUERIES][padded head]`.
    context: *mut f32,
}

impl Space {
    #[inline(always)]
    unsafe fn of(work: &mut [f32], tokens: usize, head: usize) -> Self {
        let (columns, head) = (tokens.next_multiple_of(64), head.next_multiple_of(16));
        let tokens = tokens.next_multiple_of(16);
        let mut next = work.as_mut_ptr();
        // SAFETY: the lengths add up to `Attention::work_len_i8`.
        let mut take = |floats: usize| unsafe {
            let start = next;
            next = next.add(floats);
            start
        };
        let [query_scales, key_scales, key_starts] = [take(tokens), take(tokens), take(tokens)];
        let value_scales = take(head);
        let [queries, keys, values] = [take(tokens * head / 4), take(tokens * head / 4), take(tokens * head / 4)];
        Self {
            queries: queries.cast(),
            query_scales,
            keys: keys.cast(),
            key_scales,
            key_starts: key_starts.cast(),
            panel: take(16 * head),
            values: values.cast(),
            value_scales,
            scores: take(QUERIES * columns),
            weights: take(QUERIES * columns / 2).cast(),
            context: take(QUERIES * head),
        }
    }
}

/// Sixteen of the `width` values from `from`, beginning with value `at`, and zeros after the last.
#[inline(always)]
unsafe fn part<V: Lanes>(from: *const f32, at: usize, width: usize) -> V {
    // SAFETY: the caller vouches for `width` values.
    unsafe { if at + 16 <= width { V::load(from.add(at)) } else { V::load_first(from.add(at), width - at) } }
}

/// Rounds `width` values of each row as `floats::quantize` does; the result is padded with zeros to a multiple of 16. `scales`
/// has room for a multiple of 16 rows.
#[inline(always)]
unsafe fn round_rows<V: Lanes>(
    from: *const f32,
    stride: usize,
    rows: usize,
    width: usize,
    to: *mut u8,
    scales: *mut f32,
) {
    let padded = width.next_multiple_of(16);
    for group in (0..rows).step_by(16) {
        // SAFETY: `from`, `to` and `scales` hold the rows.
        unsafe {
            let rows = 16.min(rows - group);
            let mut lanes = [V::splat(0.0); 16];
            for row in 0..rows {
                let from = from.add((group + row) * stride);
                for at in (0..width).step_by(16) {
                    lanes[row] = part::<V>(from, at, width).abs().max(lanes[row]);
                }
            }
            let inverses = scale_of(V::largest_of_each(&lanes), scales.add(group));
            for row in 0..rows {
                let (from, to) = (from.add((group + row) * stride), to.add((group + row) * padded));
                let inverse = V::splat(inverses[row]);
                for at in (0..width).step_by(16) {
                    part::<V>(from, at, width).mul(inverse).store_integers(to.add(at));
                }
            }
        }
    }
}

/// Stores what an integer stands for, sixteen times, and gives what a value is multiplied with before it is rounded.
#[inline(always)]
unsafe fn scale_of<V: Lanes>(largest: V, scales: *mut f32) -> [f32; 16] {
    let mut inverses = [0.0; 16];
    // SAFETY: the caller vouches for 16 scales.
    unsafe {
        let (amax, most) = (largest.max(V::splat(TINY)), V::splat(127.0));
        amax.div(most).store(scales);
        most.div(amax).store(inverses.as_mut_ptr());
    }
    inverses
}

#[inline(always)]
unsafe fn pack_keys<T: IntegerTiles>(attention: &Attention<'_>, space: &Space) {
    let Attention { key, tokens, head, stride, .. } = *attention;
    let (quads, padded) = (head.div_ceil(4), head.next_multiple_of(16));
    for first in (0..tokens).step_by(16) {
        // SAFETY: keys and work space hold the panel.
        unsafe {
            let from = key.as_ptr().add(first * stride);
            transpose_panel::<T::Lanes>(from, stride, 16.min(tokens - first), head, space.panel);
            let zero = T::Lanes::splat(0.0);
            let mut lanes = zero;
            for dimension in 0..head {
                lanes = T::Lanes::load(space.panel.add(dimension * 16)).abs().max(lanes);
            }
            let inverse = scale_of(lanes, space.key_scales.add(first));
            let inverse = T::Lanes::load(inverse.as_ptr());
            let panel = space.keys.add(first * padded);
            for quad in 0..quads {
                let mut rows = [zero; 4];
                for row in 0..4.min(head - quad * 4) {
                    rows[row] = T::Lanes::load(space.panel.add((quad * 4 + row) * 16)).mul(inverse);
                }
                T::Lanes::store_quads(rows, panel.add(quad * 64));
            }
            T::starts(panel, quads, space.key_starts.add(first));
        }
    }
}

#[inline(always)]
unsafe fn pack_values<V: Lanes>(attention: &Attention<'_>, space: &Space) {
    let Attention { value, tokens, head, stride, .. } = *attention;
    let (keys, quads) = (tokens.next_multiple_of(16), tokens.div_ceil(4));
    for first in (0..head).step_by(16) {
        // SAFETY: values and work space hold the panel.
        unsafe {
            let mut lanes = V::splat(0.0);
            for token in 0..tokens {
                lanes = part::<V>(value.as_ptr().add(token * stride), first, head).abs().max(lanes);
            }
            let inverse = scale_of(lanes, space.value_scales.add(first));
            let inverse = V::load(inverse.as_ptr());
            let panel = space.values.add(first * keys);
            for quad in 0..quads {
                let mut rows = [V::splat(0.0); 4];
                for row in 0..4 {
                    let token = quad + row * quads;
                    if token < tokens {
                        rows[row] = part::<V>(value.as_ptr().add(token * stride), first, head).mul(inverse);
                    }
                }
                V::store_quads(rows, panel.add(quad * 64));
            }
        }
    }
}

/// Rounds 4095 times the exponential of each row's first `count` scores, after the largest was taken off, and gives the inverses
/// of the rows' sums. The weights go into quads, as the values do.
#[inline(always)]
unsafe fn softmax<V: Lanes>(
    scores: *const f32,
    weights: *mut u8,
    stride: usize,
    rows: usize,
    count: usize,
) -> [f32; QUERIES] {
    let quads = count.div_ceil(4);
    // The last of the four tokens is there as far as this quad.
    let whole = count.saturating_sub(3 * quads) / 16 * 16;
    // SAFETY: scores and weights of each row are padded to `stride`, a multiple of 64.
    unsafe {
        // As many sums of weights and `MAGIC` as there are, less all but one `MAGIC`.
        let less = (1 - 4 * quads.div_ceil(16) as i32).wrapping_mul(MAGIC.to_bits() as i32);
        let start = V::load([less; 16].as_ptr().cast());
        // One thing after the other for all rows, so that no row waits for its own reduction.
        let largest = largest::<V>(scores, stride, rows, count);
        let mut sums = [start; QUERIES];
        for row in 0..rows.min(QUERIES) {
            let (scores, upper) = (scores.add(row * stride), weights.add(2 * row * stride));
            let lower = upper.add(stride);
            let mut sum = start;
            let mut at = 0;
            while at < whole {
                let p = weights_of(scores.add(at), quads, largest[row]);
                V::store_weights(p, upper.add(at * 4), lower.add(at * 4));
                sum = sum.add_bits(p[0].add_bits(p[1])).add_bits(p[2].add_bits(p[3]));
                at += 16;
            }
            while at < quads {
                let mut p = weights_of(scores.add(at), quads, largest[row]);
                for of in 0..4 {
                    let there = quads.min(count.saturating_sub(of * quads)).saturating_sub(at).min(16);
                    p[of] = V::select(V::first(there), p[of], V::splat(MAGIC));
                }
                V::store_weights(p, upper.add(at * 4), lower.add(at * 4));
                sum = sum.add_bits(p[0].add_bits(p[1])).add_bits(p[2].add_bits(p[3]));
                at += 16;
            }
            sums[row] = sum;
        }
        let mut inverses = [0.0; QUERIES];
        for row in 0..rows.min(QUERIES) {
            inverses[row] = 1.0 / sums[row].sub(V::splat(MAGIC)).sum();
        }
        inverses
    }
}

/// Sixteen scores at four places, `apart` from each other, as weights plus `MAGIC`.
#[inline(always)]
unsafe fn weights_of<V: Lanes>(scores: *const f32, apart: usize, largest: V) -> [V; 4] {
    // SAFETY: the caller vouches for the scores.
    unsafe {
        let mut p = [V::splat(0.0); 4];
        for of in 0..4 {
            let exponential = exp_of(V::load(scores.add(of * apart)).sub(largest));
            p[of] = exponential.mul(V::splat(4095.0)).add(V::splat(MAGIC));
        }
        p
    }
}
