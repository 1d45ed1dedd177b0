//! The arena engine, given a student's weights, gives the logits that tract gives on the student's exported graph.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod tiny;

use kdh_exporter::encoder::{Encoder, Linear, Matrix, Norm};
use kdh_exporter::graph::{Precision, onnx};
use kdh_exporter::quantize::quantize_rows;
use kdh_exporter::student::Student;
use kdh_format::student::Head;
use kdh_runtime::engine::{Engine, EngineChoice, Shape};
use kdh_runtime::program::{self, Document, Epilogue, Products, Program, ProgramBuilder, Step};

/// Largest difference of logits where both engines have the same integers.
const CLOSE: f32 = 2e-5;
/// Where one integer flips at a tie, the logits move by the noise of int8 itself.
const INT8_NOISE: f32 = 0.1;

#[test]
fn arena_and_tract_agree() {
    for architecture in tiny::ARCHITECTURES {
        for head in [Head::SentenceEvidence, Head::Mean] {
            for precision in [Precision::F32, Precision::Int8] {
                let folder = tempfile::tempdir().unwrap();
                tiny::write_student(folder.path(), architecture, head, 5);
                let student = Student::read(folder.path()).unwrap();
                let shape = shape(&student);
                let tract = Engine::from_onnx(&onnx(&student, precision), shape, EngineChoice::Tract, None).unwrap();
                let arena = Engine::from_program(program(&student, precision), None).unwrap();
                let lowered = Engine::from_onnx(&onnx(&student, precision), shape, EngineChoice::Arena, None).unwrap();
                let int8 = precision == Precision::Int8;
                let products = if int8 { Products::Int8 } else { Products::F32 };
                for step in lowered.program().unwrap().steps() {
                    assert!(!matches!(step, Step::Attention { products: found, .. } if *found != products));
                }
                let mut with_lowered = lowered.scratch();
                let (mut with_tract, mut with_arena) = (tract.scratch(), arena.scratch());
                let (mut close, mut worst) = (0, 0.0_f32);
                for tokens in 2..=tiny::MAX_TOKENS {
                    let (ids, sentence_ids) = tiny::input(tokens, shape.vocabulary, tokens as u64);
                    let expected = tract.run(&mut with_tract, &ids, &sentence_ids).unwrap();
                    let found = arena.run(&mut with_arena, &ids, &sentence_ids).unwrap();
                    let same = lowered.run(&mut with_lowered, &ids, &sentence_ids).unwrap();
                    assert_eq!((same.sentences, same.document), (found.sentences, found.document), "{architecture}");
                    let pairs = found.sentences.iter().chain(found.document);
                    let pairs = pairs.zip(expected.sentences.iter().chain(expected.document));
                    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    close += usize::from(difference < CLOSE);
                    worst = worst.max(difference);
                }
                let texts = tiny::MAX_TOKENS - 1;
                println!(
                    "{architecture} {head:?} {precision:?}: {close} of {texts} within {CLOSE}, all within {worst:.1e}"
                );
                assert!(
                    worst < if precision == Precision::F32 { CLOSE } else { INT8_NOISE },
                    "{architecture}: {worst}"
                );
                assert!(close >= texts / 4, "{architecture}: {close} of {texts}");
            }
        }
    }
}

fn shape(student: &Student) -> Shape {
    Shape {
        labels: student.card.labels.len(),
        max_sentences: student.card.max_sentences as usize,
        max_tokens: student.card.max_tokens as usize,
        vocabulary: student.vocabulary.len(),
    }
}

fn program(student: &Student, precision: Precision) -> Program {
    let int8 = precision == Precision::Int8;
    let mut builder = ProgramBuilder::new(shape(student));
    let Encoder { heads, layer_norm_epsilon: epsilon, words, positions, .. } = &student.encoder;
    let (words, positions) = (table(&mut builder, words, int8), table(&mut builder, positions, int8));
    let embedding_norm = norm(&mut builder, &student.encoder.embedding_norm, *epsilon);
    let bias = student.encoder.relative_bias.as_ref().map(|bias| builder.vector(&bias.values).unwrap());
    let mut states = builder.embed(words, positions, embedding_norm);
    for layer in &student.encoder.layers {
        let all = linear(&mut builder, &layer.query_key_value, int8);
        let all = builder.linear(states, all, Epilogue::None);
        let products = if int8 { Products::Int8 } else { Products::F32 };
        let context = builder.attention(all, *heads, products, bias);
        for (input, up, down, after) in [
            (context, None, &layer.attention_output, &layer.attention_norm),
            (context, Some(&layer.intermediate), &layer.output, &layer.output_norm),
        ] {
            let input = match up {
                Some(up) => {
                    let up = linear(&mut builder, up, int8);
                    builder.linear(states, up, Epilogue::Gelu)
                }
                None => input,
            };
            let (down, norm) = (linear(&mut builder, down, int8), norm(&mut builder, after, *epsilon));
            states = builder.linear(input, down, Epilogue::ResidualNorm { residual: states, norm });
        }
    }
    let head = linear(&mut builder, &student.classifier.linear, false);
    let document = match &student.classifier.document_bias {
        Some(bias) => Document::LogSumExp { bias: builder.vector(bias).unwrap() },
        None => Document::Mean,
    };
    builder.head(states, head, document);
    builder.finish().unwrap()
}

fn table(builder: &mut ProgramBuilder, matrix: &Matrix, int8: bool) -> program::Table {
    if !int8 {
        return builder.table_f32(matrix.rows, matrix.columns, &matrix.values).unwrap();
    }
    let rounded = quantize_rows(matrix);
    builder.table_i8(matrix.rows, matrix.columns, &rounded.integers, &rounded.scales).unwrap()
}

fn linear(builder: &mut ProgramBuilder, linear: &Linear, int8: bool) -> program::Linear {
    let Linear { weight, bias } = linear;
    if !int8 {
        return builder.linear_f32(weight.rows, weight.columns, &weight.values, bias).unwrap();
    }
    let rounded = quantize_rows(weight);
    builder.linear_i8(weight.rows, weight.columns, &rounded.integers, &rounded.scales, bias).unwrap()
}

fn norm(builder: &mut ProgramBuilder, norm: &Norm, epsilon: f32) -> program::Norm {
    builder.norm(&norm.weight, &norm.bias, epsilon).unwrap()
}
