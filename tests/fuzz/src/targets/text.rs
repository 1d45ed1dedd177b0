//! Texts, vocabularies, data sets and cards.

use std::ops::ControlFlow;

use kdh_format::student::StudentCard;
use kdh_runtime::text::{Encoding, Sentences, Tokenizer, TokenizerOptions};
use kdh_runtime::{Bundle, LabelError, Labeler, LabelerOptions, dataset};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::{Outcome, Target, broken};

/// What the normaliser, WordPiece and the sentence splitter treat apart.
const WORDS: &[&[u8]] = &[
    "\u{301}".as_bytes(),
    "\u{302E}\u{1D16D}".as_bytes(),
    "\u{4e2d}\u{6587}".as_bytes(),
    "\u{130}\u{3a3}\u{df}".as_bytes(),
    "\u{ac00}\u{1100}\u{1161}".as_bytes(),
    "\u{2f800}\u{f900}".as_bytes(),
    "\u{200b}\u{ad}\u{feff}".as_bytes(),
    "\u{a0}\u{2028}\u{3000}".as_bytes(),
    "\u{e0100}\u{10ffff}".as_bytes(),
    b"##",
    b"[SEP]",
    b". ",
    b"e.g. ",
    b"\0",
    b"\xff\xfe",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

const SAMPLES: &[&str] = &[
    "The tumour cells divided slowly. No vessel grew; TNF-\u{3b1} rose by 3.5 \u{b5}g/ml (e.g. Fig. 2).",
    "Caf\u{e9}-au-lait spots were seen! \u{4e2d}\u{6587}\u{3002} Was it [SEP] or ##ing? \u{39f}\u{394}\u{39f}\u{3a3}",
    "",
];

const OPTIONS: TokenizerOptions<'static> =
    TokenizerOptions { lowercase: true, cls: "[CLS]", sep: "[SEP]", unk: "[UNK]" };

fn samples() -> Vec<Vec<u8>> {
    SAMPLES.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// ASCII, some blocks of other scripts, and pairs.
fn vocabulary() -> String {
    let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned).to_vec();
    for c in ('!'..'\u{3100}').chain('\u{4e00}'..'\u{4e80}').chain('\u{ac00}'..'\u{ac40}') {
        if (c as u32) < 128 || !(c as u32 / 64).is_multiple_of(3) {
            tokens.extend([c.to_string(), format!("##{c}")]);
        }
        if (c as u32).is_multiple_of(3) {
            tokens.extend([format!("a{c}"), format!("##{c}b")]);
        }
    }
    tokens.join("\n")
}

pub(super) const VOCABULARY: Target = Target {
    name: "vocabulary",
    about: "Tokenizer::new on any vocabulary, and a text with what it makes of it",
    short: 20_000,
    dictionary: &[b"[CLS]\n", b"[SEP]\n", b"[UNK]\n", b"##", b"\n", b"\r\n", b"\xff", b"\xc3\xa9", b"\0"],
    files: &[],
    made: || vec![b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nab\n##b\n##bc\nthe\ncells\n.\n\xc3\xa9\n".to_vec()],
    start: || {
        let mut encoding = Encoding::new(16, 4);
        Box::new(move |input| {
            let tokenizer = Tokenizer::new(input, &OPTIONS);
            if let Ok(tokenizer) = &tokenizer {
                let text = "The cells, abbc \u{e9}.";
                tokenizer.encode(text, Sentences::new(text), &mut encoding);
                assert!(encoding.ids().iter().all(|&id| (id as usize) < tokenizer.vocabulary_len()));
            }
            Outcome::of(&tokenizer)
        })
    },
};

pub(super) const TOKENIZER: Target = Target {
    name: "tokenizer",
    about: "the tokeniser's ids are those of the crate `tokenizers`; sentences lie on characters and in order",
    short: 8_000,
    dictionary: WORDS,
    files: &[],
    made: samples,
    start: || {
        let vocabulary = vocabulary();
        let build = || WordPiece::builder().vocab(WordPiece::read_bytes(vocabulary.as_bytes()).unwrap_or_default());
        let Ok(oracle) = build().unk_token("[UNK]".to_owned()).build() else { return broken(&"the oracle") };
        let pairs = [true, false].map(|lowercase| {
            let options = TokenizerOptions { lowercase, ..OPTIONS };
            (Tokenizer::new(vocabulary.as_bytes(), &options), BertNormalizer::new(true, true, None, lowercase))
        });
        Box::new(move |input| {
            let text = String::from_utf8_lossy(input);
            let mut tokens = 0;
            for (ours, normalizer) in &pairs {
                let Ok(ours) = ours else { continue };
                let (mut ids, mut last) = (Vec::new(), 0);
                ours.tokenize(&text, |token| {
                    assert!(
                        last <= token.start && text.get(token.start..token.end).is_some_and(|part| !part.is_empty())
                    );
                    last = token.start;
                    ids.push(token.id);
                    ControlFlow::Continue(())
                });
                assert_eq!(Some(&ids), expected(normalizer, &oracle, &text).as_ref(), "other ids than the oracle");
                tokens += ids.len();
            }
            assert!(tokens > 0 || text.chars().all(|c| c.is_whitespace() || c.is_control() || tokens == 0));
            let (mut end, mut sentences) = (0, 0);
            for sentence in Sentences::new(&text) {
                assert!(end <= sentence.start && text.get(sentence.clone()).is_some_and(|part| !part.is_empty()));
                end = sentence.end;
                sentences += 1;
            }
            Outcome::accepted(64 * sentences + tokens.min(63))
        })
    },
};

fn expected(normalizer: &BertNormalizer, oracle: &WordPiece, text: &str) -> Option<Vec<u32>> {
    let mut normalized = NormalizedString::from(text);
    normalizer.normalize(&mut normalized).ok()?;
    let mut split = PreTokenizedString::from(normalized);
    BertPreTokenizer.pre_tokenize(&mut split).ok()?;
    let mut ids = Vec::new();
    for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        ids.extend(oracle.tokenize(word).ok()?.iter().map(|token| token.id));
    }
    Some(ids)
}

pub(super) const LABEL: Target = Target {
    name: "label",
    about: "Labeler::label and label_with_sentences on any text and any ranges: a report that fits the text, or an error",
    short: 4_000,
    dictionary: WORDS,
    files: &[],
    made: samples,
    start: || {
        let bytes = std::fs::read(crate::root().join("runtime/tests/data/tiny.kdh")).unwrap_or_default();
        let build = || {
            Labeler::from_bundle(
                &Bundle::parse(&bytes).ok()?,
                &LabelerOptions::new().allow_unsigned().max_text_bytes(4096),
            )
            .ok()
        };
        let Some(labeler) = build() else { return broken(&"the labeler") };
        let mut scratch = labeler.scratch();
        Box::new(move |input| {
            let text = String::from_utf8_lossy(input);
            let outcome = check(&labeler.label(&mut scratch, &text), &text);
            let ranges: Vec<_> =
                input.chunks_exact(4).map(|at| usize::from(at[0])..usize::from(at[1] ^ at[2])).take(40).collect();
            let _ = check(&labeler.label_with_sentences(&mut scratch, &text, ranges.into_iter()), &text);
            outcome
        })
    },
};

fn check(result: &Result<kdh_runtime::Report<'_>, LabelError>, text: &str) -> Outcome {
    if let Ok(report) = result {
        assert!(report.kept_tokens <= report.text_tokens && report.sentences <= report.kept_tokens.max(1));
        for label in &report.labels {
            assert!((0.0..=1.0).contains(&label.probability));
            for evidence in &label.evidence {
                assert!(
                    text.get(evidence.start as usize..evidence.end as usize).is_some(),
                    "evidence outside the text"
                );
            }
        }
        return Outcome::accepted(report.sentences);
    }
    Outcome::of(result)
}

pub(super) const DATASET: Target = Target {
    name: "dataset",
    about: "the JSON Lines reader; what it takes is read back as it was written",
    short: 60_000,
    dictionary: &[
        b"{\"id\":\"a\",\"text\":\"b\",\"labels\":[]}\n",
        b"\"sentences\":[{\"start\":0,\"end\":1,\"labels\":[]}]",
        b"\\u00e9",
        b"\\ud800",
        b"null",
        b"1e999",
        b"-0",
        b"[[[[[[[[[[[[[[[[",
        b"\xef\xbb\xbf",
        b"\r\n",
    ],
    files: &["exporter/tests/tiny/documents.jsonl"],
    made: || {
        vec![
            "{\"id\": \"a1\", \"text\": \"V\u{e9}ssels grew. Cells died.\", \"labels\": [\"A\", \"CD\"], \"sentences\": \
             [{\"start\": 0, \"end\": 14, \"labels\": [\"A\"]}]}\n{\"id\":\"a2\",\"text\":\"\",\"labels\":[]}"
                .into(),
        ]
    },
    start: || {
        Box::new(|input| {
            let documents = dataset::read_bytes(input);
            match &documents {
                Ok(documents) => {
                    let mut writer = dataset::Writer::new(Vec::new());
                    assert!(documents.iter().all(|document| writer.write(document).is_ok()));
                    let written = writer.finish().unwrap_or_default();
                    assert!(
                        dataset::read_bytes(&written).is_ok_and(|again| again == *documents),
                        "written it is another"
                    );
                    let _ = format!("{documents:?}");
                    let _ = dataset::truth(documents, &["A", "B"]);
                    Outcome::accepted(documents.len().min(8))
                }
                Err(error) => {
                    let _ = error.to_string();
                    Outcome::refused(error)
                }
            }
        })
    },
};

pub(super) const STUDENT_CARD: Target = Target {
    name: "student-card",
    about: "the student folder's card; what is taken is read back as it was written",
    short: 60_000,
    dictionary: &[b"\"head\":\"mean\"", b"\"version\":1", b"null", b"1e39", b"-1", b"[", b"{", b"\\u0000"],
    files: &[],
    made: || vec![CARD.as_bytes().to_vec()],
    start: || {
        Box::new(|input| match serde_json::from_slice::<StudentCard>(input) {
            Ok(card) => {
                let written = serde_json::to_vec(&card).unwrap_or_default();
                // A threshold beyond f32 is written as null.
                if card.labels.iter().all(|label| label.threshold.is_finite())
                    && card.provenance.metrics.iter().all(|metric| metric.value.is_finite())
                {
                    assert!(serde_json::from_slice::<StudentCard>(&written).is_ok_and(|again| again == card));
                }
                Outcome::accepted(card.labels.len().min(8))
            }
            Err(error) => Outcome::refused(&error.classify()),
        })
    },
};

const CARD: &str = r#"{"version":1,"name":"tiny","head":"sentence-evidence","labels":[{"code":"A","name":"a","threshold":0.5}],
"max_tokens":64,"max_sentences":8,"tokenizer":{"lowercase":true,"cls":"[CLS]","sep":"[SEP]","unk":"[UNK]"},
"provenance":{"data":"d","data_licence":"l","weights":"w","weights_licence":"l","command":"c","commit":"","seed":7,
"metrics":[{"name":"dev_micro_f1","value":0.5}]}}"#;
