//! A machine without memory gets an error, not a dead process: every large allocation of a build is made to fail in turn.

#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use kdh_runtime::engine::EngineError;
use kdh_runtime::program::ProgramError;
use kdh_runtime::text::VocabularyError;
use kdh_runtime::{BuildError, Bundle, BundleFile, Labeler, LabelerOptions};

/// Allocations from this size on can fail: what a bundle has a say in. Smaller ones are bounded whatever the bundle.
const LARGE: usize = 40 << 10;

/// The system's allocator, which fails the large allocation whose turn it is.
struct Failing;

thread_local! {
    /// Large allocations of this thread that still succeed; `None`: all do.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

fn fails(size: usize) -> bool {
    size >= LARGE
        && LEFT.with(|left| match left.get() {
            Some(0) => true,
            Some(more) => {
                left.set(Some(more - 1));
                false
            }
            None => false,
        })
}

// SAFETY: every call goes to `System` with the arguments that it came with, or gives the null pointer that means failure;
// the counter is a thread-local without a destructor, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if fails(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: `pointer` came from `System`, with this layout; the size is the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static FAILING: Failing = Failing;

/// Verifies: R-107
#[test]
fn every_large_allocation_of_a_build_may_fail() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default.kdh");
    let bytes = std::fs::read(&path).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    // The first copies the weights, the second maps them.
    let copied = failures(|| Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()));
    let mapped = failures(|| {
        let file = BundleFile::open(&path).unwrap();
        Labeler::from_file(file, &LabelerOptions::new().allow_unsigned())
    });
    println!("{copied} allocations of a copying build failed, {mapped} of a mapping one");
    assert!(copied > mapped && mapped >= 3);
}

/// Fails one large allocation after the other until all are granted; how many there were.
fn failures(build: impl Fn() -> Result<Labeler, BuildError>) -> usize {
    for number in 0.. {
        LEFT.set(Some(number));
        let result = build().and_then(|labeler| labeler.try_scratch().map_err(BuildError::Engine));
        LEFT.set(None);
        match result {
            Ok(_) => return number,
            Err(
                BuildError::Engine(EngineError::OutOfMemory { .. })
                | BuildError::Program(ProgramError::OutOfMemory { .. })
                | BuildError::Vocabulary(VocabularyError::OutOfMemory),
            ) => {}
            Err(error) => panic!("allocation {number}: {error}"),
        }
    }
    0
}
