use core::fmt;

/// Shows bytes as lower-case hexadecimal digits, two a byte.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "bytes and nothing else")]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `N` bytes from `2 * N` hexadecimal digits.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reads_what_it_shows_and_nothing_else() {
        assert_eq!(Hex(&[0, 0x9F, 0xA0]).to_string(), "009fa0");
        assert_eq!(decode("009FA0"), Some([0, 0x9F, 0xA0]));
        for text in ["", "009fa", "009fa00", "00 fa0", "00gfa0", "00é1"] {
            assert_eq!(decode::<3>(text), None, "{text}");
        }
    }
}
