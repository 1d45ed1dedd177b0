pub(super) use dotprod::NeonDotprod;
pub(super) use i8mm::NeonI8mm;
pub(super) use neon::Neon;

mod dotprod;
mod i8mm;
mod neon;
