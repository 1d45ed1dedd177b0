//! Bytes as people read them.

/// Two lower-case hexadecimal digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    kdh_format::Hex(bytes).to_string()
}
