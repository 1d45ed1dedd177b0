//! AVX-VNNI, of processors without AVX-512.

#![expect(unsafe_code, reason = "instructions of one processor family")]
#![allow(clippy::needless_range_loop, reason = "rows and panels number registers and memory alike")]

use core::arch::x86_64::*;

use super::pair::Pair;
use crate::kernels::family::kernels_of;
use crate::kernels::integers::{IntegerTile, IntegerTiles, by_rows};

/// AVX2, FMA and AVX-VNNI: a quad of inputs by 8 outputs is one `vpdpbusd`. Inputs are multiplied as unsigned bytes, `q + 128`.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct AvxVnni(());

impl AvxVnni {
    /// `None` when the processor does not have all of it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        let detected =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("avxvnni");
        detected.then_some(Self(()))
    }
}

kernels_of!(AvxVnni, Pair<128>, "avx2,fma,avxvnni");

// SAFETY: whoever calls has the instructions, and vouches for the pointers, as `IntegerTiles` demands.
impl IntegerTiles for AvxVnni {
    type Lanes = Pair<128>;

    // 6 rows of 16 outputs are 12 of 16 registers.
    const ROWS: usize = 6;
    const PANELS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2,fma,avxvnni")]
    unsafe fn multiply(tile: &IntegerTile<'_>, rows: usize, _: usize) {
        // SAFETY: as this function's.
        unsafe { by_rows!(rows, 1 2 3 4 5 6 => product(tile)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,avxvnni")]
    unsafe fn starts(panel: *const i8, quads: usize, to: *mut i32) {
        // SAFETY: the panel has its quads, `to` 16 integers.
        unsafe {
            let offset = _mm256_set1_epi8(i8::MIN);
            for half in 0..2 {
                let mut sums = _mm256_setzero_si256();
                for quad in 0..quads {
                    let right = _mm256_loadu_si256(panel.add(quad * 64 + half * 32).cast());
                    sums = _mm256_dpbusd_avx_epi32(sums, offset, right);
                }
                let to = to.add(half * 8).cast();
                _mm256_storeu_si256(to, _mm256_sub_epi32(_mm256_setzero_si256(), sums));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn product<const ROWS: usize>(tile: &IntegerTile<'_>) {
    // SAFETY: rows, panel and output are inside their buffers.
    unsafe {
        let start = tile.start.cast::<__m256i>();
        let mut sums = [[_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))]; ROWS];
        for plane in 0..tile.planes {
            if plane > 0 {
                for row in &mut sums {
                    *row = [_mm256_slli_epi32::<6>(row[0]), _mm256_slli_epi32::<6>(row[1])];
                }
            }
            let left = tile.left.add(plane * tile.plane);
            for quad in 0..tile.quads {
                let from = tile.right.add(quad * 64).cast::<__m256i>();
                let right = [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))];
                for row in 0..ROWS {
                    let left = left.add(row * tile.left_stride + quad * 4).cast::<i32>().read_unaligned();
                    let left = _mm256_set1_epi32(left);
                    for half in 0..2 {
                        sums[row][half] = _mm256_dpbusd_avx_epi32(sums[row][half], left, right[half]);
                    }
                }
            }
        }
        for row in 0..ROWS {
            let by_row = _mm256_set1_ps(*tile.row_scales.add(row));
            for half in 0..2 {
                let scale = _mm256_loadu_ps(tile.scales.add(half * 8));
                let bias = _mm256_loadu_ps(tile.bias.add(half * 8));
                let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][half]), by_row);
                let value = _mm256_add_ps(_mm256_mul_ps(value, scale), bias);
                _mm256_storeu_ps(tile.to.add(row * tile.to_stride + half * 8), value);
            }
        }
    }
}
