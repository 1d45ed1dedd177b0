/// Makes inputs out of others. Not for secrets: SplitMix64 (Steele et al., "Fast Splittable Pseudorandom Number
/// Generators", 2014).
pub(crate) struct Mutator {
    state: u64,
    dictionary: &'static [&'static [u8]],
    max_len: usize,
}

/// Lengths and counts on both sides of a bound.
const NUMBERS: [u64; 22] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    32,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    4096,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_FFFF,
];

impl Mutator {
    pub(crate) fn new(seed: u64, dictionary: &'static [&'static [u8]], max_len: usize) -> Self {
        Self { state: seed, dictionary, max_len }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A mutation of one of `corpus`, which is not empty: every eighth of one at the places `accepted`, where there is one. What
    /// was refused is often far from anything that is not. Short ones are preferred there, because what is accepted takes its time.
    pub(crate) fn input(&mut self, corpus: &[Vec<u8>], accepted: &[usize], input: &mut Vec<u8>) {
        let any = accepted.is_empty() || !self.next().is_multiple_of(8);
        let at = if any {
            self.below(corpus.len())
        } else {
            let [one, other] = [0; 2].map(|_| accepted[self.below(accepted.len())]);
            if corpus[one].len() <= corpus[other].len() { one } else { other }
        };
        input.clear();
        input.extend_from_slice(&corpus[at]);
        for _ in 0..[1, 1, 1, 1, 2, 2, 4, 8][self.below(8)] {
            self.change(corpus, input);
        }
        input.truncate(self.max_len);
    }

    fn change(&mut self, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let value = self.next() as u8;
        match self.below(12) {
            0 | 1 if at < input.len() => input[at] ^= 1 << (value % 8),
            2 if at < input.len() => input[at] = value,
            3 if at < input.len() => input[at] = input[at].wrapping_add(if value < 128 { 1 } else { 255 }),
            4 => {
                // A number, little-endian, where numbers mostly lie.
                let width = [1, 2, 4, 8][self.below(4)];
                let at = if value < 200 { at / width * width } else { at };
                let mut number = NUMBERS[self.below(NUMBERS.len())];
                if value.is_multiple_of(4) {
                    number = input.len() as u64;
                }
                let bytes = number.to_le_bytes();
                input.iter_mut().skip(at).zip(&bytes[..width]).for_each(|(to, from)| *to = *from);
            }
            5 => {
                let end = (at + 1 + self.below(16)).min(input.len());
                input.drain(at.min(end)..end);
            }
            6 => input.truncate(at),
            7 => {
                let bytes: Vec<u8> = (0..1 + self.below(8)).map(|_| self.next() as u8).collect();
                input.splice(at..at, bytes);
            }
            8 => {
                let from = self.below(input.len() + 1);
                let end = (from + 1 + self.below(64)).min(input.len());
                let bytes = input[from.min(end)..end].to_vec();
                if value < 128 {
                    input.splice(at..at, bytes);
                } else {
                    input.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
                }
            }
            9 => {
                // The end of another input.
                let other = &corpus[self.below(corpus.len())];
                let from = if value < 128 { at.min(other.len()) } else { self.below(other.len() + 1) };
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ if !self.dictionary.is_empty() => {
                let word = self.dictionary[self.below(self.dictionary.len())];
                if value < 160 {
                    input.splice(at..at, word.iter().copied());
                } else {
                    input.iter_mut().skip(at).zip(word).for_each(|(to, from)| *to = *from);
                }
            }
            _ => input.push(value),
        }
    }
}
