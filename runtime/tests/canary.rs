//! A secret that is labelled through every way in is nowhere afterwards: not in what is logged, printed or said by errors
//! and panics, and not in the memory of the process.

#![cfg(all(target_os = "linux", feature = "tract"))]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::fmt::Debug;
use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use kdh_runtime::engine::Stop;
use kdh_runtime::text::{Encoding, Sentences, Tokenizer, TokenizerOptions};
use kdh_runtime::{
    Bundle, BundleFile, DocumentOptions, EngineChoice, LabelError, Labeler, LabelerOptions, Overflow, Scratch,
};
use zeroize::Zeroize;

const TASK: &str = "KDH_TEST_CANARY";

/// The secret and all that is searched for are kept under this mask, so that they are not found where they are kept.
const MASK: u8 = 0xA7;

/// `Zyxquibble Frobnakov 19031958`, masked.
fn masked_secret() -> Vec<u8> {
    const SECRET: [u8; 29] = {
        let mut bytes = *b"Zyxquibble Frobnakov 19031958";
        let mut at = 0;
        while at < bytes.len() {
            bytes[at] ^= MASK;
            at += 1;
        }
        bytes
    };
    SECRET.to_vec()
}

/// All that is logged, at every level.
struct Log;

static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _ = writeln!(LOGGED.lock().unwrap(), "{} {}", record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Verifies: R-104
#[test]
fn a_secret_is_nowhere_afterwards() {
    if std::env::var_os(TASK).is_some() {
        watched();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_secret_is_nowhere_afterwards", "--nocapture", "--test-threads", "1"]).env(TASK, "1");
    let output = child.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    println!("{}", String::from_utf8_lossy(&printed));
    assert_eq!(output.status.code(), Some(0));
    assert!(count(&printed, &masked_secret(), MASK) == 0, "the secret was printed");
}

fn default_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default.kdh")
}

fn watched() -> ! {
    log::set_logger(&Log).unwrap();
    log::set_max_level(log::LevelFilter::Trace);

    let said = &mut String::new();
    let options = || LabelerOptions::new().allow_unsigned();
    let tiny = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny.kdh")).unwrap();
    let tiny = Bundle::parse(&tiny).unwrap();
    let labelers = [
        Labeler::from_file(BundleFile::open(default_bundle()).unwrap(), &options()).unwrap(),
        Labeler::from_file(BundleFile::open(default_bundle()).unwrap(), &options().on_overflow(Overflow::Refuse))
            .unwrap(),
        Labeler::from_bundle(&tiny, &options().engine(EngineChoice::Tract).max_text_bytes(2000)).unwrap(),
    ];
    // What to search for: the secret as it is, in lower case, as `char`s, and as the ids of its tokens.
    let secret = masked_secret();
    let lower: Vec<u8> = secret.iter().map(|byte| (byte ^ MASK).to_ascii_lowercase() ^ MASK).collect();
    let chars: Vec<u8> = lower[..10].iter().flat_map(|&byte| [byte, MASK, MASK, MASK]).collect();
    let vocabulary = File::open(default_bundle()).and_then(|_| std::fs::read(default_bundle())).unwrap();
    let vocabulary =
        Bundle::parse(&vocabulary).unwrap().section(kdh_runtime::format::SectionKind::Vocabulary).unwrap().to_vec();
    let tokenizer_options = TokenizerOptions { lowercase: true, cls: "[CLS]", sep: "[SEP]", unk: "[UNK]" };
    let tokenizer = Tokenizer::new(&vocabulary, &tokenizer_options).unwrap();

    let mut text = String::with_capacity(4096);
    text.push_str("The patient ");
    secret.iter().for_each(|byte| text.push(char::from(byte ^ MASK)));
    text.push_str(" had tumour cells that divided slowly. No vessel grew.");
    let mut ids = Vec::new();
    let mask = u32::from_le_bytes([MASK; 4]);
    tokenizer.tokenize(&text, |token| {
        ids.push(token.id ^ mask);
        ControlFlow::Continue(())
    });
    let ids: Vec<u8> = ids[1..11].iter().flat_map(|id| id.to_le_bytes()).collect();
    let needles = [("the secret", secret), ("its lower case", lower), ("its characters", chars), ("its tokens", ids)];

    // While the text and a scratch are alive they are found: the search works.
    let alone = || labelers[0].scratch();
    let with_second_thread = || labelers[0].try_scratch_with_second_thread().unwrap();
    for (scratch, copies) in [(&alone as &dyn Fn() -> Scratch<'static>, 1), (&with_second_thread, 2)] {
        let mut scratch = scratch();
        let report = labelers[0].label(&mut scratch, &text).unwrap();
        say(said, &report);
        drop(report);
        assert!(in_memory(&needles[0].1) >= 1, "the search does not find the text");
        assert!(in_memory(&needles[3].1) >= copies, "the search does not find the tokens");
        scratch.zeroize();
        assert_eq!(in_memory(&needles[3].1), 0, "the tokens outlive `zeroize`");
        labelers[0].label(&mut scratch, &text).unwrap();
        // And are gone with it.
    }

    for labeler in &labelers {
        use_everything(labeler, &text, said);
    }
    let mut encoding = Encoding::new(64, 4);
    tokenizer.encode(&text, Sentences::new(&text), &mut encoding);
    say(said, &(&encoding, &tokenizer));
    drop(encoding);
    text.zeroize();
    drop((labelers, tokenizer));

    let logged = std::mem::take(&mut *LOGGED.lock().unwrap());
    // tract logs; the runtime does not.
    println!("{} bytes were logged, {} said", logged.len(), said.len());
    assert!(!said.is_empty());
    for (name, needle) in &needles {
        assert_eq!(count(&logged, needle, MASK), 0, "{name} was logged");
        assert_eq!(count(said.as_bytes(), needle, MASK), 0, "an error or a `Debug` said {name}");
        let found = in_memory(needle);
        println!("{name}: found {found} times");
        // The tokens are the default bundle's, which runs on the arena. tract frees the tensors of its inputs, which hold
        // ids and never the text, without overwriting them.
        assert!(found == 0, "{name} is still in memory");
    }
    std::process::exit(0)
}

/// Labels the text in every way that there is, and makes every error that a text can cause.
fn use_everything(labeler: &Labeler, text: &str, said: &mut String) {
    let mut scratch = labeler.scratch();
    say(said, &labeler.label(&mut scratch, text));
    say(said, &labeler.label_with_sentences(&mut scratch, text, Sentences::new(text)));
    say(said, &labeler.label_with_sentences(&mut scratch, text, [3..5, 1..2].into_iter()));
    // What the caller keeps is the caller's to overwrite.
    for times in [300, 20] {
        let mut long = text.repeat(times);
        say_error(said, labeler.label(&mut scratch, &long));
        long.zeroize();
    }
    scratch.set_stop(Stop::new().deadline(Instant::now()));
    say_error(said, labeler.label(&mut scratch, text));
    scratch.set_stop(Stop::new());

    let mut memory = vec![0; labeler.memory_required()];
    say(said, &labeler.label(&mut labeler.scratch_in(&mut memory).unwrap(), text));
    say(said, &labeler.label(&mut labeler.try_scratch_with_second_thread().unwrap(), text));

    let mut document = labeler.document_scratch();
    say(said, &labeler.label_document(&mut document, &DocumentOptions::new(), text));
    let mut session = labeler.document(&mut document, &DocumentOptions::new()).unwrap();
    for piece in text.as_bytes().chunks(7) {
        session.push(piece).unwrap();
    }
    say(said, &session);
    say(said, &session.finish());
    let mut session = labeler.document(&mut document, &DocumentOptions::new()).unwrap();
    let result = session.push(text.as_bytes()).and_then(|()| session.push(&[0xFF, 0xFE])).and_then(|()| {
        let report = session.finish()?;
        Ok(report)
    });
    say_error(said, result);

    // A caller's iterator that panics.
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let sentences =
            Sentences::new(text).inspect(|range| assert!(range.start == usize::MAX, "the caller's own panic"));
        labeler.label_with_sentences(&mut scratch, text, sentences).is_ok()
    }));
    let panic = panicked.unwrap_err();
    say(said, &panic.downcast_ref::<&str>());
    say(said, &(&scratch, &document, labeler));
}

fn say(said: &mut String, value: &impl Debug) {
    said.push_str(&format!("{value:?}\n"));
}

fn say_error<T: Debug>(said: &mut String, result: Result<T, LabelError>) {
    if let Err(error) = &result {
        said.push_str(&error.to_string());
    }
    say(said, &result);
}

/// How often what is masked here occurs in `bytes` as it is.
fn count(bytes: &[u8], masked: &[u8], mask: u8) -> usize {
    bytes.windows(masked.len()).filter(|window| window.iter().zip(masked).all(|(a, b)| a ^ mask == *b)).count()
}

/// How often it occurs in all memory of this process that can be written.
fn in_memory(masked: &[u8]) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            let first = masked[0] ^ MASK;
            let mut at = 0;
            while let Some(next) = bytes[at..].iter().position(|&byte| byte == first) {
                at += next;
                if bytes.get(at..at + masked.len()).is_some_and(|window| count(window, masked, MASK) == 1) {
                    found += 1;
                }
                at += 1;
            }
        }
        // The copy must not be found by the next search.
        bytes.zeroize();
    }
    found
}
