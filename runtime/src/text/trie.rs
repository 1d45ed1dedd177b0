use std::collections::TryReserveError;

/// Byte strings and their ids in a double-array trie (Aoe, "An Efficient Digital Search Algorithm by Using a
/// Double-Array Structure", 1989), with the exclusive-or addressing of Yata: the child of a node for a byte is slot
/// `base ^ byte`. No two nodes share a base, so the byte in a slot is enough to tell whose child it is.
pub(super) struct Trie {
    slots: Vec<Slot>,
}

/// A position in the trie: the base of a node.
#[derive(Clone, Copy, Default)]
pub(super) struct Node(u32);

/// Base in the upper 32 bits, id + 1 (0: the node is no key) in 24, byte in 8 (0: free slot).
#[derive(Clone, Copy, Default)]
struct Slot(u64);

impl Slot {
    fn new(byte: u8, base: u32, id: Option<u32>) -> Self {
        Self(u64::from(base) << 32 | u64::from(id.map_or(0, |id| id + 1)) << 8 | u64::from(byte))
    }

    fn byte(self) -> u8 {
        self.0 as u8
    }

    fn id(self) -> Option<u32> {
        ((self.0 >> 8) as u32 & 0xFF_FFFF).checked_sub(1)
    }

    fn base(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// `base ^ byte` stays in the base's block.
const BLOCK: usize = 256;

impl Trie {
    /// One trie for several sets of keys, with a root for each.
    ///
    /// Of equal keys the highest id stays. Empty keys and keys with a zero byte are left out. Ids are below 2^24 - 1.
    ///
    /// # Errors
    ///
    /// When there is not enough memory.
    pub(super) fn new<const N: usize>(
        sets: [&mut Vec<(&[u8], u32)>; N],
        roots: &mut [Node; N],
    ) -> Result<Self, TryReserveError> {
        let mut builder = Builder::default();
        for (keys, root) in sets.into_iter().zip(roots) {
            keys.retain(|(key, _)| !key.is_empty() && !key.contains(&0));
            keys.sort_unstable();
            keys.dedup_by(|later, kept| {
                let equal = later.0 == kept.0;
                if equal {
                    kept.1 = later.1;
                }
                equal
            });
            *root = Node(builder.insert(keys)?);
        }
        Ok(Self { slots: builder.slots })
    }

    /// The id and length of the longest key below `root` that is a prefix of `bytes`.
    #[inline]
    pub(super) fn longest(&self, root: Node, bytes: impl Iterator<Item = u8>) -> Option<(u32, usize)> {
        let mut base = root.0;
        let mut longest = None;
        for (index, byte) in bytes.enumerate() {
            let Some(slot) = self.slots.get((base ^ u32::from(byte)) as usize) else { break };
            if slot.byte() != byte {
                break;
            }
            if let Some(id) = slot.id() {
                longest = Some((id, index + 1));
            }
            base = slot.base();
        }
        longest
    }

    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }
}

/// How many of the last blocks are searched for room: older ones are nearly full.
const OPEN_BLOCKS: usize = 4;

#[derive(Default)]
struct Builder {
    slots: Vec<Slot>,
    /// A bit per slot: set when free.
    free: Vec<u64>,
    /// A bit per base: set when a node has it.
    used: Vec<u64>,
}

impl Builder {
    /// Inserts sorted, distinct, non-empty keys and returns the base of their root.
    fn insert(&mut self, keys: &[(&[u8], u32)]) -> Result<u32, TryReserveError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let root = self.place(&children(keys, 0))?;
        // A node whose keys are `keys[range]`, which share their first `depth` bytes, and its base.
        let mut pending = vec![(keys, 0, root)];
        while let Some((keys, depth, base)) = pending.pop() {
            for group in keys.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
                let byte = group[0].0[depth];
                let (id, longer) = match group[0] {
                    (key, id) if key.len() == depth + 1 => (Some(id), &group[1..]),
                    _ => (None, group),
                };
                let below = if longer.is_empty() { 0 } else { self.place(&children(longer, depth + 1))? };
                self.slots[base as usize ^ usize::from(byte)] = Slot::new(byte, below, id);
                if !longer.is_empty() {
                    pending.push((longer, depth + 1, below));
                }
            }
        }
        Ok(root)
    }

    /// Finds a base with free slots for `bytes` and takes them.
    ///
    /// Base 0 stays without a node: it is the base of leaves, and the byte in slot `byte` is never `byte` then.
    fn place(&mut self, bytes: &[u8]) -> Result<u32, TryReserveError> {
        let first_word = (self.slots.len().saturating_sub(OPEN_BLOCKS * BLOCK)) / 64;
        let found = (first_word..self.free.len()).find_map(|word| {
            let mut free = self.free[word];
            while free != 0 {
                let slot = word * 64 + free.trailing_zeros() as usize;
                let base = slot ^ usize::from(bytes[0]);
                if !bit(&self.used, base) && bytes.iter().all(|&byte| bit(&self.free, base ^ usize::from(byte))) {
                    return Some(base);
                }
                free &= free - 1;
            }
            None
        });
        let base = match found {
            Some(base) => base,
            None => self.grow()?,
        };
        self.used[base / 64] |= 1 << (base % 64);
        for &byte in bytes {
            let slot = base ^ usize::from(byte);
            self.free[slot / 64] &= !(1 << (slot % 64));
        }
        Ok(base as u32)
    }

    /// Adds a block and returns an unused base in it.
    fn grow(&mut self) -> Result<usize, TryReserveError> {
        let start = self.slots.len();
        self.slots.try_reserve(BLOCK)?;
        self.free.try_reserve(BLOCK / 64)?;
        self.used.try_reserve(BLOCK / 64)?;
        self.slots.resize(start + BLOCK, Slot::default());
        self.free.resize(self.free.len() + BLOCK / 64, u64::MAX);
        self.used.resize(self.used.len() + BLOCK / 64, 0);
        if start == 0 {
            self.used[0] |= 1;
        }
        Ok(start + 1)
    }
}

fn children(keys: &[(&[u8], u32)], depth: usize) -> Vec<u8> {
    keys.chunk_by(|a, b| a.0[depth] == b.0[depth]).map(|group| group[0].0[depth]).collect()
}

fn bit(bits: &[u64], index: usize) -> bool {
    bits[index / 64] >> (index % 64) & 1 != 0
}
