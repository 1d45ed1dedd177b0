//! Attention with integer products, written once over the tiles of an instruction set.
//!
//! # Safety
//!
//! As that of `floats`.

#![expect(unsafe_code, reason = "instructions of one processor family, behind `IntegerTiles`")]
#![allow(clippy::needless_range_loop, reason = "rows number registers and memory alike")]

use super::approximation::MAGIC;
use super::family::{Attention, FloatsMut, QUERIES};
use super::floats::{GROUP, TINY, add, exp_of, largest, tiles};
use super::integers::{IntegerTile, IntegerTiles};
use super::lanes::Lanes;

#[inline(always)]
pub(super) unsafe fn attention<T: IntegerTiles>(attention: &Attention<'_>, work: &mut [f32], output: FloatsMut<'_>) {
    let Attention { tokens, head, stride, .. } = *attention;
    let (keys, padded) = (tokens.next_multiple_of(16), head.next_multiple_of(16));
    // SAFETY: the work space has `Attention::work_len_i8` floats, queries, keys, values, bias and output what their sizes say.
    unsafe {
        let space = Space::of(work, tokens, head);
        round_rows::<T::Lanes>(attention.query.as_ptr(), stride, tokens, head, space.queries, space.query_scales);
        pack_keys::<T::Lanes>(attention, &space);
        pack_values::<T::Lanes>(attention, &space);

        // Heads lie side by side in the output: where one ends inside a register, it is copied.
        let direct = head == padded;
        for (first, rows) in tiles(tokens, T::ROWS) {
            for panel in (0..keys / 16).step_by(T::PANELS) {
                let tile = IntegerTile {
                    left: space.queries.add(first * padded),
                    left_stride: padded,
                    planes: 1,
                    plane: 0,
                    row_scales: space.query_scales.add(first),
                    right: space.keys.add(panel * 16 * padded),
                    panel: 16 * padded,
                    quads: head.div_ceil(4),
                    start: space.key_starts.add(panel * 16),
                    scales: space.key_scales.add(panel * 16),
                    bias: ZEROS.as_ptr(),
                    to: space.scores.add(panel * 16),
                    to_stride: keys,
                };
                T::multiply(&tile, rows, T::PANELS.min(keys / 16 - panel));
            }
            if let Some(bias) = attention.bias {
                for row in 0..rows {
                    // Column `j - i` from the middle on.
                    add::<T::Lanes>(
                        space.scores.add(row * keys),
                        bias.as_ptr().add(bias.len() / 2 - first - row),
                        tokens,
                    );
                }
            }
            let inverses = softmax::<T::Lanes>(space.scores, space.weights, keys, rows, tokens);
            let own = output.values.as_mut_ptr().add(first * output.stride);
            let (to, to_stride) = if direct { (own, output.stride) } else { (space.context, padded) };
            for panel in (0..padded / 16).step_by(T::PANELS) {
                let tile = IntegerTile {
                    left: space.weights,
                    left_stride: 2 * keys,
                    planes: 2,
                    plane: keys,
                    row_scales: inverses.as_ptr(),
                    right: space.values.add(panel * 16 * keys),
                    panel: 16 * keys,
                    quads: tokens.div_ceil(4),
                    start: NO_START.as_ptr(),
                    scales: space.value_scales.add(panel * 16),
                    bias: ZEROS.as_ptr(),
                    to: to.add(panel * 16),
                    to_stride,
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
    /// Sixteen keys before they are packed.
    rows: *mut u8,
    /// Panels of 16 dimensions, `[quads of tokens][16][4]`, `16 * padded tokens` bytes apart.
    values: *mut i8,
    value_scales: *mut f32,
    /// `[QUERIES][padded tokens]`.
    scores: *mut f32,
    /// `[QUERIES][2][padded tokens]`: upper and lower six bits.
    weights: *mut u8,
    /// `[QUERIES][padded head]`.
    context: *mut f32,
}

impl Space {
    #[inline(always)]
    unsafe fn of(work: &mut [f32], tokens: usize, head: usize) -> Self {
        let (tokens, head) = (tokens.next_multiple_of(16), head.next_multiple_of(16));
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
            rows: take(16 * head / 4).cast(),
            values: values.cast(),
            value_scales,
            scores: take(QUERIES * tokens),
            weights: take(QUERIES * tokens / 2).cast(),
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

/// Rounds `width` values of each row as `floats::quantize` does; the result is padded with zeros to a multiple of 16.
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
    for group in (0..rows).step_by(GROUP) {
        // SAFETY: `from`, `to` and `scales` hold the rows.
        unsafe {
            let rows = GROUP.min(rows - group);
            let mut amax = [TINY; GROUP];
            for row in 0..rows {
                let from = from.add((group + row) * stride);
                let mut lanes = V::splat(0.0);
                for at in (0..width).step_by(16) {
                    lanes = part::<V>(from, at, width).abs().max(lanes);
                }
                let of_row = lanes.largest();
                amax[row] = if of_row > TINY { of_row } else { TINY };
            }
            for row in 0..rows {
                let (from, to) = (from.add((group + row) * stride), to.add((group + row) * padded));
                let inverse = V::splat(127.0 / amax[row]);
                for at in (0..width).step_by(16) {
                    part::<V>(from, at, width).mul(inverse).store_integers(to.add(at));
                }
                *scales.add(group + row) = amax[row] / 127.0;
            }
        }
    }
}

#[inline(always)]
unsafe fn pack_keys<V: Lanes>(attention: &Attention<'_>, space: &Space) {
    let Attention { key, tokens, head, stride, .. } = *attention;
    let (quads, padded) = (head.div_ceil(4), head.next_multiple_of(16));
    let sign = u32::from_ne_bytes([V::OFFSET; 4]);
    for first in (0..tokens).step_by(16) {
        let count = 16.min(tokens - first);
        // SAFETY: keys and work space hold the panel.
        unsafe {
            let scales = space.key_scales.add(first);
            round_rows::<V>(key.as_ptr().add(first * stride), stride, count, head, space.rows, scales);
            let panel = space.keys.add(first * padded).cast::<u32>();
            for key in 0..16 {
                let from = space.rows.add(key * padded);
                if key >= count {
                    (0..quads).for_each(|quad| panel.add(quad * 16 + key).write_unaligned(0));
                    *scales.add(key) = 0.0;
                    *space.key_starts.add(first + key) = 0;
                    continue;
                }
                for quad in 0..quads {
                    let word = from.add(quad * 4).cast::<u32>().read_unaligned();
                    panel.add(quad * 16 + key).write_unaligned(word ^ sign);
                }
                let mut sum = 0;
                if V::OFFSET != 0 {
                    for at in 0..padded {
                        sum += i32::from((*from.add(at) ^ V::OFFSET) as i8);
                    }
                }
                *space.key_starts.add(first + key) = -i32::from(V::OFFSET) * sum;
            }
        }
    }
}

#[inline(always)]
unsafe fn pack_values<V: Lanes>(attention: &Attention<'_>, space: &Space) {
    let Attention { value, tokens, head, stride, .. } = *attention;
    let keys = tokens.next_multiple_of(16);
    for first in (0..head).step_by(16) {
        // SAFETY: values and work space hold the panel.
        unsafe {
            let mut lanes = V::splat(0.0);
            for token in 0..tokens {
                lanes = part::<V>(value.as_ptr().add(token * stride), first, head).abs().max(lanes);
            }
            let mut inverses = [0.0_f32; 16];
            lanes.store(inverses.as_mut_ptr());
            for (lane, inverse) in inverses.iter_mut().enumerate() {
                let amax = if *inverse > TINY { *inverse } else { TINY };
                *space.value_scales.add(first + lane) = amax / 127.0;
                *inverse = 127.0 / amax;
            }
            let inverse = V::load(inverses.as_ptr());
            let panel = space.values.add(first * keys);
            for token in (0..tokens).step_by(4) {
                let mut rows = [V::splat(0.0); 4];
                for row in 0..4.min(tokens - token) {
                    rows[row] = part::<V>(value.as_ptr().add((token + row) * stride), first, head).mul(inverse);
                }
                V::store_quads(rows, panel.add(token * 16));
            }
        }
    }
}

/// Rounds 4095 times the exponential of each row's first `count` scores, after the largest was taken off, and gives the inverses
/// of the rows' sums.
#[inline(always)]
unsafe fn softmax<V: Lanes>(
    scores: *const f32,
    weights: *mut u8,
    stride: usize,
    rows: usize,
    count: usize,
) -> [f32; QUERIES] {
    let last = (count - 1) / 16 * 16;
    // SAFETY: scores and weights of each row are padded to `stride`, a multiple of 16.
    unsafe {
        let own = V::first(count - last);
        let (magic, levels) = (V::splat(MAGIC), V::splat(4095.0));
        // One thing after the other for all rows, so that no row waits for its own reduction.
        let largest = largest::<V>(scores, stride, rows, count);
        let mut sums = [V::splat(0.0); QUERIES];
        for row in 0..rows.min(QUERIES) {
            let (scores, upper) = (scores.add(row * stride), weights.add(2 * row * stride));
            let lower = upper.add(stride);
            let mut sum = V::splat(0.0);
            let mut at = 0;
            while at < last {
                // Whole numbers below 2^24: added in any order, they give the same.
                let p = exp_of(V::load(scores.add(at)).sub(largest[row])).mul(levels).add(magic);
                p.store_weights(upper.add(at), lower.add(at));
                sum = sum.add(p.sub(magic));
                at += 16;
            }
            let p = exp_of(V::load(scores.add(last)).sub(largest[row])).mul(levels).add(magic);
            let p = V::select(own, p, magic);
            p.store_weights(upper.add(last), lower.add(last));
            sums[row] = sum.add(p.sub(magic));
        }
        let mut inverses = [0.0; QUERIES];
        for row in 0..rows.min(QUERIES) {
            inverses[row] = 1.0 / sums[row].sum();
        }
        inverses
    }
}
