//! What breaks while a model runs is found, or does no harm: flipped weights, a spoilt scratch, time that is up, a program
//! that asks for too much.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kdh_runtime::engine::Shape;
use kdh_runtime::engine::{Cancel, Engine, EngineError, Limits, RunError, Scrub, ScrubError, Stop};
use kdh_runtime::program::{Document, Epilogue, Program, ProgramBuilder, ProgramError, Rows};
use kdh_runtime::{BuildError, Bundle, BundleFile, DocumentOptions, LabelError, Labeler, LabelerOptions, Scratch};

const TEXT: &str = "The cells divided slowly. No vessel grew into the tumour! TNF-\u{3b1} was low.";

fn default_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default.kdh")
}

fn labeler() -> Labeler {
    Labeler::from_file(BundleFile::open(default_bundle()).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap()
}

fn logits(labeler: &Labeler, scratch: &mut Scratch) -> Vec<u32> {
    labeler.label(scratch, TEXT).unwrap().labels.iter().map(|label| label.logit.to_bits()).collect()
}

/// Bytes without a pattern, the same every time.
fn noise(mut state: u64) -> impl Iterator<Item = u8> {
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    })
}

/// Verifies: R-102
#[test]
fn a_bit_that_flips_in_the_weights_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mapped.kdh");
    std::fs::copy(default_bundle(), &path).unwrap();
    let labeler =
        Labeler::from_file(BundleFile::open(&path).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
    let engine = labeler.engine();
    let total = engine.program().unwrap().weights_len();
    // Behind the weights lies what the kernels found of them.
    let all = engine.scrub(&mut Scrub::new(), 1).unwrap().total;
    assert!((total..total + total / 50).contains(&all), "{all} bytes of a pass, {total} of weights");
    assert!(engine.program().unwrap().weights_in_place());

    let pass = |scrub: &mut Scrub| -> Result<u64, ScrubError> {
        let before = engine.scrub(scrub, 1)?;
        assert_eq!((before.at, before.total), (1, all));
        loop {
            let now = engine.scrub(scrub, 1_000_000)?;
            if now.at == now.total {
                return Ok(now.passes);
            }
        }
    };
    let mut scrub = Scrub::new();
    assert_eq!((pass(&mut scrub), pass(&mut scrub)), (Ok(1), Ok(2)));

    // The labeler's weights are the file's pages: what changes in the file changes in memory.
    let section = {
        let file = BundleFile::open(&path).unwrap();
        let bundle = file.verify().unwrap();
        let weights = bundle.program().unwrap().unwrap().program;
        weights.as_ptr().addr() - file.bytes().as_ptr().addr() + weights.len() - total
    };
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut flip = |at: usize, bit: u8| {
        let at = SeekFrom::Start((section + at) as u64);
        let mut byte = [0];
        file.seek(at).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(at).unwrap();
        file.write_all(&[byte[0] ^ 1 << bit]).unwrap();
    };
    for (at, bit) in [(0, 0), (total / 2, 3), (total - 1, 7)] {
        flip(at, bit);
        assert_eq!(pass(&mut scrub), Err(ScrubError::Damaged));
        // It is found again.
        assert_eq!(pass(&mut scrub), Err(ScrubError::Damaged));
        flip(at, bit);
    }
    assert_eq!(pass(&mut scrub), Ok(3));

    // A pass that goes from one engine to another begins anew.
    let other = Engine::from_program(deep(1, 16, &shape()).unwrap(), None).unwrap();
    let mut scrub = Scrub::new();
    let first = engine.scrub(&mut scrub, 64).unwrap();
    assert_eq!((first.at, other.scrub(&mut scrub, usize::MAX).unwrap().passes), (64, 1));
}

/// Verifies: R-102
#[test]
fn whatever_a_scratch_holds_the_labels_are_the_same() {
    let bytes = std::fs::read(default_bundle()).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).unwrap();
    let engine = labeler.engine();
    let mut scratch = engine.scratch();
    let inputs: Vec<(Vec<u32>, Vec<i32>)> = [3_usize, 17, 48, 49, 130, 256]
        .into_iter()
        .map(|tokens| {
            let ids = (0..tokens as u32).map(|id| 100 + id * 37 % 900).collect();
            (ids, (0..tokens as i32).map(|token| token / 11 - 1).collect())
        })
        .collect();
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    for (ids, sentence_ids) in &inputs {
        scratch.zeroize();
        let logits = engine.run(&mut scratch, ids, sentence_ids).unwrap();
        let expected = (bits(logits.document), bits(logits.sentences));
        for seed in 0..4 {
            // The last two fill every float with a NaN and an infinity.
            let fill: Vec<u8> = match seed {
                0 | 1 => noise(seed).take(4).collect(),
                2 => vec![0xFF],
                _ => f32::INFINITY.to_le_bytes().to_vec(),
            };
            let mut noise = noise(seed);
            let memory = scratch.memory_mut();
            if seed < 2 {
                memory.fill_with(|| noise.next().unwrap());
            } else {
                memory.iter_mut().zip(fill.iter().cycle()).for_each(|(byte, fill)| *byte = *fill);
            }
            let logits = engine.run(&mut scratch, ids, sentence_ids).unwrap();
            assert_eq!((bits(logits.document), bits(logits.sentences)), expected, "{} tokens, {seed}", ids.len());
        }
    }
}

/// Verifies: R-103
#[test]
fn a_text_is_given_up_when_its_time_is_up() {
    let labeler = labeler();
    let mut scratch = labeler.scratch();
    let expected = logits(&labeler, &mut scratch);

    let cancel = Cancel::new();
    scratch.set_stop(Stop::new().cancel(&cancel).deadline(Instant::now() + Duration::from_secs(3600)));
    assert_eq!(logits(&labeler, &mut scratch), expected);
    cancel.clone().cancel();
    assert_eq!(labeler.label(&mut scratch, TEXT), Err(LabelError::DeadlineExceeded));
    cancel.reset();
    assert_eq!(logits(&labeler, &mut scratch), expected);
    scratch.set_stop(Stop::new().deadline(Instant::now()));
    assert_eq!(labeler.label(&mut scratch, TEXT), Err(LabelError::DeadlineExceeded));

    // Between two steps: a long text is given up long before its end, and the scratch is as good as new.
    let long = TEXT.repeat(400);
    scratch.set_stop(Stop::new());
    let shortest_whole = (0..3)
        .map(|_| {
            let start = Instant::now();
            labeler.label(&mut scratch, &long).unwrap();
            start.elapsed()
        })
        .min()
        .unwrap();
    let shortest_stopped = (0..9)
        .map(|_| {
            let start = Instant::now();
            scratch.set_stop(Stop::new().deadline(start + shortest_whole / 4));
            assert_eq!(labeler.label(&mut scratch, &long), Err(LabelError::DeadlineExceeded));
            start.elapsed()
        })
        .min()
        .unwrap();
    println!("a text of {shortest_whole:?} is given up after {shortest_stopped:?} of {:?}", shortest_whole / 4);
    assert!(shortest_stopped < shortest_whole * 3 / 4);
    scratch.set_stop(Stop::new());
    assert_eq!(logits(&labeler, &mut scratch), expected);
    assert!(LabelError::DeadlineExceeded.to_string().contains("time"));
    assert_ne!(RunError::Stopped, RunError::default());
}

/// Of a text of any length, of a shorter one after a longer one, and of one that was given up half-way, nothing is left.
///
/// Verifies: R-104
#[test]
fn nothing_of_a_text_outlives_its_scratch() {
    let labeler = labeler();
    let max = labeler.engine().program().unwrap().shape().max_tokens - 2;
    let texts = [1, 17, 64, 65, 200, max, max + 90].map(|tokens| {
        let text: String = (0..tokens).map(|word| if word % 9 == 8 { "cell\n\n" } else { "cell " }).collect();
        (tokens, text)
    });
    let label = |scratch: &mut Scratch, (tokens, text): &(usize, String)| {
        let report = labeler.label(scratch, text).unwrap();
        assert_eq!((report.text_tokens, report.kept_tokens), (*tokens, max.min(*tokens)));
    };
    let (longest, options) = (&texts[texts.len() - 1], DocumentOptions::new());
    let start = Instant::now();
    label(&mut labeler.scratch(), longest);
    let whole = start.elapsed();

    let mut memory = vec![0; labeler.memory_required().max(labeler.document_memory_required()) + 1];
    for before in [0x5A, 0xA5] {
        let left = |memory: &[u8]| memory.iter().filter(|&&byte| byte == before).count();
        let gone = |memory: &[u8]| memory.iter().all(|byte| [0, before].contains(byte));
        for text in &texts {
            memory.fill(before);
            label(&mut labeler.scratch_in(&mut memory[1..]).unwrap(), text);
            assert!(gone(&memory), "{} tokens", text.0);
            println!("{} tokens: {} of {} bytes are overwritten", text.0, memory.len() - left(&memory), memory.len());
            if text.0 == 1 {
                assert!(left(&memory) * 10 > memory.len() * 9, "a short text does not cost what a long one costs");
            }

            memory.fill(before);
            let mut scratch = labeler.document_scratch_in(&mut memory).unwrap();
            labeler.label_document(&mut scratch, &options, &text.1.repeat(3)).unwrap();
            labeler.label_document(&mut scratch, &options, "cell").unwrap();
            drop(scratch);
            assert!(gone(&memory), "{} tokens in windows", text.0);
        }
        for shorter in &texts {
            memory.fill(before);
            let mut scratch = labeler.scratch_in(&mut memory).unwrap();
            label(&mut scratch, longest);
            label(&mut scratch, shorter);
            drop(scratch);
            assert!(gone(&memory), "{} tokens after more", shorter.0);
        }
        for part in 1..8 {
            memory.fill(before);
            let mut scratch = labeler.scratch_in(&mut memory).unwrap();
            scratch.set_stop(Stop::new().deadline(Instant::now() + whole * part / 10));
            // However far it comes.
            let _ = labeler.label(&mut scratch, &longest.1);
            drop(scratch);
            assert!(gone(&memory), "given up after {part} tenths");
        }
    }
}

/// Verifies: R-101
#[test]
fn a_model_that_takes_too_much_is_refused() {
    let build = |limits: Limits| {
        let options = LabelerOptions::new().allow_unsigned().limits(limits);
        Labeler::from_file(BundleFile::open(default_bundle()).unwrap(), &options)
    };
    let labeler = labeler();
    let program = labeler.engine().program().unwrap();
    let (memory, work) = (program.memory_required(), program.multiply_adds(usize::MAX));
    assert!(build(Limits::new().max_memory(memory).max_multiply_adds(work)).is_ok());
    assert!(matches!(
        build(Limits::new().max_memory(memory - 1)),
        Err(BuildError::Engine(EngineError::Memory { required, max })) if required == memory && max == memory - 1
    ));
    assert!(matches!(
        build(Limits::new().max_multiply_adds(work - 1)),
        Err(BuildError::Engine(EngineError::MultiplyAdds { required, max })) if required == work && max == work - 1
    ));
    // Six layers of 12 * 384^2 weights, and the attention's 2 * 384 a pair of tokens.
    let tokens = program.shape().max_tokens as u64;
    let expected = 6 * tokens * (12 * 384 * 384 + 2 * 384 * tokens);
    assert!((expected..expected + expected / 100).contains(&work), "{work} and {expected}");
}

/// Verifies: R-101
#[test]
fn a_small_program_cannot_ask_for_much() {
    // 1,000 steps over the same weights: a file of a few KiB, refused before it has been read 1,000 times.
    let refused = ProgramError::OutOfRange("sharing of weights");
    assert_eq!(deep(1000, 64, &shape()).unwrap_err(), refused);
    assert!(deep(48, 64, &shape()).is_ok());

    let shape = Shape { max_tokens: 4096, ..shape() };
    // Rows take memory that no weights pay for: half a gibibyte for a program of 3 MiB, refused before a scratch is made.
    let program = wide(32768, &shape).unwrap();
    assert!(program.weights_len() < 3 << 20 && program.memory_required() > Limits::DEFAULT_MAX_MEMORY);
    assert!(matches!(Engine::from_program(program, None), Err(EngineError::Memory { .. })));
    assert!(Engine::from_program(wide(64, &shape).unwrap(), None).is_ok());
}

fn shape() -> Shape {
    Shape { labels: 1, max_sentences: 2, max_tokens: 8, vocabulary: 4 }
}

/// `layers` square linear layers, one and the same.
fn deep(layers: usize, width: usize, shape: &Shape) -> Result<Program, ProgramError> {
    let mut builder = ProgramBuilder::new(*shape);
    let mut rows = embed(&mut builder, width, shape)?;
    let square = builder.linear_f32(width, width, &vec![0.01; width * width], &vec![0.0; width])?;
    for _ in 0..layers {
        rows = builder.linear(rows, square, Epilogue::None);
    }
    head(builder, rows, width, shape)
}

/// One column, then many, then one.
fn wide(width: usize, shape: &Shape) -> Result<Program, ProgramError> {
    let mut builder = ProgramBuilder::new(*shape);
    let rows = embed(&mut builder, 1, shape)?;
    let many = builder.linear_f32(width, 1, &vec![0.01; width], &vec![0.0; width])?;
    let one = builder.linear_f32(1, width, &vec![0.01; width], &[0.0])?;
    let rows = builder.linear(rows, many, Epilogue::Gelu);
    let rows = builder.linear(rows, one, Epilogue::None);
    head(builder, rows, 1, shape)
}

fn embed(builder: &mut ProgramBuilder, width: usize, shape: &Shape) -> Result<Rows, ProgramError> {
    let words = builder.table_f32(shape.vocabulary, width, &vec![0.5; shape.vocabulary * width])?;
    let positions = builder.table_f32(shape.max_tokens, width, &vec![0.25; shape.max_tokens * width])?;
    let norm = builder.norm(&vec![1.0; width], &vec![0.0; width], 1e-5)?;
    Ok(builder.embed(words, positions, norm))
}

fn head(mut builder: ProgramBuilder, rows: Rows, width: usize, shape: &Shape) -> Result<Program, ProgramError> {
    let labels = shape.labels;
    let linear = builder.linear_f32(labels, width, &vec![0.1; labels * width], &vec![0.0; labels])?;
    builder.head(rows, linear, Document::Mean);
    builder.finish()
}
