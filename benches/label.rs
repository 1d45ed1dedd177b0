//! The label path of the default bundle: opening it, tokenising, and labelling texts of several lengths.
//!
//! `cargo bench -p kdh-benches --bench label`

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::expect_used, reason = "a bench without its bundle has nothing to measure")]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kdh_runtime::text::{Sentences, Tokenizer, TokenizerOptions};
use kdh_runtime::{BundleFile, Labeler, LabelerOptions, format::SectionKind};

const ABSTRACT: &str = include_str!("../examples/abstract.txt");

fn bundle() -> BundleFile {
    BundleFile::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default.kdh")).expect("the default bundle")
}

fn open(criterion: &mut Criterion) {
    let file = bundle();
    criterion.bench_function("verify digests", |bencher| bencher.iter(|| black_box(file.verify()).is_ok()));
    let bundle = file.verify().expect("a whole bundle");
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10);
    group.bench_function("labeler", |bencher| {
        bencher.iter(|| Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()))
    });
}

fn tokenize(criterion: &mut Criterion) {
    let file = bundle();
    let bundle = file.verify().expect("a whole bundle");
    let vocabulary = bundle.section(SectionKind::Vocabulary).expect("a vocabulary");
    let options = TokenizerOptions { lowercase: true, cls: "[CLS]", sep: "[SEP]", unk: "[UNK]" };
    let tokenizer = Tokenizer::new(vocabulary, &options).expect("a usable vocabulary");
    let mut group = criterion.benchmark_group("text");
    group.throughput(Throughput::Bytes(ABSTRACT.len() as u64));
    group.bench_function("tokenize", |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            tokenizer.tokenize(black_box(ABSTRACT), |token| {
                sum += token.id;
                ControlFlow::Continue(())
            });
            sum
        });
    });
    group.bench_function("sentences", |bencher| bencher.iter(|| Sentences::new(black_box(ABSTRACT)).count()));
}

fn label(criterion: &mut Criterion) {
    let file = bundle();
    let bundle = file.verify().expect("a whole bundle");
    let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).expect("a usable bundle");
    let mut scratch = labeler.scratch();
    let mut group = criterion.benchmark_group("label");
    group.sample_size(20);
    for words in [16, 64, 160] {
        let text = ABSTRACT.split_inclusive(' ').take(words).collect::<String>();
        let tokens = labeler.label(&mut scratch, &text).expect("a text with words").kept_tokens + 2;
        group.bench_with_input(BenchmarkId::new("tokens", tokens), &text, |bencher, text| {
            bencher.iter(|| labeler.label(&mut scratch, black_box(text)).is_ok());
        });
    }
}

criterion_group!(benches, open, tokenize, label);
criterion_main!(benches);
