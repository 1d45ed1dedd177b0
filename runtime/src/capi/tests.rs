#![allow(clippy::unwrap_used, reason = "a test may panic")]

use core::ffi::{CStr, c_void};
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};
use std::sync::{LazyLock, Mutex};

use kdh_format::{
    BundleWriter, Calibration, Decisions, Fitted, Interval, LabelThreshold, Limits, OperatingPoint, Policy, SecretKey,
    heapless, sign_bundle,
};

use super::*;
use crate::{DocumentOptions, DocumentReport, LabelerOptions};

/// The tiny bundle, which is fast under emulation, too, with two operating points, signed with the demonstration key.
static BUNDLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let tiny = Bundle::parse(include_bytes!("../../tests/data/tiny.kdh")).unwrap();
    let whole = Interval { estimate: 1.0, low: 1.0, high: 1.0 };
    let label = |threshold| LabelThreshold { threshold, pooled: false, precision: whole, recall: whole };
    let point = |name, threshold| OperatingPoint {
        name,
        policy: Policy::MaxF1,
        labels: [threshold; 3].into_iter().map(label).collect(),
        figures: heapless::Vec::new(),
    };
    let decisions = Decisions {
        fitted: Fitted { data: "none", author: "", date: "", command: "", documents: 0, bundle: [0; 32] },
        limits: Limits { min_tokens: 2, max_unknown_rate: 1.0 },
        calibration: [const { Calibration::Identity }; 3].into_iter().collect(),
        figures: heapless::Vec::new(),
        points: [point("half", 0.5), point("all", 0.0)].into_iter().collect(),
        out_of_distribution: None,
    };
    let bytes = BundleWriter::of(&tiny).decisions(&decisions, 3).unwrap().finish().unwrap();
    let secret = include_str!("../../../examples/keys/demonstration.secret");
    sign_bundle(&Bundle::parse(&bytes).unwrap(), &SecretKey::parse(secret).unwrap()).unwrap()
});
const LABELS: usize = 3;
const TRUST: &CStr = {
    let text = concat!(include_str!("../../../examples/keys/demonstration.trust"), "\0");
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(trust) => trust,
        Err(_) => panic!("the trust file holds a zero byte"),
    }
};
/// More tokens than the tiny model takes.
const TEXT: &str = include_str!("../../../examples/abstract.txt");

fn options() -> Options {
    Options {
        size: size_of::<Options>(),
        max_text_size: 0,
        on_overflow: OVERFLOW_WINDOW,
        flags: OPEN_ALLOW_TEST_KEYS,
        deadline_ms: 0,
        trust: TRUST.as_ptr(),
        kernels: null(),
        log: None,
        log_user: null_mut(),
        operating_point: null(),
    }
}

fn open_with(bundle: &'static [u8], options: *const Options) -> (Status, Handle) {
    let mut handle = Handle { id: 1 };
    // SAFETY: all pointers are what the function asks for.
    let status = unsafe { kdh_open_memory(bundle.as_ptr().cast(), bundle.len(), options, &mut handle) };
    (status, handle)
}

fn open_default() -> Handle {
    let (status, handle) = open_with(&BUNDLE, &options());
    assert_eq!(status, Status::Ok, "{}", message());
    handle
}

fn message() -> String {
    // SAFETY: a string of this thread.
    unsafe { CStr::from_ptr(kdh_last_error()) }.to_str().unwrap().to_owned()
}

/// A scratch in memory of its own.
struct Owned(Vec<MaybeUninit<u8>>, *mut ScratchHandle);

fn scratch(handle: Handle) -> Owned {
    let size = kdh_scratch_size(handle);
    // One more, so that it can begin at an odd address.
    let mut memory = vec![MaybeUninit::uninit(); size + 1];
    let start = memory.as_mut_ptr().cast::<u8>();
    let start = start.wrapping_add(usize::from(start.addr().is_multiple_of(2)));
    let mut scratch = null_mut();
    // SAFETY: `size` bytes that live as long as the scratch.
    let status = unsafe { kdh_scratch_init(handle, start.cast(), size, &mut scratch) };
    assert_eq!(status, Status::Ok, "{}", message());
    Owned(memory, scratch)
}

fn label(handle: Handle, scratch: *mut ScratchHandle, text: &[u8]) -> (Status, Report, Vec<LabelReport>) {
    label_at(handle, scratch, None, text)
}

fn label_at(
    handle: Handle,
    scratch: *mut ScratchHandle,
    point: Option<&CStr>,
    text: &[u8],
) -> (Status, Report, Vec<LabelReport>) {
    let mut report = Report { sentences: 99, ..Report::default() };
    let mut labels = vec![LabelReport { given: 99, ..LabelReport::default() }; LABELS];
    // SAFETY: all pointers are what the function asks for.
    let status = unsafe {
        let rows = labels.as_mut_ptr();
        match point {
            None => kdh_label(handle, scratch, text.as_ptr().cast(), text.len(), &mut report, rows, LABELS),
            Some(name) => {
                let (name, text, size) = (name.as_ptr(), text.as_ptr().cast(), text.len());
                kdh_label_at(handle, scratch, name, text, size, &mut report, rows, LABELS)
            }
        }
    };
    (status, report, labels)
}

/// What the Rust API says of a text of any length.
fn expected<'l>(labeler: &'l Labeler, text: &str, point: Option<&str>) -> DocumentReport<'l> {
    let point = point.map(|name| labeler.operating_point(name).unwrap());
    let options = point.map_or(DocumentOptions::new(), |point| DocumentOptions::new().operating_point(point));
    labeler.label_document(&mut labeler.document_scratch(), &options, text).unwrap()
}

fn labeler() -> Labeler {
    Labeler::from_shared(Arc::new(BUNDLE.as_slice()), &LabelerOptions::new().allow_unsigned()).unwrap()
}

fn close(handle: Handle, scratch: &Owned) {
    // SAFETY: the scratch is there.
    assert_eq!(unsafe { kdh_scratch_release(scratch.1) }, Status::Ok);
    assert_eq!(kdh_close(handle), Status::Ok);
}

/// Verifies: R-061
#[test]
fn says_what_the_labeler_says() {
    let handle = open_default();
    let scratch = scratch(handle);
    let labeler = labeler();
    // One window, several, and none of whose words the model has to leave out.
    let long = TEXT.repeat(5);
    for (text, windows) in [("The cells divided.", 1..2), (TEXT, 2..20), (&long, 20..200)] {
        for (point, name) in [(None, None), (Some(c"half"), Some("half")), (Some(c"all"), Some("all"))] {
            let (status, report, labels) = label_at(handle, scratch.1, point, text.as_bytes());
            assert_eq!(status, Status::Ok, "{}", message());
            let DocumentReport { report: expected, windows: ran, splits, .. } = expected(&labeler, text, name);
            assert_eq!(report, Report::of(&expected, ran, splits));
            assert_eq!(labels, expected.labels.iter().map(LabelReport::of).collect::<Vec<_>>());
            assert!(windows.contains(&(report.windows as usize)), "{report:?}");
            assert_eq!(report.kept_tokens, report.text_tokens);
            let evident = |label: &LabelReport| label.evidence_count > 0 && label.evidence[0].end > 0;
            let all = labels.iter().all(|label| label.given == 1 && evident(label));
            assert!(all || name != Some("all"), "{labels:?}");
        }
    }
    // The last evidence lies behind what one window holds.
    let (_, _, labels) = label_at(handle, scratch.1, Some(c"all"), long.as_bytes());
    assert!(labels.iter().any(|label| label.evidence.iter().any(|range| range.end as usize > TEXT.len())));
    let mut buffer = [1; MAX_NAME];
    for (index, code) in labeler.codes().enumerate() {
        // SAFETY: the buffer is as large as is said.
        assert_eq!(unsafe { kdh_label_code(handle, index, buffer.as_mut_ptr(), buffer.len()) }, Status::Ok);
        // SAFETY: a string was written.
        assert_eq!(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str(), Ok(code));
    }
    let mut difference = -1.0;
    // SAFETY: a pointer to a number.
    assert_eq!(unsafe { kdh_self_test(handle, &mut difference) }, Status::Ok, "{}", message());
    assert!(difference >= 0.0);
    close(handle, &scratch);
}

/// Verifies: R-061
#[test]
fn a_text_that_is_too_long_is_truncated_or_refused_when_that_is_asked_for() {
    let (status, handle) = open_with(&BUNDLE, &Options { on_overflow: OVERFLOW_TRUNCATE, ..options() });
    assert_eq!(status, Status::Ok);
    let begin = scratch(handle);
    let (status, report, labels) = label_at(handle, begin.1, Some(c"all"), TEXT.as_bytes());
    assert_eq!(status, Status::Ok);
    let labeler = labeler();
    let point = labeler.operating_point("all").unwrap();
    let expected = labeler.label_at(&mut labeler.scratch(), TEXT, point).unwrap();
    assert!(expected.truncated() && report.kept_tokens < report.text_tokens);
    assert_eq!(report, Report::of(&expected, 1, 0));
    assert_eq!(labels, expected.labels.iter().map(LabelReport::of).collect::<Vec<_>>());

    // Its scratch is too small for windows, and is refused where they are made; so is the other way.
    let windows = open_default();
    assert!(kdh_scratch_size(handle) < kdh_scratch_size(windows));
    let room = scratch(windows);
    let none = vec![LabelReport::default(); LABELS];
    assert_eq!(label(windows, begin.1, TEXT.as_bytes()), (Status::ForeignScratch, Report::default(), none.clone()));
    assert_eq!(label(handle, room.1, TEXT.as_bytes()), (Status::ForeignScratch, Report::default(), none.clone()));
    close(windows, &room);
    close(handle, &begin);

    let (status, handle) = open_with(&BUNDLE, &Options { on_overflow: OVERFLOW_REFUSE, ..options() });
    assert_eq!(status, Status::Ok);
    let begin = scratch(handle);
    assert_eq!(label(handle, begin.1, TEXT.as_bytes()), (Status::TooManyTokens, Report::default(), none));
    assert_eq!(label(handle, begin.1, b"The cells divided.").0, Status::Ok);
    close(handle, &begin);
}

/// Verifies: R-061
#[test]
fn operating_points_have_names() {
    let handle = open_default();
    let scratch = scratch(handle);
    assert_eq!(kdh_operating_point_count(handle), 2);
    let mut name = [1; MAX_NAME];
    for (index, expected) in [c"half", c"all"].into_iter().enumerate() {
        // SAFETY: the buffer is as large as is said; a string was written.
        unsafe {
            assert_eq!(kdh_operating_point_name(handle, index, name.as_mut_ptr(), name.len()), Status::Ok);
            assert_eq!(CStr::from_ptr(name.as_ptr()), expected);
        }
    }
    // SAFETY: the buffer is as large as is said.
    assert_eq!(unsafe { kdh_operating_point_name(handle, 2, name.as_mut_ptr(), name.len()) }, Status::Index);
    for (unknown, status) in [(c"nowhere", Status::Option), (c"\xff", Status::Utf8)] {
        let none = vec![LabelReport::default(); LABELS];
        assert_eq!(label_at(handle, scratch.1, Some(unknown), TEXT.as_bytes()), (status, Report::default(), none));
    }
    close(handle, &scratch);

    let (status, handle) = open_with(&BUNDLE, &Options { operating_point: c"all".as_ptr(), ..options() });
    assert_eq!(status, Status::Ok);
    let scratch = self::scratch(handle);
    let thresholds =
        |point| label_at(handle, scratch.1, point, TEXT.as_bytes()).2.iter().map(|label| label.threshold).sum();
    let sums: [f32; 3] = [None, Some(c"all"), Some(c"half")].map(thresholds);
    assert_eq!(sums, [0.0, 0.0, 1.5]);
    close(handle, &scratch);
}

#[test]
fn a_model_that_abstains_gives_no_label() {
    let handle = open_default();
    let scratch = scratch(handle);
    let (status, report, labels) = label_at(handle, scratch.1, Some(c"all"), b"cells");
    assert_eq!((status, report.abstention), (Status::Ok, ABSTENTION_TOO_SHORT));
    assert!(labels.iter().all(|label| label.given == 0 && label.evidence_count == 0 && label.probability > 0.0));
    close(handle, &scratch);
}

#[test]
fn a_closed_labeler_is_refused_everywhere() {
    let handle = open_default();
    let scratch = scratch(handle);
    assert_eq!(kdh_close(handle), Status::Ok);
    let next = open_default();
    assert_ne!(handle, next);
    for closed in [handle, Handle { id: 0 }, Handle { id: u64::MAX }, Handle { id: 64 }, Handle { id: 1 << 32 | 65 }] {
        assert_eq!(kdh_close(closed), Status::Handle);
        assert_eq!((kdh_label_count(closed), kdh_scratch_size(closed)), (0, 0));
        assert_eq!(
            label(closed, scratch.1, TEXT.as_bytes()),
            (Status::Handle, Report::default(), vec![LabelReport::default(); LABELS])
        );
    }
    // A scratch outlives its labeler, and fits another of the same model.
    assert_eq!(label(next, scratch.1, TEXT.as_bytes()).0, Status::Ok);
    // SAFETY: the scratch is there.
    assert_eq!(unsafe { kdh_scratch_release(scratch.1) }, Status::Ok);
    assert_eq!(kdh_close(next), Status::Ok);
}

#[test]
fn a_released_scratch_is_refused_and_holds_nothing() {
    let handle = open_default();
    let Owned(memory, pointer) = scratch(handle);
    assert_eq!(label(handle, pointer, TEXT.as_bytes()).0, Status::Ok);
    // SAFETY: the memory is there.
    unsafe {
        assert_eq!(kdh_scratch_release(pointer), Status::Ok);
        assert_eq!(kdh_scratch_release(pointer), Status::Handle);
        assert_eq!(kdh_scratch_release(null_mut()), Status::Ok);
    }
    assert_eq!(label(handle, pointer, TEXT.as_bytes()).0, Status::Handle);
    let size = kdh_scratch_size(handle);
    let start = usize::from(memory.as_ptr().addr().is_multiple_of(2));
    // SAFETY: the release has written these bytes.
    assert!(memory[start..start + size].iter().all(|byte| unsafe { byte.assume_init() } == 0));
    assert_eq!(kdh_close(handle), Status::Ok);
}

#[test]
fn wrong_arguments_are_refused() {
    let handle = open_default();
    let scratch = scratch(handle);
    let (bundle, size) = (BUNDLE.as_ptr().cast::<c_void>(), BUNDLE.len());
    let mut out = Handle { id: 7 };
    let mut report = Report::default();
    let mut labels = vec![LabelReport::default(); LABELS];
    let (text, rows) = (TEXT.as_ptr().cast::<c_char>(), labels.as_mut_ptr());
    let odd = |pointer: *mut LabelReport| pointer.cast::<u8>().wrapping_add(1).cast();
    // SAFETY: every call gets at least one argument that is refused before anything is read or written through it.
    unsafe {
        assert_eq!(kdh_open_memory(null(), size, null(), &mut out), Status::Null);
        assert_eq!(out.id, 0);
        assert_eq!(kdh_open_memory(bundle, usize::MAX, null(), &mut out), Status::Pointer);
        assert_eq!(kdh_open_memory(bundle, size, null(), null_mut()), Status::Null);
        assert_eq!(kdh_open_memory(bundle, size / 2, null(), &mut out), Status::Bundle);
        assert_eq!(kdh_open_memory(null(), 0, null(), &mut out), Status::Bundle);
        assert_eq!(kdh_open_file(null(), null(), &mut out), Status::Null);
        assert_eq!(kdh_open_file(c"/".as_ptr(), null(), &mut out), Status::Open);
        assert_eq!(kdh_open_file(c"\xff".as_ptr(), null(), &mut out), Status::Utf8);
        let one = usize::from(text.is_aligned());
        assert_eq!(one, 1);
        assert_eq!(kdh_label(handle, null_mut(), text, 1, &mut report, rows, LABELS), Status::Null);
        assert_eq!(kdh_label(handle, scratch.1, null(), 1, &mut report, rows, LABELS), Status::Null);
        assert_eq!(kdh_label(handle, scratch.1, null(), 0, &mut report, rows, LABELS), Status::NoTokens);
        assert_eq!(kdh_label(handle, scratch.1, text, usize::MAX, &mut report, rows, LABELS), Status::Pointer);
        assert_eq!(kdh_label(handle, scratch.1, text, 1, null_mut(), rows, LABELS), Status::Null);
        assert_eq!(kdh_label(handle, scratch.1, text, 1, &mut report, null_mut(), LABELS), Status::Null);
        assert_eq!(kdh_label(handle, scratch.1, text, 1, &mut report, odd(rows), LABELS - 1), Status::Pointer);
        assert_eq!(kdh_label(handle, scratch.1, text, 1, &mut report, rows, LABELS - 1), Status::TooSmall);
        assert_eq!(kdh_label(handle, odd(rows).cast(), text, 1, &mut report, rows, LABELS), Status::Pointer);
        // Any memory that is no scratch.
        let mut not_a_scratch = vec![0_u64; 64];
        let no_scratch = not_a_scratch.as_mut_ptr().cast();
        assert_eq!(kdh_label(handle, no_scratch, text, 1, &mut report, rows, LABELS), Status::Handle);
        let mut pointer = null_mut();
        let needed = kdh_scratch_size(handle);
        assert_eq!(kdh_scratch_init(handle, null_mut(), needed, &mut pointer), Status::Null);
        assert_eq!(
            kdh_scratch_init(handle, not_a_scratch.as_mut_ptr().cast(), needed - 1, &mut pointer),
            Status::TooSmall
        );
        assert!(message().contains(&needed.to_string()), "{}", message());
        let mut code = [1; 4];
        assert_eq!(kdh_label_code(handle, LABELS, code.as_mut_ptr(), 4), Status::Index);
        assert_eq!(kdh_label_name(handle, 0, code.as_mut_ptr(), 4), Status::TooSmall);
        assert_eq!(code, [0; 4]);
        assert_eq!(kdh_scratch_release(scratch.1), Status::Ok);
    }
    assert_eq!(kdh_close(handle), Status::Ok);
}

#[test]
fn options_are_read_or_refused() {
    let tries = [
        Options { size: 0, ..options() },
        Options { size: size_of::<Options>() + 8, ..options() },
        // In the middle of the last pointer.
        Options { size: size_of::<Options>() - 4, ..options() },
        Options { on_overflow: 3, ..options() },
        Options { flags: 1 << 31, ..options() },
        Options { kernels: c"abacus".as_ptr(), ..options() },
        Options { trust: c"whoever".as_ptr(), ..options() },
    ];
    for wrong in &tries {
        assert_eq!(open_with(&BUNDLE, wrong), (Status::Option, Handle { id: 0 }));
    }
    // Nobody is trusted, or only release keys are.
    for untrusted in [Options { trust: null(), ..options() }, Options { flags: 0, ..options() }] {
        assert_eq!(open_with(&BUNDLE, &untrusted), (Status::Untrusted, Handle { id: 0 }));
    }
    let nowhere = Options { operating_point: c"nowhere".as_ptr(), ..options() };
    assert_eq!(open_with(&BUNDLE, &nowhere), (Status::Bundle, Handle { id: 0 }));
    assert_eq!(open_with(&BUNDLE, null()), (Status::Untrusted, Handle { id: 0 }));
    let (status, handle) = open_with(&BUNDLE, &Options { trust: null(), flags: OPEN_ALLOW_UNSIGNED, ..options() });
    assert_eq!((status, kdh_close(handle)), (Status::Ok, Status::Ok));
    let portable =
        Options { kernels: c"portable".as_ptr(), on_overflow: OVERFLOW_REFUSE, max_text_size: 4_000, ..options() };
    let (status, handle) = open_with(&BUNDLE, &portable);
    assert_eq!(status, Status::Ok);
    let mut name = [0; 16];
    // SAFETY: the buffer is as large as is said; a string was written.
    unsafe {
        assert_eq!(kdh_kernels(handle, name.as_mut_ptr(), name.len()), Status::Ok);
        assert_eq!(CStr::from_ptr(name.as_ptr()), c"portable");
    }
    let scratch = scratch(handle);
    assert_eq!(label(handle, scratch.1, &[b'.'; 4_000]).0, Status::TooManyTokens);
    assert_eq!(label(handle, scratch.1, &[b'.'; 4_001]).0, Status::TextTooLong);
    close(handle, &scratch);
}

#[test]
fn a_text_that_takes_too_long_is_given_up() {
    // No processor labels a thousand windows in a millisecond with these.
    let (status, handle) = open_with(&BUNDLE, &Options { deadline_ms: 1, kernels: c"portable".as_ptr(), ..options() });
    assert_eq!(status, Status::Ok);
    let scratch = scratch(handle);
    assert_eq!(label(handle, scratch.1, "Cells divided. ".repeat(20_000).as_bytes()).0, Status::Deadline);
    close(handle, &scratch);
}

#[test]
fn threads_that_share_a_scratch_are_told() {
    let handle = open_default();
    let scratch = scratch(handle);
    // SAFETY: it is a scratch.
    let borrowed = unsafe { scratch::borrow(scratch.1) };
    assert!(borrowed.is_ok());
    assert_eq!(label(handle, scratch.1, TEXT.as_bytes()).0, Status::Busy);
    // SAFETY: the scratch is there.
    assert_eq!(unsafe { kdh_scratch_release(scratch.1) }, Status::Busy);
    drop(borrowed);
    // A labeler in use stays open.
    let status = guard(|| {
        handles::with(handle, |_| {
            std::thread::scope(|scope| {
                assert_eq!(scope.spawn(move || kdh_close(handle)).join().unwrap(), Status::Busy);
                Ok(())
            })
        })
    });
    assert_eq!(status, Status::Ok);
    assert_eq!(label(handle, scratch.1, TEXT.as_bytes()).0, Status::Ok);
    close(handle, &scratch);
}

#[test]
fn no_message_holds_a_text() {
    unsafe extern "C" fn collect(user: *mut c_void, level: u32, message: *const c_char) {
        // SAFETY: what the test gave, and a string.
        let (messages, message) = unsafe { (&*user.cast::<Mutex<Vec<String>>>(), CStr::from_ptr(message)) };
        messages.lock().unwrap().push(format!("{level} {}", message.to_str().unwrap()));
    }
    let messages = Mutex::new(Vec::<String>::new());
    let logged = Options {
        log: Some(collect),
        log_user: (&raw const messages).cast_mut().cast(),
        max_text_size: 100,
        ..options()
    };
    let (_, handle) = open_with(&BUNDLE, &logged);
    let scratch = scratch(handle);
    let secret = "zebra".repeat(30);
    assert_eq!(label(handle, scratch.1, secret.as_bytes()).0, Status::TextTooLong);
    assert_eq!(label(handle, scratch.1, b"zebra \xff").0, Status::Utf8);
    assert_eq!(label(handle, scratch.1, b" ").0, Status::NoTokens);
    close(handle, &scratch);
    let messages = messages.lock().unwrap();
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert!(messages[0].starts_with("3 opened: 3 labels") && messages[1].starts_with("1 "), "{messages:?}");
    assert!(!messages.concat().contains("zebra"));
}

#[test]
fn a_panic_is_a_status_and_quotes_nothing() {
    hush();
    let text = String::from("z\u{e9}bra");
    // Slicing inside a character panics with a message that quotes the text.
    let status = guard(|| {
        assert!(text[..2].is_empty());
        Ok(())
    });
    assert_eq!(status, Status::Panic);
    let message = message();
    assert!(message.contains("capi/tests.rs") && !message.contains("bra"), "{message}");
    // Long messages are cut between characters, and zero bytes do not end them.
    fail(Status::Engine, &format_args!("a\0b{}", "\u{e9}".repeat(600)));
    assert_eq!(self::message(), format!("ab{}", "\u{e9}".repeat(254)));
}
