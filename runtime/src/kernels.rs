//! The arithmetic of the steps, one implementation for each instruction set, chosen once when an engine is built.
//!
//! All implementations give the same bits. int8 products are exact; every float reduction is defined over 16 lanes
//! (element `i` goes to lane `i % 16`, in ascending order; then lanes 8 apart are added, then 4, 2 and 1 apart), every
//! contracted multiply-add is an explicit fused one, and the exponential and GELU are polynomials of our own. The portable
//! implementation states all of it in plain Rust; the others are tested against it bit by bit.

use core::fmt;
use core::str::FromStr;

pub(crate) use approximation::{exp, ln};
pub(crate) use family::{Attention, Family, Floats, FloatsMut, Integers, IntegersMut, LinearF32, LinearI8, NormView};

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod approximation;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod attention;
mod family;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod floats;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod integers;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod lanes;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// A family of kernels: what computes a program's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kernels {
    /// Plain Rust, for every processor; slow where there is no fused multiply-add.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX2, FMA and AVX-VNNI, such as Alder Lake-N.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
    /// Every aarch64 processor, such as Cortex-A53 and A72.
    Neon,
    /// aarch64 with the dot product, such as Cortex-A55, A76 and A78.
    NeonDotprod,
    /// aarch64 with the int8 matrix product, such as Cortex-A510, A710 and Neoverse V1.
    NeonI8mm,
}

impl Kernels {
    /// All families, the fastest first.
    pub const ALL: [Self; 7] =
        [Self::Avx512Vnni, Self::AvxVnni, Self::Avx2, Self::NeonI8mm, Self::NeonDotprod, Self::Neon, Self::Portable];

    /// The fastest family that this processor has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|family| family.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has the family's instructions.
    pub fn is_available(self) -> bool {
        self.dispatch(Probe).is_some()
    }

    /// The name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
        }
    }

    /// Hands the family's kernels to `task`; `None` when the processor does not have them.
    pub(crate) fn dispatch<T: Task>(self, task: T) -> Option<T::Output> {
        match self {
            Self::Portable => Some(task.run(portable::Portable)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86_64::Avx2::detect().map(|family| task.run(family)),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => x86_64::AvxVnni::detect().map(|family| task.run(family)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => x86_64::Avx512Vnni::detect().map(|family| task.run(family)),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => aarch64::Neon::detect().map(|family| task.run(family)),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => aarch64::NeonDotprod::detect().map(|family| task.run(family)),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => aarch64::NeonI8mm::detect().map(|family| task.run(family)),
            // The families of other processors.
            _ => None,
        }
    }
}

/// Something to do with the kernels of a family.
pub(crate) trait Task {
    type Output;
    fn run<F: Family>(self, kernels: F) -> Self::Output;
}

struct Probe;

impl Task for Probe {
    type Output = ();
    fn run<F: Family>(self, _: F) {}
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernels {
    type Err = UnknownKernels;

    fn from_str(name: &str) -> Result<Self, UnknownKernels> {
        Self::ALL.into_iter().find(|family| family.name() == name).ok_or(UnknownKernels)
    }
}

/// There is no family of kernels of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownKernels;

impl fmt::Display for UnknownKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such kernels; there are")?;
        Kernels::ALL.iter().try_for_each(|family| write!(f, " {family}"))
    }
}

impl core::error::Error for UnknownKernels {}
