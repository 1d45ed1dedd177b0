//! Labelling allocates nothing, and a scratch exactly what it says.

#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kdh_runtime::{Abstention, Bundle, DocumentOptions, Labeler, LabelerOptions};

/// The system's allocator, which counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
    BYTES.with(|all| all.set(all.get() + bytes));
}

// SAFETY: every call goes to `System` with the arguments that it came with, so `System`'s guarantees are this
// allocator's; the counters are thread-locals without destructors, which neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: `pointer` came from `System`, with this layout; the size is the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Verifies: R-004
#[test]
fn labelling_allocates_nothing() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default.kdh");
    let bytes = std::fs::read(path).unwrap();
    let bytes = bundle::with_decisions(&Bundle::parse(&bytes).unwrap());
    let labeler =
        Labeler::from_bundle(&Bundle::parse(&bytes).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
    let points = ["first", "second"].map(|name| labeler.operating_point(name).unwrap());

    // From nothing to beyond the longest input, with everything that the tokeniser and the splitter treat apart.
    let words = "The tumour cells divided, TNF-\u{3b1} rose by 3.5 \u{b5}g/ml. Caf\u{e9}-au-lait spots; \u{4e2d}\u{6587}\u{3002} No vessel grew! ";
    let endless: Vec<char> = words.repeat(40).chars().collect();
    let texts: Vec<String> =
        (0..128).map(|number| endless[number % 90..number % 90 + 16 * number].iter().collect()).collect();
    let long = "word ".repeat(50_000);

    let bytes_before = BYTES.get();
    let allocations_before = ALLOCATIONS.get();
    let mut scratch = labeler.scratch();
    assert_eq!(BYTES.get() - bytes_before, labeler.memory_required());
    assert_eq!(ALLOCATIONS.get() - allocations_before, 4);

    let mut memory = vec![0; labeler.memory_required()];
    let before = ALLOCATIONS.get();
    let mut in_memory = labeler.scratch_in(&mut memory).unwrap();
    assert_eq!(labeler.label(&mut in_memory, &texts[50]), labeler.label(&mut scratch, &texts[50]));
    let (mut given, mut tokens, mut truncated, mut empty, mut scored) = (0, 0, 0, 0, 0);
    for (text, point) in texts.iter().chain([&long]).zip(points.into_iter().cycle()) {
        let report = labeler.label_at(&mut scratch, text, point).unwrap();
        scored += usize::from(report.out_of_distribution.is_some_and(|ood| ood.score.is_finite()));
        given += report.labels.iter().filter(|label| label.positive()).count();
        tokens += report.kept_tokens;
        truncated += usize::from(report.truncated());
        empty += usize::from(report.abstention == Abstention::EMPTY);
    }
    let after = ALLOCATIONS.get();
    assert_eq!(after - before, 0);
    // The texts were what they should be, and the counter counts.
    assert!(given > 50 && tokens > 20_000 && truncated >= 1 && empty >= 1, "{given} {tokens} {truncated} {empty}");
    assert_eq!(scored + empty, texts.len() + 1);
    drop(labeler.scratch());
    assert_eq!(ALLOCATIONS.get() - after, 4);
}

/// Verifies
#[test]
fn documents_allocate_nothing() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default.kdh");
    let bytes = std::fs::read(path).unwrap();
    let labeler =
        Labeler::from_bundle(&Bundle::parse(&bytes).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
    // White space, so that the stream fills more often than the windows, which take the time.
    let note =
        format!("The tumour cells divided, TNF-\u{3b1} rose. Caf\u{e9}-au-lait spots were seen.{}", " ".repeat(900));
    let endless = "word ".repeat(4000);
    let texts = [note.repeat(100), endless, String::new(), note];

    let before = (BYTES.get(), ALLOCATIONS.get());
    let mut scratch = labeler.document_scratch();
    assert_eq!(BYTES.get() - before.0, labeler.document_memory_required());
    assert!(ALLOCATIONS.get() > before.1);
    let mut memory = vec![0; labeler.document_memory_required()];
    let made = ALLOCATIONS.get();
    let mut in_memory = labeler.document_scratch_in(&mut memory).unwrap();
    let (mut windows, mut splits, mut dropped) = ([0; 4], 0, 0);
    for (text, windows) in texts.iter().zip(&mut windows) {
        let mut document = labeler.document(&mut scratch, &DocumentOptions::new()).unwrap();
        text.as_bytes().chunks(1009).for_each(|chunk| document.push(chunk).unwrap());
        let found = document.finish().unwrap();
        *windows = found.windows;
        splits += found.splits;
        dropped += found.report.dropped_tokens();
        assert_eq!(found.report.abstention == Abstention::EMPTY, text.is_empty());
    }
    let found = labeler.label_document(&mut in_memory, &DocumentOptions::new(), &texts[1]).unwrap();
    assert_eq!((found.windows, found.report.dropped_tokens()), (windows[1], 0));
    assert_eq!(ALLOCATIONS.get(), made);
    assert!(windows[0] > 4 && windows[1] > 4 && windows[2..] == [0, 1] && splits > 4 && dropped == 0, "{windows:?}");
}

#[cfg(test)]
mod bundle {
    use kdh_format::{
        BundleWriter, Calibration, Decisions, Fitted, Interval, LabelThreshold, Limits, OperatingPoint,
        OutOfDistribution, Policy, heapless,
    };
    use kdh_runtime::Bundle;

    /// Every kind of calibration, two operating points and an out-of-distribution score.
    pub(super) fn with_decisions(bundle: &Bundle<'_>) -> Vec<u8> {
        let labels = bundle.manifest().unwrap().labels.len();
        let calibrations = [
            Calibration::Identity,
            Calibration::Temperature(1.5),
            Calibration::Platt { slope: 0.9, intercept: -0.5 },
            Calibration::Isotonic(heapless::Vec::from_slice(&[(-2.0, 0.1), (0.0, 0.4), (2.0, 0.9)]).unwrap()),
        ];
        let floats = |count: usize| -> Vec<u8> { (0..count).flat_map(|_| 0.01_f32.to_le_bytes()).collect() };
        let (mean, directions) = (floats(384), floats(32 * 384));
        let whole = Interval { estimate: 1.0, low: 1.0, high: 1.0 };
        let points = ["first", "second"].into_iter().zip([0.5, 0.2]).map(|(name, threshold)| OperatingPoint {
            name,
            policy: Policy::MaxF1,
            labels: (0..labels)
                .map(|_| LabelThreshold { threshold, pooled: false, precision: whole, recall: whole })
                .collect(),
            figures: heapless::Vec::new(),
        });
        let decisions = Decisions {
            fitted: Fitted { data: "none", author: "", date: "", command: "", documents: 0, bundle: bundle.digest() },
            limits: Limits { min_tokens: 4, max_unknown_rate: 0.5 },
            calibration: calibrations.into_iter().cycle().take(labels).collect(),
            figures: heapless::Vec::new(),
            points: points.collect(),
            out_of_distribution: Some(OutOfDistribution {
                mean: &mean,
                directions: &directions,
                residual_weight: 1.0,
                logit_weight: 1.0,
                threshold: 1e6,
            }),
        };
        BundleWriter::of(bundle).decisions(&decisions, labels).unwrap().finish().unwrap()
    }
}
