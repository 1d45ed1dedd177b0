//! Encoding allocates nothing.

#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kdh_runtime::text::{Encoding, Sentences, Tokenizer, TokenizerOptions};

/// The system's allocator, which counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to `System` with the arguments that it came with, so `System`'s guarantees are this
// allocator's; the counter is a thread-local without destructor, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `pointer` came from `System`, with this layout; the size is the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn encoding_allocates_nothing() {
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\nheal\n##ed\nwound\n.\n,\ne\n##e\n\u{1100}\n##\u{1161}";
    let options = TokenizerOptions { lowercase: true, cls: "[CLS]", sep: "[SEP]", unk: "[UNK]" };
    let tokenizer = Tokenizer::new(vocabulary.as_bytes(), &options).unwrap();
    let mut encoding = Encoding::new(64, 4);
    let texts = [
        "The wound healed. \u{C9}\u{E9} \u{AC00} \u{4E00}\u{3002} \u{1D15E}\u{302E} unknowable\n\n- item".repeat(50),
        "e".repeat(100_000),
        "\u{E9}.".repeat(10_000),
        String::new(),
    ];
    let before = ALLOCATIONS.get();
    let mut tokens = 0;
    for text in &texts {
        tokenizer.encode(text, Sentences::new(text), &mut encoding);
        tokens += encoding.text_tokens();
    }
    let after = ALLOCATIONS.get();
    assert!(tokens > 20_000);
    assert_eq!(after - before, 0);
    // The counter counts.
    drop(Encoding::new(64, 4));
    assert_eq!(ALLOCATIONS.get() - after, 3);
}
