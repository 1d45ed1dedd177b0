//! Texts in parts.

use kdh_format::wire::{Assembly, ChunkError, Chunks, MAX_CHUNK_LEN, Progress, RequestChunk, RequestFlags, crc32};
use proptest::prelude::*;

use crate::frames::ID;

/// What a service does with the parts: the text when it is whole.
fn assemble<'a>(
    assembly: &mut Assembly,
    memory: &mut Vec<u8>,
    chunks: impl Iterator<Item = RequestChunk<'a>>,
) -> Result<Option<Vec<u8>>, ChunkError> {
    for chunk in chunks {
        let progress = assembly.accept(&chunk)?;
        if matches!(progress, Progress::First | Progress::Last { first: true }) {
            memory.clear();
        }
        memory.extend(chunk.bytes);
        if matches!(progress, Progress::Last { .. }) {
            assert_eq!(crc32(memory), chunk.text_crc);
            return Ok(Some(memory.clone()));
        }
    }
    Ok(None)
}

#[test]
fn a_text_that_is_too_long() {
    let longest = "x".repeat(1 << 20);
    assert!(Chunks::new(ID, RequestFlags(0), &longest).is_some());
    assert!(Chunks::new(ID, RequestFlags(0), &format!("{longest}x")).is_none());
}

#[test]
fn an_empty_text_has_one_part() {
    assert_eq!(Chunks::new(ID, RequestFlags(0), "").unwrap().count(), 1);
    let whole = assemble(&mut Assembly::new(), &mut vec![1], Chunks::new(ID, RequestFlags(0), "").unwrap());
    assert_eq!(whole, Ok(Some(vec![])));
}

#[test]
fn a_new_text_takes_the_place_of_one_that_was_begun() {
    let (old, new) = ("o".repeat(2000), "n".repeat(2000));
    let (mut assembly, mut memory) = (Assembly::new(), Vec::new());
    let old = Chunks::new(ID, RequestFlags(0), &old).unwrap().take(2);
    assert_eq!(assemble(&mut assembly, &mut memory, old), Ok(None));
    assert_eq!(assembly.pending(), Some(ID));
    let whole = assemble(&mut assembly, &mut memory, Chunks::new(ID, RequestFlags(0), &new).unwrap());
    assert_eq!(whole, Ok(Some(new.into_bytes())));
    assert_eq!(assembly.pending(), None);
}

/// Verifies: R-031
#[test]
fn parts_of_two_texts_are_never_joined() {
    let (old, new) = ("o".repeat(2000), "n".repeat(2000));
    let mut chunks: Vec<_> = Chunks::new(ID, RequestFlags(0), &old).unwrap().collect();
    chunks[2] = Chunks::new(ID, RequestFlags(0), &new).unwrap().nth(2).unwrap();
    let error = assemble(&mut Assembly::new(), &mut Vec::new(), chunks.into_iter());
    assert_eq!(error, Err(ChunkError { id: ID }));
}

proptest! {
    /// Verifies: R-031
    #[test]
    fn every_text_comes_out_whole(text in ".{0,2000}", rounds in 1..3) {
        let (mut assembly, mut memory) = (Assembly::new(), Vec::new());
        for _ in 0..rounds {
            let chunks = Chunks::new(ID, RequestFlags(0), &text).unwrap();
            prop_assert_eq!(chunks.clone().count(), text.len().div_ceil(MAX_CHUNK_LEN).max(1));
            let whole = assemble(&mut assembly, &mut memory, chunks).unwrap();
            prop_assert_eq!(whole.as_deref(), Some(text.as_bytes()));
        }
    }

    /// Verifies: R-031
    #[test]
    fn a_missing_or_repeated_part_is_found(parts in 3_usize..8, at in 1_usize..7, repeat in any::<bool>()) {
        prop_assume!(at < parts);
        let text = "t".repeat(parts * MAX_CHUNK_LEN);
        let mut chunks: Vec<_> = Chunks::new(ID, RequestFlags(0), &text).unwrap().collect();
        if repeat {
            chunks.insert(at, chunks[at]);
        } else {
            chunks.remove(at);
        }
        let whole = assemble(&mut Assembly::new(), &mut Vec::new(), chunks.into_iter());
        // A text whose last part is missing is not over, and one whose last part came has all of it.
        if at == parts - 1 {
            prop_assert_eq!(whole.map(|whole| whole.is_some()), Ok(repeat));
        } else {
            prop_assert!(whole.is_err());
        }
    }
}
