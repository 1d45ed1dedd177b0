use core::fmt;
use core::ops::{BitOr, BitOrAssign};

/// Why a model says "I do not know" of a text: a set of reasons, empty when it does not abstain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Abstention(u32);

impl Abstention {
    /// No reason: the model does not abstain.
    pub const NONE: Self = Self(0);
    /// The text is empty, or has nothing but white space and control characters. The model has not run.
    pub const EMPTY: Self = Self(1);
    /// The text has fewer tokens than the bundle asks for.
    pub const TOO_SHORT: Self = Self(2);
    /// The vocabulary cannot spell a larger share of the text than the bundle allows.
    pub const UNKNOWN_TOKENS: Self = Self(4);
    /// The text is not of the kind that the model was made for.
    pub const OUT_OF_DISTRIBUTION: Self = Self(8);
    /// The model has not seen all of the text, and the options say [`Overflow::Abstain`](crate::Overflow::Abstain).
    pub const TRUNCATED: Self = Self(16);

    /// Every reason with its name.
    const NAMES: [(Self, &'static str); 5] = [
        (Self::EMPTY, "empty"),
        (Self::TOO_SHORT, "too short"),
        (Self::UNKNOWN_TOKENS, "too many unknown tokens"),
        (Self::OUT_OF_DISTRIBUTION, "out of distribution"),
        (Self::TRUNCATED, "truncated"),
    ];

    /// Whether there is no reason.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all reasons of `other` are in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// One bit a reason, for interfaces that know no types.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Names of the reasons, in English and small letters.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(reason, _)| self.contains(*reason)).map(|(_, name)| name)
    }
}

impl BitOr for Abstention {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Abstention {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// The reasons, with commas between.
impl fmt::Display for Abstention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_set() {
        let mut reasons = Abstention::NONE;
        assert!(reasons.is_empty() && reasons.to_string().is_empty());
        reasons |= Abstention::TRUNCATED | Abstention::TOO_SHORT;
        assert!(reasons.contains(Abstention::TOO_SHORT) && !reasons.contains(Abstention::EMPTY));
        assert_eq!((reasons.bits(), reasons.to_string().as_str()), (18, "too short, truncated"));
    }
}
