//! AVX2 and FMA.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use core::arch::x86_64::*;

use super::pair::Pair;
use crate::kernels::family::kernels_of;
use crate::kernels::integers::{IntegerTile, IntegerTiles, by_rows};

/// AVX2 and FMA. Inputs are signed bytes, taken under the sign of the weight (from -128 to 127) and multiplied with its magnitude
/// (at most 128). Two products fit 16 bits, from `-2 * 128 * 128` on; four do where the magnitudes are small, as most are.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2(());

impl Avx2 {
    /// `None` when the processor does not have all of it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

kernels_of!(Avx2, Pair<0>, "avx2,fma");

// SAFETY: whoever calls has the instructions, and vouches for the pointers, as `IntegerTiles` demands.
impl IntegerTiles for Avx2 {
    type Lanes = Pair<0>;

    // Half a panel at a time: 8 rows of 8 outputs are 8 of 16 registers.
    const ROWS: usize = 8;
    const PANELS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(tile: &IntegerTile<'_>, rows: usize, _: usize) {
        // SAFETY: as this function's.
        unsafe { by_rows!(rows, 1 2 3 4 5 6 7 8 => product(tile)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn starts(panel: *const i8, quads: usize, to: *mut i32) {
        // SAFETY: the panel has its quads, `to` 16 integers.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let to = to.cast::<__m256i>();
            for half in 0..2 {
                let mut negative = _mm256_setzero_si256();
                for quad in 0..quads {
                    let (magnitude, sign) = magnitude(panel.add(quad * 64 + half * 32));
                    let pairs = _mm256_maddubs_epi16(magnitude, sign);
                    negative = _mm256_sub_epi32(negative, _mm256_madd_epi16(pairs, ones));
                }
                _mm256_storeu_si256(to.add(half), negative);
            }
        }
    }

    fn prepared_len(quads: usize) -> usize {
        STARTS + 2 * words_of(quads / 2)
    }

    /// The starts; then for each half of the panel a bit for each pair of quads, which says that it is narrow.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn prepare(panel: *const i8, quads: usize, to: *mut u64) {
        // SAFETY: the panel has its quads, `to` its words.
        unsafe {
            Self::starts(panel, quads, to.cast());
            let ones = _mm256_set1_epi8(1);
            let words = words_of(quads / 2);
            for half in 0..2 {
                let to = to.add(STARTS + half * words);
                to.write_bytes(0, words);
                for pair in 0..quads / 2 {
                    let from = panel.add(pair * 128 + half * 32);
                    let first = _mm256_maddubs_epi16(magnitude(from).0, ones);
                    let second = _mm256_maddubs_epi16(magnitude(from.add(64)).0, ones);
                    let over = _mm256_cmpgt_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(MOST));
                    *to.add(pair / 64) |= u64::from(_mm256_testz_si256(over, over) == 1) << (pair % 64);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn prepared_starts(prepared: &[u64], _: *const i32, to: *mut i32) {
        // SAFETY: the starts come first, of 16 integers.
        unsafe { to.copy_from_nonoverlapping(prepared.as_ptr().cast(), 16) };
    }
}

/// Words of 16 starts.
const STARTS: usize = 8;

/// Words with a bit for each pair.
fn words_of(pairs: usize) -> usize {
    pairs.div_ceil(64)
}

/// Four magnitudes of at most this sum, times numbers of at most 128, fit 16 bits: `255 * 128 < 2^15`.
const MOST: i16 = 255;

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn product<const ROWS: usize>(tile: &IntegerTile<'_>) {
    for half in 0..2 {
        // SAFETY: rows, panel and output are inside their buffers.
        unsafe {
            let mut sums = [_mm256_loadu_si256(tile.start.cast::<__m256i>().add(half)); ROWS];
            let right = tile.right.add(half * 32);
            if tile.planes == 1 {
                add_signed(tile, half, &mut sums);
            } else {
                add_six_bits(tile, tile.left, right, &mut sums);
                for row in &mut sums {
                    *row = _mm256_slli_epi32::<6>(*row);
                }
                add_six_bits(tile, tile.left.add(tile.plane), right, &mut sums);
            }
            let scale = _mm256_loadu_ps(tile.scales.add(half * 8));
            let bias = _mm256_loadu_ps(tile.bias.add(half * 8));
            for row in 0..ROWS {
                let by_row = _mm256_set1_ps(*tile.row_scales.add(row));
                let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row]), by_row);
                let value = _mm256_add_ps(_mm256_mul_ps(value, scale), bias);
                _mm256_storeu_ps(tile.to.add(row * tile.to_stride + half * 8), value);
            }
        }
    }
}

/// The input under the sign of the weight, times the weight's magnitude: where the weight is negative, one less than the
/// negated input, which the start makes up for.
#[inline(always)]
unsafe fn add_signed<const ROWS: usize>(tile: &IntegerTile<'_>, half: usize, sums: &mut [__m256i; ROWS]) {
    // SAFETY: rows and panel are inside their buffers.
    unsafe {
        let right = tile.right.add(half * 32);
        let pairs = tile.quads / 2;
        let words = words_of(pairs);
        let narrow = tile.prepared.get(STARTS + half * words..).unwrap_or_default();
        for word in 0..words {
            let first = word * 64;
            let here = u64::MAX >> (64 - (pairs - first).min(64));
            let narrow = narrow.get(word).map_or(0, |narrow| narrow & here);
            let mut left = narrow;
            while left != 0 {
                let quad = 2 * (first + left.trailing_zeros() as usize);
                prefetch(tile, right, quad, half);
                add_pair(tile, right, quad, sums);
                left &= left - 1;
            }
            let mut left = !narrow & here;
            while left != 0 {
                let quad = 2 * (first + left.trailing_zeros() as usize);
                prefetch(tile, right, quad, half);
                add_quad(tile, right, quad, sums);
                add_quad(tile, right, quad + 1, sums);
                left &= left - 1;
            }
        }
        if tile.quads % 2 == 1 {
            add_quad(tile, right, tile.quads - 1, sums);
        }
    }
}

/// Asks for the same place of the next panel: each half of a panel for one of its two lines. Wherever the last panel's next one would
/// lie, to ask is harmless.
#[inline(always)]
unsafe fn prefetch(tile: &IntegerTile<'_>, right: *const i8, quad: usize, half: usize) {
    // SAFETY: nothing is read.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(tile.panel + quad * 64 + half * 32)) };
}

/// Two quads that are narrow: one instruction adds the pairs of both.
#[inline(always)]
unsafe fn add_pair<const ROWS: usize>(
    tile: &IntegerTile<'_>,
    right: *const i8,
    quad: usize,
    sums: &mut [__m256i; ROWS],
) {
    // SAFETY: rows and panel are inside their buffers.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let (first, first_sign) = magnitude(right.add(quad * 64));
        let (second, second_sign) = magnitude(right.add(quad * 64 + 64));
        for row in 0..ROWS {
            let left = tile.left.add(row * tile.left_stride + quad * 4).cast::<i32>();
            let a = _mm256_xor_si256(_mm256_set1_epi32(left.read_unaligned()), first_sign);
            let b = _mm256_xor_si256(_mm256_set1_epi32(left.add(1).read_unaligned()), second_sign);
            let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(first, a), _mm256_maddubs_epi16(second, b));
            sums[row] = _mm256_add_epi32(sums[row], _mm256_madd_epi16(pairs, ones));
        }
    }
}

#[inline(always)]
unsafe fn add_quad<const ROWS: usize>(
    tile: &IntegerTile<'_>,
    right: *const i8,
    quad: usize,
    sums: &mut [__m256i; ROWS],
) {
    // SAFETY: rows and panel are inside their buffers.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let (magnitude, sign) = magnitude(right.add(quad * 64));
        for row in 0..ROWS {
            let left = tile.left.add(row * tile.left_stride + quad * 4).cast::<i32>();
            let left = _mm256_xor_si256(_mm256_set1_epi32(left.read_unaligned()), sign);
            let pairs = _mm256_maddubs_epi16(magnitude, left);
            sums[row] = _mm256_add_epi32(sums[row], _mm256_madd_epi16(pairs, ones));
        }
    }
}

/// Magnitudes, and where the weight is negative.
#[inline(always)]
unsafe fn magnitude(right: *const i8) -> (__m256i, __m256i) {
    // SAFETY: the caller vouches for 32 weights.
    unsafe {
        let right = _mm256_loadu_si256(right.cast());
        (_mm256_abs_epi8(right), _mm256_cmpgt_epi8(_mm256_setzero_si256(), right))
    }
}

/// Of numbers from 0 to 63, two quads at a time fit 16 bits: `4 * 63 * 127 < 2^15`.
#[inline(always)]
unsafe fn add_six_bits<const ROWS: usize>(
    tile: &IntegerTile<'_>,
    left: *const u8,
    right: *const i8,
    sums: &mut [__m256i; ROWS],
) {
    // SAFETY: rows and panel are inside their buffers.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        for quad in (0..tile.quads / 2).map(|pair| 2 * pair) {
            let from = right.add(quad * 64).cast::<__m256i>();
            let right = [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(2))];
            for row in 0..ROWS {
                let left = left.add(row * tile.left_stride + quad * 4).cast::<i32>();
                let a = _mm256_set1_epi32(left.read_unaligned());
                let b = _mm256_set1_epi32(left.add(1).read_unaligned());
                let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a, right[0]), _mm256_maddubs_epi16(b, right[1]));
                sums[row] = _mm256_add_epi32(sums[row], _mm256_madd_epi16(pairs, ones));
            }
        }
        if tile.quads % 2 == 1 {
            let quad = tile.quads - 1;
            let right = _mm256_loadu_si256(right.add(quad * 64).cast());
            for row in 0..ROWS {
                let left = left.add(row * tile.left_stride + quad * 4).cast::<i32>();
                let pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(left.read_unaligned()), right);
                sums[row] = _mm256_add_epi32(sums[row], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}
