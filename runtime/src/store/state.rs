use core::fmt;

use sha2::{Digest, Sha256};

/// One of the two places for a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Slot {
    /// The file `a.kdh`.
    A,
    /// The file `b.kdh`.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::A => "a.kdh",
            Self::B => "b.kdh",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// What a store remembers, in the file `state`: little-endian, 176 bytes.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | 16 bytes | `kdh-store` and seven zero bytes |
/// | 16 | u32 | version, 1 |
/// | 20 | u32 | active slot: 0 none, 1 a, 2 b |
/// | 24 | u32 | failed starts |
/// | 28 | u32 | 0 |
/// | 32 | u64 | minimum rollback counter |
/// | 40 | 2 x 48 bytes | slots a and b: u32 0 empty, 1 on trial, 2 good; u32 0; u64 rollback counter; digest |
/// | 136 | 8 bytes | 0 |
/// | 144 | 32 bytes | SHA-256 of everything in front |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) active: Option<Slot>,
    pub(super) failed_starts: u32,
    pub(super) minimum_rollback_counter: u64,
    pub(super) slots: [Option<Content>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) digest: [u8; 32],
    pub(super) rollback_counter: u64,
    pub(super) good: bool,
}

impl State {
    pub(super) fn slot(&self, slot: Slot) -> Option<Content> {
        self.slots[slot as usize]
    }

    pub(super) fn slot_mut(&mut self, slot: Slot) -> &mut Option<Content> {
        &mut self.slots[slot as usize]
    }

    /// Nobody has called the active bundle good.
    pub(super) fn trial(&self) -> bool {
        self.active.and_then(|slot| self.slot(slot)).is_some_and(|content| !content.good)
    }

    /// The slot that the device does not depend on.
    pub(super) fn target(&self) -> Slot {
        match self.active {
            None => Slot::A,
            Some(active) if self.trial() && self.slot(active.other()).is_some_and(|content| content.good) => active,
            Some(active) => active.other(),
        }
    }

    /// Empties a slot. If it was the active one, the other becomes active if it holds a bundle.
    pub(super) fn drop(&mut self, slot: Slot) {
        *self.slot_mut(slot) = None;
        if self.active == Some(slot) {
            self.active = self.slot(slot.other()).map(|_| slot.other());
            self.failed_starts = 0;
        }
    }

    /// Fills a slot and makes it active.
    pub(super) fn put(&mut self, slot: Slot, content: Content) {
        *self.slot_mut(slot) = Some(content);
        self.active = Some(slot);
        self.failed_starts = 0;
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = LABEL.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.active.map_or(0, |slot| slot as u32 + 1).to_le_bytes());
        bytes.extend(self.failed_starts.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.minimum_rollback_counter.to_le_bytes());
        for content in self.slots {
            let status = content.map_or(0_u32, |content| if content.good { 2 } else { 1 });
            bytes.extend(status.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(content.map_or(0, |content| content.rollback_counter).to_le_bytes());
            bytes.extend(content.map_or([0; 32], |content| content.digest));
        }
        bytes.extend([0; 8]);
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    /// `None` when the bytes are not those of a state.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LEN || Sha256::digest(&bytes[..LEN - 32])[..] != bytes[LEN - 32..] {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        if bytes[..16] != LABEL || u32_at(16) != VERSION {
            return None;
        }
        let content = |at: usize| match u32_at(at) {
            0 => Some(None),
            status @ (1 | 2) => Some(Some(Content {
                digest: bytes[at + 16..at + 48].try_into().ok()?,
                rollback_counter: u64_at(at + 8),
                good: status == 2,
            })),
            _ => None,
        };
        let state = Self {
            active: match u32_at(20) {
                0 => None,
                1 => Some(Slot::A),
                2 => Some(Slot::B),
                _ => return None,
            },
            failed_starts: u32_at(24),
            minimum_rollback_counter: u64_at(32),
            slots: [content(40)?, content(88)?],
        };
        // The active slot holds something, and nothing else is written differently.
        let whole = state.active.is_none_or(|slot| state.slot(slot).is_some()) && state.to_bytes() == bytes;
        whole.then_some(state)
    }
}

const LABEL: [u8; 16] = *b"kdh-store\0\0\0\0\0\0\0";
const VERSION: u32 = 1;
const LEN: usize = 176;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_no_other_bytes() {
        let content = Content { digest: [7; 32], rollback_counter: 9, good: true };
        let mut state = State { failed_starts: 2, minimum_rollback_counter: 5, ..State::default() };
        for active in [None, Some(Slot::A), Some(Slot::B)] {
            if let Some(slot) = active {
                *state.slot_mut(slot) = Some(Content { good: slot == Slot::A, ..content });
            }
            state.active = active;
            let bytes = state.to_bytes();
            assert_eq!(State::parse(&bytes), Some(state.clone()));
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert_eq!(State::parse(&changed), None, "byte {at}");
                assert_eq!(State::parse(&bytes[..at]), None, "{at} bytes");
            }
        }
        let empty = State { active: Some(Slot::A), ..State::default() };
        assert_eq!(State::parse(&empty.to_bytes()), None, "an active slot holds something");
    }
}
