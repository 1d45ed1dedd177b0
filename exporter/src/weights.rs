//! Tensors of a safetensors file as `f32`, by name and expected shape.

use std::fmt;

use safetensors::{Dtype, SafeTensorError, SafeTensors};

/// The tensors of one safetensors file.
#[derive(Debug)]
pub struct Weights<'a> {
    tensors: SafeTensors<'a>,
}

impl<'a> Weights<'a> {
    /// Reads the file's header; the tensors stay where they are.
    ///
    /// # Errors
    /// When the bytes are not a whole safetensors file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TensorError> {
        SafeTensors::deserialize(bytes).map(|tensors| Self { tensors }).map_err(TensorError::NotSafetensors)
    }

    /// Whether the file has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// Rows of the two-dimensional tensor `name` of `columns` columns, and its values in row order.
    ///
    /// # Errors
    /// When there is no such tensor, or it has another shape or type, or holds a value that is not finite.
    pub fn table(&self, name: &str, columns: usize) -> Result<(usize, Vec<f32>), TensorError> {
        let found = self.shape(name)?;
        match found[..] {
            [rows, width] if width == columns => Ok((rows, self.tensor(name, &[rows, columns])?)),
            _ => Err(TensorError::Shape { name: name.to_owned(), expected: vec![0, columns], found }),
        }
    }

    /// Values of the tensor `name`, in row order; `f16` and `bf16` are widened exactly.
    ///
    /// # Errors
    /// When there is no such tensor, or it has another shape or type, or holds a value that is not finite.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let found = self.shape(name)?;
        if found != shape {
            return Err(TensorError::Shape { name: name.to_owned(), expected: shape.to_vec(), found });
        }
        let tensor = self.tensors.tensor(name).map_err(|_| TensorError::Missing(name.to_owned()))?;
        let bytes = tensor.data();
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&value| widen_f16(u16::from_le_bytes(value))).collect(),
            Dtype::BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&value| f32::from_bits(u32::from(u16::from_le_bytes(value)) << 16))
                .collect(),
            other => return Err(TensorError::Type { name: name.to_owned(), found: format!("{other:?}") }),
        };
        if !values.iter().all(|value| value.is_finite()) {
            return Err(TensorError::NotFinite(name.to_owned()));
        }
        Ok(values)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>, TensorError> {
        let tensor = self.tensors.tensor(name).map_err(|_| TensorError::Missing(name.to_owned()))?;
        Ok(tensor.shape().to_vec())
    }
}

/// Why a tensor could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum TensorError {
    /// The bytes are not a safetensors file.
    NotSafetensors(SafeTensorError),
    /// There is no tensor of this name.
    Missing(String),
    /// The tensor has another shape than the configuration says; an expected 0 stands for any number of rows.
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape that the configuration asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The tensor holds values of a type that is not read.
    Type {
        /// Name of the tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// The tensor holds an infinity or a NaN.
    NotFinite(String),
}

impl fmt::Display for TensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSafetensors(error) => write!(f, "not a whole safetensors file: {error}"),
            Self::Missing(name) => write!(f, "the tensor `{name}` is missing"),
            Self::Shape { name, expected, found } => {
                write!(f, "the tensor `{name}` has shape {found:?}; the configuration asks for ")?;
                match expected[..] {
                    [0, columns] => write!(f, "[rows, {columns}]"),
                    _ => write!(f, "{expected:?}"),
                }
            }
            Self::Type { name, found } => {
                write!(f, "the tensor `{name}` holds {found} values; F32, F16 and BF16 are read")
            }
            Self::NotFinite(name) => {
                write!(f, "the tensor `{name}` holds an infinity or a NaN; the training run has diverged")
            }
        }
    }
}

impl std::error::Error for TensorError {}

/// IEEE 754 binary16 to binary32; every binary16 value has an exact binary32.
fn widen_f16(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits) & 0x3ff;
    match (exponent, fraction) {
        // Zero and subnormal: fraction * 2^-24.
        (0, _) => f32::from_bits(sign | (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits()),
        (0x1f, _) => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn file(name: &str, dtype: Dtype, shape: Vec<usize>, data: &[u8]) -> Vec<u8> {
        safetensors::serialize([(name, TensorView::new(dtype, shape, data).unwrap())], None).unwrap()
    }

    #[test]
    fn widens_half_precision_exactly() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(widen_f16(bits), value, "{bits:#06x}");
        }
        assert!(widen_f16(0x7e00).is_nan());
        assert_eq!(widen_f16(0xfc00), f32::NEG_INFINITY);
        assert!(widen_f16(0x8000).is_sign_negative());
    }

    #[test]
    fn reads_three_types() {
        let f32s = file("t", Dtype::F32, vec![1, 2], &[1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat());
        let f16s = file("t", Dtype::F16, vec![1, 2], &[0x00, 0x3e, 0x00, 0xc0]);
        let bf16s = file("t", Dtype::BF16, vec![1, 2], &[0xc0, 0x3f, 0x00, 0xc0]);
        for bytes in [f32s, f16s, bf16s] {
            let weights = Weights::parse(&bytes).unwrap();
            assert_eq!(weights.tensor("t", &[1, 2]).unwrap(), [1.5, -2.0]);
            assert_eq!(weights.table("t", 2).unwrap(), (1, vec![1.5, -2.0]));
        }
    }

    #[test]
    fn errors_name_the_tensor() {
        let bytes = file("t", Dtype::F32, vec![2], &[0; 8]);
        let weights = Weights::parse(&bytes).unwrap();
        assert_eq!(weights.tensor("u", &[2]).unwrap_err().to_string(), "the tensor `u` is missing");
        assert_eq!(
            weights.tensor("t", &[3]).unwrap_err().to_string(),
            "the tensor `t` has shape [2]; the configuration asks for [3]"
        );
        assert_eq!(
            weights.table("t", 3).unwrap_err().to_string(),
            "the tensor `t` has shape [2]; the configuration asks for [rows, 3]"
        );
        let bytes = file("t", Dtype::I32, vec![2], &[0; 8]);
        let error = Weights::parse(&bytes).unwrap().tensor("t", &[2]).unwrap_err();
        assert_eq!(error.to_string(), "the tensor `t` holds I32 values; F32, F16 and BF16 are read");
        let bytes = file("t", Dtype::F32, vec![1], &f32::NAN.to_le_bytes());
        assert!(matches!(Weights::parse(&bytes).unwrap().tensor("t", &[1]), Err(TensorError::NotFinite(_))));
        assert!(matches!(Weights::parse(b"not a file"), Err(TensorError::NotSafetensors(_))));
    }
}
