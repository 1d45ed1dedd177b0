//! Symmetric int8 rows of a matrix.

use crate::encoder::Matrix;

/// A matrix of int8 with one scale a row: the value is `integers[row, column] * scales[row]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// `rows * columns` integers from -127 to 127, row by row.
    pub integers: Vec<i8>,
    /// One scale a row; 0 for a row of zeros.
    pub scales: Vec<f32>,
}

/// Rounds every row to int8: scale `max|x| / 127`, integers `x / scale` rounded half to even, no zero point.
///
/// A row of a linear layer's weight `[outputs, inputs]` is one output channel; a row of an embedding table is one token
/// or position.
pub fn quantize_rows(matrix: &Matrix) -> Quantized {
    let mut integers = Vec::with_capacity(matrix.values.len());
    let mut scales = Vec::with_capacity(matrix.rows);
    for row in matrix.values.chunks_exact(matrix.columns) {
        let scale = row.iter().fold(0f32, |largest, value| largest.max(value.abs())) / 127.0;
        // The cast saturates, and takes the 0/0 of a row of zeros to 0.
        integers.extend(row.iter().map(|value| (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    Quantized { integers, scales }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(row: &[f32]) -> Quantized {
        quantize_rows(&Matrix { rows: 1, columns: row.len(), values: row.to_vec() })
    }

    #[test]
    fn rounds_half_to_even_and_reaches_127() {
        let quantized = quantize(&[127.0, 0.5, 1.5, -0.5, -2.5, -127.0, 126.4]);
        assert_eq!(quantized.integers, [127, 0, 2, 0, -2, -127, 126]);
        assert_eq!(quantized.scales, [1.0]);
    }

    #[test]
    fn zeros_stay_zeros() {
        assert_eq!(quantize(&[0.0, -0.0]), Quantized { integers: vec![0, 0], scales: vec![0.0] });
    }

    #[test]
    fn tiny_and_huge_rows_stay_in_range() {
        for row in [[f32::MIN_POSITIVE, -1e-45], [f32::MAX, f32::MIN], [1e-45, 0.0]] {
            assert!(quantize(&row).integers.iter().all(|&integer| integer >= -127));
        }
    }

    #[test]
    fn each_row_has_its_own_scale() {
        let quantized = quantize_rows(&Matrix { rows: 2, columns: 2, values: vec![1.0, 2.0, 10.0, -20.0] });
        assert_eq!(quantized.integers, [64, 127, 64, -127]);
        assert_eq!(quantized.scales, [2.0 / 127.0, 20.0 / 127.0]);
    }
}
