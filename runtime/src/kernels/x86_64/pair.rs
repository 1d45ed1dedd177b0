//! Sixteen lanes in two registers of AVX2.

#![expect(unsafe_code, reason = "instructions of one processor family")]

use core::arch::x86_64::*;

use crate::kernels::floats::{self, Columns, Finish, Tile};
use crate::kernels::lanes::Lanes;

/// Sixteen lanes. `OFFSET` is 0 or 128.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Pair<const OFFSET: u8>(__m256, __m256);

// SAFETY of all blocks: whoever calls has the instructions, and vouches for the pointers, as `Lanes` demands.
impl<const OFFSET: u8> Lanes for Pair<OFFSET> {
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    const OFFSET: u8 = OFFSET;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, by.0, plus.0), _mm256_fmadd_ps(self.1, by.1, plus.1)) }
    }

    #[inline(always)]
    unsafe fn fms(self, by: Self, less: Self) -> Self {
        unsafe { Self(_mm256_fmsub_ps(self.0, by.0, less.0), _mm256_fmsub_ps(self.1, by.1, less.1)) }
    }

    #[inline(always)]
    unsafe fn fnma(self, by: Self, from: Self) -> Self {
        unsafe { Self(_mm256_fnmadd_ps(self.0, by.0, from.0), _mm256_fnmadd_ps(self.1, by.1, from.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Self(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }

    #[inline(always)]
    unsafe fn select(mask: Self, this: Self, other: Self) -> Self {
        unsafe { Self(_mm256_blendv_ps(other.0, this.0, mask.0), _mm256_blendv_ps(other.1, this.1, mask.1)) }
    }

    #[inline(always)]
    unsafe fn scale(self, exponent: Self) -> Self {
        unsafe { Self(scale(self.0, exponent.0), scale(self.1, exponent.1)) }
    }

    #[inline(always)]
    unsafe fn add_bits(self, other: Self) -> Self {
        unsafe { Self(add_bits(self.0, other.0), add_bits(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { largest_of_eight(_mm256_max_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe {
            let mask = Self::first(count);
            _mm256_maskstore_ps(to, _mm256_castps_si256(mask.0), self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), _mm256_castps_si256(mask.1), self.1);
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn product<const ROWS: usize, const PANELS: usize>(tile: Tile, columns: Columns, finish: Finish<'_>) {
        unsafe { floats::product_of::<Self, ROWS, PANELS>(tile, columns, finish) }
    }

    #[inline(always)]
    unsafe fn store_integers(self, to: *mut u8) {
        unsafe {
            let (low, high) = (_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // Lanes 0-3, 8-11, 4-7, 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(OFFSET as i8)));
        }
    }

    #[inline(always)]
    unsafe fn store_weights(rows: [Self; 4], upper: *mut u8, lower: *mut u8) {
        unsafe {
            let [a, b, c, d] = rows;
            store_six_bits([a.0, b.0, c.0, d.0], upper, lower);
            store_six_bits([a.1, b.1, c.1, d.1], upper.add(32), lower.add(32));
        }
    }

    #[inline(always)]
    unsafe fn store_quads(rows: [Self; 4], to: *mut i8) {
        unsafe {
            let [a, b, c, d] = rows;
            _mm256_storeu_si256(to.cast(), quads([a.0, b.0, c.0, d.0]));
            _mm256_storeu_si256(to.add(32).cast(), quads([a.1, b.1, c.1, d.1]));
        }
    }
}

/// The upper and the lower six bits of four rows' lowest twelve side by side in the bytes of each lane.
#[inline(always)]
unsafe fn store_six_bits(rows: [__m256; 4], upper: *mut u8, lower: *mut u8) {
    unsafe {
        let (a, b) = (_mm256_castps_si256(rows[0]), _mm256_castps_si256(rows[1]));
        let (c, d) = (_mm256_castps_si256(rows[2]), _mm256_castps_si256(rows[3]));
        // Bits above the twelve are those of `MAGIC`, whose lower half is zero.
        let even = _mm256_blend_epi16::<0b1010_1010>(a, _mm256_slli_epi32::<16>(c));
        let odd = _mm256_blend_epi16::<0b1010_1010>(b, _mm256_slli_epi32::<16>(d));
        _mm256_storeu_si256(lower.cast(), six_bits(even, odd));
        _mm256_storeu_si256(upper.cast(), six_bits(_mm256_srli_epi16::<6>(even), _mm256_srli_epi16::<6>(odd)));
    }
}

/// The lower six bits of words, as even and odd bytes.
#[inline(always)]
unsafe fn six_bits(even: __m256i, odd: __m256i) -> __m256i {
    unsafe {
        let six = _mm256_set1_epi16(63);
        _mm256_or_si256(_mm256_and_si256(even, six), _mm256_slli_epi16::<8>(_mm256_and_si256(odd, six)))
    }
}

/// The integers of four rows side by side in the bytes of each lane.
#[inline(always)]
unsafe fn quads(rows: [__m256; 4]) -> __m256i {
    unsafe {
        let (a, b) = (_mm256_cvtps_epi32(rows[0]), _mm256_cvtps_epi32(rows[1]));
        let (c, d) = (_mm256_cvtps_epi32(rows[2]), _mm256_cvtps_epi32(rows[3]));
        let byte = _mm256_set1_epi32(255);
        let low = _mm256_or_si256(_mm256_and_si256(a, byte), _mm256_slli_epi32::<8>(_mm256_and_si256(b, byte)));
        let high = _mm256_or_si256(_mm256_slli_epi32::<16>(_mm256_and_si256(c, byte)), _mm256_slli_epi32::<24>(d));
        _mm256_or_si256(low, high)
    }
}

#[inline(always)]
unsafe fn scale(lanes: __m256, exponent: __m256) -> __m256 {
    unsafe {
        let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponent));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(lanes), exponent))
    }
}

#[inline(always)]
unsafe fn add_bits(a: __m256, b: __m256) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b))) }
}

/// Lanes 4 apart added, then 2 and 1 apart.
#[inline(always)]
pub(super) unsafe fn sum_of_eight(lanes: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

#[inline(always)]
pub(super) unsafe fn largest_of_eight(lanes: __m256) -> f32 {
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
}
