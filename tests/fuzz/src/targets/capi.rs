//! The C ABI: any sequence of calls, with every kind of argument that its header lets a caller get wrong.

#![expect(unsafe_code, reason = "calls what C calls")]

use core::ffi::{CStr, c_char, c_void};
use core::ptr::{null, null_mut};
use std::cell::Cell;

use kdh_format::Trust;
use kdh_runtime::capi::{
    Evidence, Handle, LabelReport, MAX_NAME, OPEN_ALLOW_TEST_KEYS, OPEN_ALLOW_UNSIGNED, OVERFLOW_REFUSE,
    OVERFLOW_TRUNCATE, OVERFLOW_WINDOW, Options, Report, ScratchHandle, Status, kdh_close, kdh_kernels, kdh_label_at,
    kdh_label_code, kdh_label_count, kdh_label_name, kdh_last_error, kdh_open_file, kdh_open_memory, kdh_scratch_init,
    kdh_scratch_release, kdh_scratch_size, kdh_self_test,
};

use super::{Outcome, Target, broken, small};

pub(super) const CAPI: Target = Target {
    name: "capi",
    about: "sequences of the C ABI's calls with null, misaligned, closed and foreign arguments: each ends as the header says",
    short: 6_000,
    dictionary: &[
        b"\x00\x00\x00\x00",
        b"\x01\x00",
        b"\x03\x00\x00\x00\x00",
        b"\x05\x00\x00\x00\x04a b.",
        b"\x04\x00",
        b"\x07\x00",
    ],
    files: &[],
    made: || {
        vec![
            // Open, make a scratch, label twice, release, close.
            b"\x00\x00\x00\x00\x03\x00\x00\x00\x05\x00\x00\x00\x07ab a b.\x05\x00\x00\x00\x01 \x04\x00\x01\x00".to_vec(),
            // Two models, a scratch of one for the other, both closed, used again.
            b"\x00\x00\x00\x00\x00\x01\x01\x00\x03\x00\x00\x00\x05\x01\x00\x00\x02ab\x01\x00\x01\x01\x05\x00\x00\x00\x02ab".to_vec(),
            // Names, self-test, wrong bundles and options.
            b"\x00\x00\x00\x00\x02\x00\x00\x07\x06\x00\x00\x03\x00\x01\x04\x00\x00\x02\x00\x02\x03\x00\x03\x08\x04".to_vec(),
        ]
    },
    start: || {
        let world = match World::new() {
            Ok(world) => world,
            Err(error) => return broken(&error),
        };
        // A labeler uses the bytes where they lie, until it is closed.
        let world: &'static World = Box::leak(Box::new(world));
        Box::new(move |input| {
            let mut calls =
                Calls { world, script: Script(input), labelers: Default::default(), scratches: Default::default() };
            let mut kinds = 0;
            for _ in 0..24 {
                let Some(kind) = calls.script.0.first().copied() else { break };
                calls.script.0 = &calls.script.0[1..];
                kinds |= calls.call(kind % 8) << (2 * (kind % 8));
            }
            calls.end();
            Outcome { accepted: kinds & 0x5555 != 0, kind: kinds }
        })
    },
};

/// Bundles and the strings that open them.
struct World {
    /// Two of the same limits and different engines, one with a smaller limit, one whose golden texts are wrong.
    bundles: Vec<Vec<u8>>,
    damaged: Vec<u8>,
    trust: Vec<u8>,
    path: Vec<u8>,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let bundles = vec![small::bundle(true, 8, 0)?, small::bundle(false, 8, 0)?, small::bundle(true, 6, 0)?];
        let mut damaged = bundles[0].clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let key = small::key()?;
        let trust = format!("kdh-trust 1\n{}\0", key.public());
        // What the strings are for is tried here, so that a target that opens nothing is not taken for one that finds nothing.
        Trust::parse(trust.trim_end_matches('\0'))?;
        let path = format!("{}\0", crate::root().join("format/tests/golden/v1.kdh").display());
        Ok(Self { bundles, damaged, trust: trust.into(), path: path.into() })
    }
}

/// What is left of the input.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Mostly the first of `choices`.
    fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = usize::from(self.byte());
        choices.get(at).copied().unwrap_or(choices[0])
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// A handle, and of which bundle its labeler is while it is open.
#[derive(Clone, Copy, Default)]
struct Opened {
    id: u64,
    open: Option<Model>,
}

#[derive(Clone, Copy, PartialEq)]
struct Model {
    bundle: usize,
    max_text: usize,
    refuses: bool,
    windows: bool,
    late: bool,
}

/// Memory for a scratch, and whose the one in it is.
#[derive(Default)]
struct Memory {
    words: Vec<u64>,
    scratch: usize,
    of: Option<Owner>,
}

/// A bundle, and whether texts are labelled in windows: what a scratch is laid out for.
type Owner = (usize, bool);

struct Calls<'a> {
    world: &'static World,
    script: Script<'a>,
    labelers: [Opened; 3],
    scratches: [Memory; 2],
}

/// What a caller's memory holds before a call.
const FILL: u8 = 0xA5;
const NAME: usize = MAX_NAME;
/// In every text; no message may hold it.
const CANARY: &[u8] = b"zebra ";

thread_local! {
    /// Messages that the log function was given, and whether one was wrong.
    static LOGGED: Cell<(u64, bool)> = const { Cell::new((0, false)) };
}

/// # Safety
///
/// `message` is a string.
unsafe extern "C" fn log(user: *mut c_void, level: u32, message: *const c_char) {
    // SAFETY: the caller's promise.
    let message = unsafe { CStr::from_ptr(message) };
    let wrong = user.addr() != 7 || !matches!(level, 1 | 3) || !is_sensible(message);
    let (count, before) = LOGGED.get();
    LOGGED.set((count + 1, before || wrong));
}

/// A message is text that says something and holds nothing of a text.
fn is_sensible(message: &CStr) -> bool {
    let bytes = message.to_bytes();
    (10..512).contains(&bytes.len())
        && message.to_str().is_ok()
        && !bytes.windows(5).any(|window| window == &CANARY[..5])
}

impl Calls<'_> {
    /// Makes a call; 1 when it was done, 2 when it was refused, 0 when there was nothing to call.
    fn call(&mut self, kind: u8) -> u64 {
        let before = LOGGED.get();
        let done = match kind {
            0 => self.open(),
            1 => self.close(),
            2 => self.name(),
            3 => self.make_scratch(),
            4 => self.release(),
            5 => self.label(),
            6 => self.numbers(),
            _ => self.self_test(),
        };
        assert!(!LOGGED.get().1, "a log message that is none");
        assert!(LOGGED.get().0 <= before.0 + 1, "one call, one message");
        match done {
            Some(Status::Ok) => 1,
            Some(_) => 2,
            None => 0,
        }
    }

    fn expect(&self, status: Status, expected: &[Status], call: &str) -> Option<Status> {
        // SAFETY: a string of this thread.
        let message = unsafe { CStr::from_ptr(kdh_last_error()) };
        assert!(status == Status::Ok || is_sensible(message), "{call}: {status:?}: {message:?}");
        assert!(expected.contains(&status), "{call}: {status:?} ({message:?}), expected one of {expected:?}");
        Some(status)
    }

    /// An open handle, one that was closed, or one that never was.
    fn handle(&mut self) -> (Handle, Option<Model>) {
        let byte = self.script.byte();
        let labeler = self.labelers[usize::from(byte) % 3];
        match byte / 3 {
            // No place has an even generation, and there is no place 65.
            1 => (Handle { id: labeler.id ^ 1 << 32 }, None),
            2 => (Handle { id: labeler.id | 65 }, None),
            3 => (Handle { id: u64::MAX }, None),
            _ => (Handle { id: labeler.id }, labeler.open),
        }
    }

    fn open(&mut self) -> Option<Status> {
        let slot = usize::from(self.script.byte()) % 3;
        // C would lose the handle.
        if self.labelers[slot].open.is_some() {
            return None;
        }
        let source = self.script.byte();
        let world = self.world;
        let options = self.options();
        let mut buffer = [0_u64; size_of::<Options>() / 8 + 1];
        let place = buffer.as_mut_ptr().cast::<u8>();
        let misaligned = self.script.choose(&[0, 1]);
        // SAFETY: the buffer has room for the options one byte further on, and a byte pointer needs no alignment.
        unsafe {
            core::ptr::copy_nonoverlapping(
                (&raw const options.given).cast::<u8>(),
                place.add(misaligned),
                size_of::<Options>(),
            );
        }
        let given: *const Options = if options.null { null() } else { place.wrapping_add(misaligned).cast() };
        let mut outs = [Handle { id: 9 }; 2];
        let out = match self.script.choose(&[0, 1, 2]) {
            0 => outs.as_mut_ptr(),
            1 => null_mut(),
            _ => outs.as_mut_ptr().cast::<u8>().wrapping_add(1).cast(),
        };
        let sound = &world.bundles[usize::from(source) % 3];
        let (bytes, size, bad): (*const u8, usize, Option<Status>) = match source / 3 {
            1 => (world.damaged.as_ptr(), world.damaged.len(), Some(Status::Bundle)),
            2 => (sound.as_ptr(), sound.len() / 2 - usize::from(source), Some(Status::Bundle)),
            3 => (null(), 0, Some(Status::Bundle)),
            4 => (null(), 9, Some(Status::Null)),
            5 => (sound.as_ptr(), usize::MAX - 9, Some(Status::Pointer)),
            6 | 7 => return self.open_file(source, given, out),
            _ => (sound.as_ptr(), sound.len(), None),
        };
        // SAFETY: the bytes live for ever; the other pointers are null, misaligned, or what the function asks for. `buffer` and
        // what its strings point to are alive.
        let status = unsafe { kdh_open_memory(bytes.cast(), size, given, out) };
        // The first thing that is wrong is told, in this order.
        let of_out = if out.is_null() { Some(Status::Null) } else { (!out.is_aligned()).then_some(Status::Pointer) };
        let of_options = if options.null {
            None
        } else if misaligned > 0 {
            Some(Status::Pointer)
        } else {
            options.wrong
        };
        let early = bad.filter(|status| *status != Status::Bundle);
        let trusted = !options.null && options.trusted;
        let late = bad.or((!trusted).then_some(Status::Untrusted)).or(options.late.filter(|_| !options.null));
        let expected = of_out.or(early).or(of_options).or(late).unwrap_or(Status::Ok);
        if of_out.is_none() {
            assert_eq!(outs[0].id != 0, status == Status::Ok, "a handle of a labeler that is none, or none");
        }
        if status == Status::Ok {
            let model = Model { bundle: usize::from(source) % 3, ..options.model };
            let model = if options.null {
                Model { max_text: 1 << 20, refuses: false, windows: true, late: false, ..model }
            } else {
                model
            };
            self.labelers[slot] = Opened { id: outs[0].id, open: Some(model) };
        }
        self.expect(status, &[expected], "open")
    }

    /// Only wrong files: a right one would be read from the disk each time.
    fn open_file(&mut self, source: u8, options: *const Options, out: *mut Handle) -> Option<Status> {
        let paths: [*const c_char; 5] = [
            null(),
            c"/nowhere/model.kdh".as_ptr(),
            c"/".as_ptr(),
            c"\xff.kdh".as_ptr(),
            self.world.path.as_ptr().cast(),
        ];
        // SAFETY: a path is null or a string; the others are null, misaligned, or what the function asks for.
        let status = unsafe { kdh_open_file(paths[usize::from(source) % 5], options, out) };
        assert_ne!(status, Status::Ok, "a file that is no model");
        let possible = [
            Status::Null,
            Status::Pointer,
            Status::Open,
            Status::Utf8,
            Status::Bundle,
            Status::Untrusted,
            Status::Option,
        ];
        self.expect(status, &possible, "open a file")
    }

    fn options(&mut self) -> GivenOptions {
        let world = self.world;
        let flags = self.script.choose(&[OPEN_ALLOW_UNSIGNED, 0, OPEN_ALLOW_TEST_KEYS, 3, 4, 1 << 31]);
        let strings = self.script.byte();
        let (trust, trust_wrong) = match strings % 4 {
            0 => (null(), None),
            1 => (world.trust.as_ptr().cast(), None),
            2 => (c"whoever".as_ptr(), Some(Status::Option)),
            _ => (c"\xfe".as_ptr(), Some(Status::Utf8)),
        };
        let (kernels, kernels_wrong) = match strings / 4 % 4 {
            0 => (null(), None),
            1 => (c"portable".as_ptr(), None),
            2 => (c"abacus".as_ptr(), Some(Status::Option)),
            _ => (c"\xfe".as_ptr(), Some(Status::Utf8)),
        };
        let (point, point_wrong, point_late) = match strings / 16 % 4 {
            0 => (null(), None, None),
            1 => (c"nowhere".as_ptr(), None, Some(Status::Bundle)),
            2 => (c"\xfe".as_ptr(), Some(Status::Utf8), None),
            _ => (c"manifest".as_ptr(), None, None),
        };
        let numbers = self.script.byte();
        let max_text_size = [0, 7, 1 << 20, 64][usize::from(numbers) % 4];
        let on_overflow = [OVERFLOW_WINDOW, OVERFLOW_REFUSE, OVERFLOW_TRUNCATE, 9][usize::from(numbers) / 4 % 4];
        let deadline_ms = u32::from(numbers / 16 % 4 == 3);
        let whole = size_of::<Options>();
        let size = match numbers / 64 {
            0 | 1 => whole,
            // As a program has it that was compiled before there were operating points.
            2 => core::mem::offset_of!(Options, operating_point),
            _ => whole + 8 * usize::from(numbers % 2) - 4,
        };
        let given = Options {
            size,
            max_text_size,
            on_overflow,
            flags,
            deadline_ms,
            trust,
            kernels,
            log: numbers.is_multiple_of(2).then_some(log),
            log_user: core::ptr::without_provenance_mut(7),
            operating_point: point,
        };
        let has_point = size >= whole;
        let wrong = (numbers / 64 == 3 && size != whole && size > 0)
            .then_some(Status::Option)
            .or((on_overflow == 9).then_some(Status::Option))
            .or(trust_wrong)
            .or((flags & !3 != 0).then_some(Status::Option))
            .or(point_wrong.filter(|_| has_point))
            .or(kernels_wrong);
        GivenOptions {
            null: self.script.choose(&[false, true]),
            given,
            wrong,
            late: point_late.filter(|_| has_point),
            trusted: flags & OPEN_ALLOW_UNSIGNED != 0 || strings % 4 == 1,
            model: Model {
                bundle: 0,
                max_text: if max_text_size == 0 { 1 << 20 } else { max_text_size },
                refuses: on_overflow == OVERFLOW_REFUSE,
                windows: on_overflow == OVERFLOW_WINDOW,
                late: deadline_ms > 0,
            },
        }
    }

    fn close(&mut self) -> Option<Status> {
        let (handle, model) = self.handle();
        let status = kdh_close(handle);
        for labeler in self.labelers.iter_mut().filter(|labeler| labeler.id == handle.id) {
            labeler.open = None;
        }
        self.expect(status, &[if model.is_some() { Status::Ok } else { Status::Handle }], "close")
    }

    fn name(&mut self) -> Option<Status> {
        let (handle, model) = self.handle();
        let (which, index) = (self.script.byte() % 3, usize::from(self.script.byte()) % 4);
        let capacity = self.script.choose(&[NAME, 0, 1, 4, 20, usize::MAX]);
        let mut buffer = [FILL as c_char; NAME];
        let to = if self.script.choose(&[false, true]) { null_mut() } else { buffer.as_mut_ptr() };
        // SAFETY: `to` is null, or has as many bytes as `capacity` says if that is no size at all.
        let status = unsafe {
            match which {
                0 => kdh_label_code(handle, index, to, capacity),
                1 => kdh_label_name(handle, index, to, capacity),
                _ => kdh_kernels(handle, to, capacity),
            }
        };
        if status == Status::Ok {
            // SAFETY: a string was written.
            let name = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_bytes().len();
            assert!((1..capacity).contains(&name), "a name of {name} bytes in {capacity}");
        }
        let expected: &[Status] = if model.is_none() {
            &[Status::Handle]
        } else if to.is_null() && capacity > 0 {
            &[Status::Null]
        } else if capacity == usize::MAX {
            &[Status::Pointer]
        } else if which < 2 && index > 1 {
            &[Status::Index]
        } else if capacity == NAME {
            &[Status::Ok]
        } else {
            &[Status::Ok, Status::TooSmall]
        };
        self.expect(status, expected, "name")
    }

    fn numbers(&mut self) -> Option<Status> {
        let (handle, model) = self.handle();
        let (count, size) = (kdh_label_count(handle), kdh_scratch_size(handle));
        assert_eq!((count == 2, size > 1000), (model.is_some(), model.is_some()), "{count} labels, {size} bytes");
        assert!(model.is_some() || (count, size) == (0, 0));
        Some(if model.is_some() { Status::Ok } else { Status::Handle })
    }

    fn self_test(&mut self) -> Option<Status> {
        let (handle, model) = self.handle();
        let mut differences = [-1.0_f32; 2];
        let (to, wrong) = match self.script.choose(&[0, 1, 2]) {
            0 => (differences.as_mut_ptr(), false),
            1 => (null_mut(), false),
            _ => (differences.as_mut_ptr().cast::<u8>().wrapping_add(1).cast(), true),
        };
        // SAFETY: null, misaligned or writable.
        let status = unsafe { kdh_self_test(handle, to) };
        assert!(differences[0] == 0.0 || to != differences.as_mut_ptr(), "a difference that is none");
        let expected = match model {
            _ if wrong => Status::Pointer,
            None => Status::Handle,
            Some(_) => Status::Ok,
        };
        self.expect(status, &[expected], "self-test")
    }

    fn make_scratch(&mut self) -> Option<Status> {
        let slot = usize::from(self.script.byte()) % 2;
        let (handle, model) = self.handle();
        let needed = kdh_scratch_size(handle);
        let shape = self.script.byte();
        // Memory that a scratch has is not anybody else's.
        if self.scratches[slot].of.is_some() {
            return None;
        }
        let memory = &mut self.scratches[slot];
        memory.words = vec![u64::from_ne_bytes([FILL; 8]); needed / 8 + 4];
        let start = memory.words.as_mut_ptr().cast::<u8>().wrapping_add(usize::from(shape % 16));
        let (start, size) = match shape / 16 {
            1 => (null_mut(), needed),
            2 => (start, needed.saturating_sub(1)),
            3 => (start, 0),
            // More than is needed: all that is there.
            4 => (start, 8 * memory.words.len() - usize::from(shape % 16)),
            _ => (start, needed),
        };
        let mut outs = [null_mut(); 2];
        let out: *mut *mut ScratchHandle = match self.script.choose(&[0, 1, 2]) {
            0 => outs.as_mut_ptr(),
            1 => null_mut(),
            _ => outs.as_mut_ptr().cast::<u8>().wrapping_add(3).cast(),
        };
        // SAFETY: `start` is null, or has `size` bytes that nothing else uses; `out` is null, misaligned or writable.
        let status = unsafe { kdh_scratch_init(handle, start.cast(), size, out) };
        let expected = if out.is_null() {
            Status::Null
        } else if !out.is_aligned() {
            Status::Pointer
        } else if model.is_none() {
            Status::Handle
        } else if start.is_null() {
            Status::Null
        } else if size < needed {
            Status::TooSmall
        } else {
            Status::Ok
        };
        if status == Status::Ok {
            let memory = &mut self.scratches[slot];
            (memory.scratch, memory.of) =
                (outs[0].addr() - memory.words.as_ptr().addr(), model.map(|model| (model.bundle, model.windows)));
        }
        assert_eq!(outs[0].is_null(), status != Status::Ok, "a scratch that is none, or none");
        self.expect(status, &[expected], "make a scratch")
    }

    /// A scratch, what was one, a copy of one, or what never was one. The memory is there as long as `self`.
    fn scratch(&mut self) -> (*mut ScratchHandle, Result<Owner, Status>, usize) {
        let byte = self.script.byte();
        let slot = usize::from(byte) % 2;
        let memory = &mut self.scratches[slot];
        if memory.words.is_empty() {
            return (null_mut(), Err(Status::Null), slot);
        }
        let start = memory.words.as_mut_ptr().cast::<u8>();
        let place: *mut ScratchHandle = start.wrapping_add(memory.scratch).cast();
        match byte / 2 {
            1 => (null_mut(), Err(Status::Null), slot),
            2 => (place.cast::<u8>().wrapping_add(1).cast(), Err(Status::Pointer), slot),
            // Inside of a scratch, aligned.
            3 => (start.wrapping_add(memory.scratch + 64).cast(), Err(Status::Handle), slot),
            _ => (place, memory.of.ok_or(Status::Handle), slot),
        }
    }

    fn release(&mut self) -> Option<Status> {
        let (scratch, of, slot) = self.scratch();
        // SAFETY: null, misaligned, or in memory that is there.
        let status = unsafe { kdh_scratch_release(scratch) };
        if status == Status::Ok && of.is_ok() {
            let memory = &mut self.scratches[slot];
            memory.of = None;
            let zeros = memory.words.iter().skip(memory.scratch.div_ceil(8)).take(64);
            assert!(zeros.copied().all(|word| word == 0), "something is left of a scratch");
        }
        // Null is fine.
        let expected = of.map_or_else(|wrong| wrong, |_| Status::Ok);
        self.expect(status, &[if scratch.is_null() { Status::Ok } else { expected }], "release")
    }

    fn label(&mut self) -> Option<Status> {
        let (handle, model) = self.handle();
        let (scratch, of, _) = self.scratch();
        let shape = self.script.byte();
        let len = usize::from(self.script.byte()) % 48;
        let mut text = CANARY.to_vec();
        text.extend_from_slice(self.script.bytes(len));
        if shape % 8 == 1 {
            text.drain(..CANARY.len());
        }
        let (at, size) = match shape % 8 {
            2 => (null(), 0),
            3 => (null(), 1),
            4 => (text.as_ptr(), usize::MAX / 2 + 2),
            _ => (text.as_ptr(), text.len()),
        };
        let mut reports = [Report { sentences: 99, ..Report::default() }; 2];
        let report = match shape / 8 % 4 {
            1 => null_mut(),
            2 => reports.as_mut_ptr().cast::<u8>().wrapping_add(2).cast(),
            _ => reports.as_mut_ptr(),
        };
        let mut rows = [LabelReport { given: 99, ..LabelReport::default() }; 5];
        let (labels, capacity) = match shape / 32 {
            1 => (null_mut(), 4),
            2 => (null_mut(), 0),
            3 => (rows.as_mut_ptr(), 1),
            4 => (rows.as_mut_ptr().cast::<u8>().wrapping_add(1).cast(), 4),
            5 => (rows.as_mut_ptr(), usize::MAX / 4),
            _ => (rows.as_mut_ptr(), 4),
        };
        let (point, of_point) = match self.script.choose(&[0, 1, 2, 3]) {
            0 => (null(), None),
            1 => (c"manifest".as_ptr(), None),
            2 => (c"nowhere".as_ptr(), Some(Status::Option)),
            _ => (c"\xfe".as_ptr(), Some(Status::Utf8)),
        };
        // SAFETY: every pointer is null, misaligned, or has what is said, or a size that is none comes with it.
        let status = unsafe { kdh_label_at(handle, scratch, point, at.cast(), size, report, labels, capacity) };

        let pointer =
            |null: bool, aligned: bool| if null { Some(Status::Null) } else { (!aligned).then_some(Status::Pointer) };
        let of_report = pointer(report.is_null(), report.is_aligned());
        let of_labels =
            if labels.is_null() && capacity == 0 { None } else { pointer(labels.is_null(), labels.is_aligned()) };
        let of_capacity = (capacity > 5).then_some(Status::Pointer);
        let of_text = match shape % 8 {
            2 => None,
            3 => Some(Status::Null),
            4 => Some(Status::Pointer),
            _ => str::from_utf8(&text).is_err().then_some(Status::Utf8),
        };
        let early = of_report.or(of_labels).or(of_capacity);
        let wrong = early.or(model.is_none().then_some(Status::Handle)).or(of_text).or(of.err());
        let wrong = wrong.or((capacity < 2).then_some(Status::TooSmall)).or(of_point);
        let expected: Vec<Status> = match (wrong, model, of) {
            (Some(wrong), ..) => vec![wrong],
            // Of a text in windows the size is looked at first.
            (_, Some(model), Ok((_, true))) if model.windows && size > model.max_text => vec![Status::TextTooLong],
            (_, Some(model), Ok(of)) if (model.bundle, model.windows) != of => vec![Status::ForeignScratch],
            (_, Some(model), _) if size > model.max_text => vec![Status::TextTooLong],
            (_, Some(model), _) => {
                let words = text.iter().any(|byte| byte.is_ascii_alphanumeric()) && size > 0;
                let mut possible = if words { vec![Status::Ok] } else { vec![Status::Ok, Status::NoTokens] };
                possible.extend(model.refuses.then_some(Status::TooManyTokens));
                possible.extend(model.late.then_some(Status::Deadline));
                possible
            }
            _ => vec![],
        };
        if status == Status::Ok {
            check(&reports[0], &rows, size, at);
        } else if early.is_none() {
            assert_eq!(reports[0], Report::default(), "a report of a text that was refused");
            assert!(rows.iter().take(capacity).all(|row| *row == LabelReport::default()), "labels of such a text");
        }
        // What nobody offered is nobody's.
        assert!(rows[4].given == 99 && reports[1].sentences == 99, "written behind the end");
        self.expect(status, &expected, "label")
    }

    /// Whatever was open can be closed, and every scratch released.
    fn end(&mut self) {
        for memory in &mut self.scratches {
            if memory.of.take().is_some() {
                let scratch = memory.words.as_mut_ptr().cast::<u8>().wrapping_add(memory.scratch).cast();
                // SAFETY: a scratch.
                assert_eq!(unsafe { kdh_scratch_release(scratch) }, Status::Ok);
            }
        }
        for labeler in &mut self.labelers {
            if labeler.open.take().is_some() {
                assert_eq!(kdh_close(Handle { id: labeler.id }), Status::Ok);
            }
        }
    }
}

/// A finding must not leave a table full of labelers to those who come after it.
impl Drop for Calls<'_> {
    fn drop(&mut self) {
        for labeler in self.labelers.iter().filter(|labeler| labeler.open.is_some()) {
            kdh_close(Handle { id: labeler.id });
        }
    }
}

/// Options, and what must come of them.
struct GivenOptions {
    null: bool,
    given: Options,
    /// Of the options themselves.
    wrong: Option<Status>,
    /// Of the options with a bundle.
    late: Option<Status>,
    trusted: bool,
    model: Model,
}

fn check(report: &Report, rows: &[LabelReport], size: usize, text: *const u8) {
    assert!(
        report.labels == 2 && report.kept_tokens <= report.text_tokens && report.unknown_tokens <= report.text_tokens
    );
    // SAFETY: a text that was labelled has so many bytes.
    let text = unsafe { core::slice::from_raw_parts(text, size) };
    let text = str::from_utf8(text).unwrap_or_default();
    for row in &rows[..2] {
        assert!(row.logit.is_finite() && (0.0..=1.0).contains(&row.probability) && row.given <= 1);
        let (given, rest) = row.evidence.split_at(row.evidence_count as usize);
        assert!(row.given == 1 || given.is_empty());
        assert!(given.iter().all(|sentence| text.get(sentence.start as usize..sentence.end as usize).is_some()));
        assert!(rest.iter().all(|sentence| *sentence == Evidence::default()));
    }
    assert!(rows[2..4].iter().all(|row| *row == LabelReport::default()), "labels that there are not");
}
