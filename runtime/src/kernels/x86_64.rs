pub(super) use avx_vnni::AvxVnni;
pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512Vnni;

mod avx2;
mod avx512;
mod avx_vnni;
mod pair;
