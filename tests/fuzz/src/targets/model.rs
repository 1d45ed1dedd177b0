//! Stored programs and ONNX graphs.

use kdh_runtime::engine::{Engine, EngineChoice, EngineScratch, RunError, Shape};
use kdh_runtime::program::{Document, Epilogue, Products, Program, ProgramBuilder, ProgramError};

use super::{Outcome, Target};

pub(super) const PROGRAM: Target = Target {
    name: "program",
    about: "Program::parse; what it takes is stored again as it was, and runs inside its memory",
    short: 20_000,
    dictionary: &[b"KDHPROG\0", &[1, 0, 0, 0], &[2, 0, 0, 0], &[3, 0, 0, 0], &[16, 0, 0, 0], &[64, 0, 0, 0]],
    files: &[],
    made: || vec![small_program(true, 8), small_program(false, 8)],
    start: || {
        Box::new(|input| {
            let program = match Program::parse(input) {
                Ok(program) => program,
                Err(error) => {
                    let _ = error.to_string();
                    return Outcome::refused(&error);
                }
            };
            let stored = program.to_bytes();
            assert!(Program::parse(&stored).is_ok_and(|again| again.to_bytes() == stored), "stored it is another");
            // What is beyond these is refused before memory is taken; a mutated shape often is.
            let (memory, work) = (program.memory_required(), program.multiply_adds(usize::MAX));
            if memory > 4 << 20 || work > 20_000_000 {
                return Outcome::accepted(1);
            }
            let shape = program.shape();
            let steps = program.steps().len();
            match Engine::from_program(program, None) {
                Ok(engine) => {
                    run(&engine, shape, &mut engine.scratch());
                    Outcome::accepted(2 + steps)
                }
                Err(error) => Outcome::refused(&error),
            }
        })
    },
};

/// Runs inputs of some lengths; whatever the weights are, it ends in good order.
fn run(engine: &Engine, shape: Shape, scratch: &mut EngineScratch<'_>) {
    for tokens in [1, 2, 5, shape.max_tokens].map(|tokens| tokens.min(shape.max_tokens)) {
        let ids: Vec<u32> = (0..tokens).map(|token| (token % shape.vocabulary) as u32).collect();
        let sentence_ids: Vec<i32> = (0..tokens as i32).map(|token| token / 2 - 1).collect();
        match engine.run(scratch, &ids, &sentence_ids) {
            Ok(logits) => {
                assert_eq!(logits.document.len(), shape.labels);
                assert_eq!(logits.sentences.len(), shape.labels * shape.max_sentences);
            }
            Err(error) => assert_eq!(error, RunError::Failed),
        }
    }
}

/// A transformer layer of 16 columns, as `Program::to_bytes` stores it.
pub(super) fn small_program(int8: bool, max_tokens: usize) -> Vec<u8> {
    build(int8, max_tokens).map(|program| program.to_bytes()).unwrap_or_default()
}

fn build(int8: bool, max_tokens: usize) -> Result<Program, ProgramError> {
    let shape = Shape { labels: 2, max_sentences: 3, max_tokens, vocabulary: 6 };
    let mut builder = ProgramBuilder::new(shape);
    let floats = |len: usize| (0..len).map(|at| (at * 29 % 61) as f32 / 61.0 - 0.5).collect::<Vec<f32>>();
    let integers =
        |len: usize| (0..len).map(|at| (at * 37 % 255) as u8 as i8).map(|w| w.max(-127)).collect::<Vec<i8>>();
    let words = if int8 {
        builder.table_i8(6, 16, &integers(96), &floats(6))?
    } else {
        builder.table_f32(6, 16, &floats(96))?
    };
    let positions = builder.table_f32(max_tokens, 16, &floats(16 * max_tokens))?;
    let norm = builder.norm(&[1.0; 16], &[0.0; 16], 1e-5)?;
    let linear = |builder: &mut ProgramBuilder, outputs: usize, inputs: usize| {
        if int8 {
            let scales: Vec<f32> = floats(outputs).iter().map(|scale| scale.abs() / 64.0).collect();
            builder.linear_i8(outputs, inputs, &integers(outputs * inputs), &scales, &floats(outputs))
        } else {
            builder.linear_f32(outputs, inputs, &floats(outputs * inputs), &floats(outputs))
        }
    };
    let qkv = linear(&mut builder, 48, 16)?;
    let out = linear(&mut builder, 16, 16)?;
    let up = linear(&mut builder, 24, 16)?;
    let down = linear(&mut builder, 16, 24)?;
    let bias = if int8 { None } else { Some(builder.vector(&floats(2 * (2 * max_tokens - 1)))?) };
    let classifier = builder.linear_f32(2, 16, &floats(32), &floats(2))?;
    let document = if int8 { Document::Mean } else { Document::LogSumExp { bias: builder.vector(&floats(2))? } };

    let input = builder.embed(words, positions, norm);
    let projected = builder.linear(input, qkv, Epilogue::None);
    let products = if int8 { Products::Int8 } else { Products::F32 };
    let attended = builder.attention(projected, 2, products, bias);
    let first = builder.linear(attended, out, Epilogue::ResidualNorm { residual: input, norm });
    let wide = builder.linear(first, up, Epilogue::Gelu);
    let second = builder.linear(wide, down, Epilogue::ResidualNorm { residual: first, norm });
    builder.head(second, classifier, document);
    builder.finish()
}

pub(super) const ONNX: Target = Target {
    name: "onnx",
    about: "ONNX graphs of whole encoders: lowered and run, or run on tract, whose panics are caught",
    short: 150,
    dictionary: &[
        b"MatMul",
        b"Softmax",
        b"Reshape",
        b"Expand",
        b"Gather",
        b"Slice",
        b"\x08\x01",
        b"\xff\xff\xff\xff\x0f",
    ],
    files: &["runtime/tests/data/graphs", "tests/fuzz/graphs"],
    made: Vec::new,
    start: || {
        Box::new(|input| {
            // Whole encoders are of tens of kilobytes, parts of one are of one.
            let shape = if input.len() < 8192 {
                PART
            } else {
                Shape { labels: 3, max_sentences: 8, max_tokens: 40, vocabulary: 50 }
            };
            open_graph(input, shape)
        })
    },
};

/// Shape of the graphs in `tests/fuzz/graphs`.
pub(super) const PART: Shape = Shape { labels: 3, max_sentences: 2, max_tokens: 8, vocabulary: 8 };

/// Opens a graph and runs it. Graphs are told apart by what is said of them: why they are refused, or not lowered.
pub(super) fn open_graph(graph: &[u8], shape: Shape) -> Outcome {
    match Engine::from_onnx(graph, shape, EngineChoice::Auto, None) {
        Ok(engine) => {
            run_graph(&engine);
            Outcome { accepted: true, ..Outcome::refused(&engine.not_lowered().map(ToString::to_string)) }
        }
        Err(error) => Outcome::refused(&error.to_string()),
    }
}

fn run_graph(engine: &Engine) {
    let mut scratch = engine.scratch();
    for tokens in [3_usize, 7] {
        let ids: Vec<u32> = (0..tokens as u32).collect();
        let sentence_ids = vec![0; tokens];
        let _ = engine.run(&mut scratch, &ids, &sentence_ids);
    }
}
