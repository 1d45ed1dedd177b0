//! Whatever happens to the bytes of one frame, the frames around it arrive.

use kdh_format::wire::{Decoder, Frame};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::frames::{encode, longest, samples};

const CORRUPTIONS: usize = 1_000_000;

/// Verifies: R-030
#[test]
fn a_million_corruptions_cost_only_what_they_touch() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let frames: Vec<Frame<'_>> = samples().into_iter().chain(longest()).collect();
    let encoded: Vec<Vec<u8>> = frames.iter().map(encode).collect();
    let mut decoder = Decoder::new();
    let (mut lost, mut survived, mut line) = (0, 0, Vec::new());
    for _ in 0..CORRUPTIONS {
        let [before, middle, after] = [(); 3].map(|()| random.random_range(0..frames.len()));
        let mut damaged = encoded[middle].clone();
        while damaged == encoded[middle] {
            damage(&mut damaged, &mut random);
        }
        line.clear();
        line.extend_from_slice(&encoded[before]);
        line.extend_from_slice(&damaged);
        line.extend_from_slice(&encoded[after]);

        let (mut unread, mut arrived) = (line.as_slice(), 0);
        let mut middles = 0;
        while let Some(found) = decoder.take(&mut unread) {
            let Ok(found) = found else { continue };
            // Noise before or behind the middle frame leaves it whole. Nothing else may come out of it.
            if arrived == 0 {
                assert_eq!(found, frames[before]);
                arrived = 1;
            } else if unread.is_empty() {
                assert_eq!(found, frames[after]);
                arrived = 2;
            } else {
                assert_eq!(found, frames[middle]);
                middles += 1;
            }
        }
        assert_eq!(arrived, 2, "{} {} {damaged:02x?}", encoded[before].len(), encoded[after].len());
        assert!(middles <= 1);
        lost += 1 - middles;
        survived += middles;
    }
    println!(
        "{CORRUPTIONS} corruptions: {} of {} frames around them arrived; {lost} corrupted frames lost, {survived} whole \
         beside noise",
        2 * CORRUPTIONS,
        2 * CORRUPTIONS
    );
    // Most corruptions touch the frame itself: otherwise this test tests little.
    assert!(lost > CORRUPTIONS * 9 / 10);
}

fn damage(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    let at = random.random_range(0..bytes.len());
    let run = random.random_range(1..=bytes.len() - at);
    match random.random_range(0..9) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes[at..at + run].fill_with(|| random.random()),
        3 => bytes[at..at + run].fill(if random.random() { 0xFF } else { 0 }),
        4 => drop(bytes.drain(at..at + run)),
        5 => {
            let noise: Vec<u8> = (0..random.random_range(1..40)).map(|_| random.random()).collect();
            drop(bytes.splice(at..at, noise));
        }
        6 => {
            // More than any frame has, without a zero byte in it.
            let noise: Vec<u8> = (0..random.random_range(500..1500)).map(|_| random.random_range(1..=255)).collect();
            drop(bytes.splice(at..at + run, noise));
        }
        7 => {
            let other = random.random_range(0..bytes.len());
            bytes.swap(at, other);
        }
        _ => {
            // A part comes twice: not the whole frame, of which both copies would be right.
            let run = run.min(bytes.len() / 2);
            let copy = bytes[at..at + run].to_vec();
            drop(bytes.splice(at..at, copy));
        }
    }
}

/// Verifies: R-030
#[test]
fn any_noise_then_a_frame() {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let sample = samples().swap_remove(4);
    let encoded = encode(&sample);
    let mut decoder = Decoder::new();
    for _ in 0..20_000 {
        let len = random.random_range(0..2000);
        let noise: Vec<u8> =
            (0..len).map(|_| if random.random_bool(0.01) { 0 } else { random.random_range(1..=255) }).collect();
        let line = [noise.as_slice(), &encoded].concat();
        let (mut unread, mut last) = (line.as_slice(), false);
        while let Some(found) = decoder.take(&mut unread) {
            last = found.as_ref() == Ok(&sample);
        }
        assert!(last && unread.is_empty());
    }
}
