//! The arena against tract: graphs of several makers lower, and give what tract gives.
#![cfg(feature = "tract")]

#[cfg(test)]
mod bundles;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use kdh_runtime::engine::{Engine, EngineChoice, EngineError, Shape};
    use kdh_runtime::format::{BundleWriter, SectionKind};
    use kdh_runtime::lower::{LowerError, lower};
    use kdh_runtime::program::Program;
    use kdh_runtime::{BuildError, Bundle, BundleFile, Kernels, Labeler, LabelerOptions, dataset, lower_bundle};

    use crate::bundles::{Parts, TINY};

    const GRAPHS: [(&str, &[u8]); 4] = [
        ("bert-eager-script", include_bytes!("data/graphs/bert-eager-script.onnx")),
        ("bert-sdpa-dynamo", include_bytes!("data/graphs/bert-sdpa-dynamo.onnx")),
        ("distilbert-eager-dynamo", include_bytes!("data/graphs/distilbert-eager-dynamo.onnx")),
        ("distilbert-sdpa-script", include_bytes!("data/graphs/distilbert-sdpa-script.onnx")),
    ];
    const SHAPE: Shape = Shape { labels: 3, max_sentences: 8, max_tokens: 40, vocabulary: 50 };

    fn engine(model: &[u8], shape: Shape, choice: EngineChoice) -> Result<Engine, EngineError> {
        Engine::from_onnx(model, shape, choice, None)
    }

    /// Largest difference of a logit, for inputs of several lengths.
    fn differences(model: &[u8], shape: Shape) -> Vec<f32> {
        let arena = engine(model, shape, EngineChoice::Arena).unwrap();
        let tract = engine(model, shape, EngineChoice::Tract).unwrap();
        assert_eq!((arena.name(), tract.name().split(' ').next()), ("arena", Some("tract")));
        let (mut arena_scratch, mut tract_scratch) = (arena.scratch(), tract.scratch());
        let difference = |tokens: usize| {
            let ids: Vec<u32> =
                (0..tokens).map(|token| (token * token * 7 + 3 * token) as u32 % shape.vocabulary as u32).collect();
            // No sentence, sentences of several lengths, one that is skipped.
            let sentence =
                |token: usize| [-1, 0, 0, 1, 3, 3, 3, 4].get(token).copied().unwrap_or((token % 3 + 4) as i32);
            let sentence_ids: Vec<i32> = (0..tokens).map(sentence).collect();
            let found = arena.run(&mut arena_scratch, &ids, &sentence_ids).unwrap();
            let expected = tract.run(&mut tract_scratch, &ids, &sentence_ids).unwrap();
            let pairs =
                found.document.iter().zip(expected.document).chain(found.sentences.iter().zip(expected.sentences));
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        [1, 2, 3, 7, 16, 17, 33, shape.max_tokens].map(difference).to_vec()
    }

    #[test]
    fn graphs_from_elsewhere_lower_and_give_what_tract_gives() {
        for (name, model) in GRAPHS {
            let differences = differences(model, SHAPE);
            assert!(differences.iter().all(|&difference| difference < 1e-5), "{name}: {differences:?}");
        }
    }

    #[test]
    fn the_exporters_int8_graph_gives_what_tract_gives() {
        let graph = Parts::of_tiny().graph;
        let shape = Shape { labels: 3, max_sentences: 64, max_tokens: 96, vocabulary: 301 };
        let differences = differences(&graph, shape);
        // An integer that is rounded to the other side of a tie makes more, up to what int8 differs from f32.
        let alike = differences.iter().filter(|&&difference| difference < 1e-4).count();
        assert!(alike >= differences.len() / 2, "{differences:?}");
        assert!(differences.iter().all(|&difference| difference < Parts::of_tiny().tolerance), "{differences:?}");
    }

    #[test]
    fn the_stored_program_is_the_lowered_graph() {
        for bytes in [TINY.to_vec(), std::fs::read(root().join("models/default.kdh")).unwrap()] {
            let bundle = Bundle::parse(&bytes).unwrap();
            let graph = bundle
                .section(SectionKind::Onnx)
                .is_none()
                .then(|| std::fs::read(root().join("models/default.onnx")).unwrap());
            let lowered = lower_bundle(&bundle, graph.as_deref()).unwrap().to_bytes();
            let stored = bundle.program().unwrap().unwrap().program;
            assert!(lowered == stored, "the stored program is another than the lowered one; pack the bundle again");
            assert_eq!(Program::parse(stored).unwrap().to_bytes(), stored);
        }
    }

    /// `ARITHMETIC.md` says why two engines' int8 logits differ, and that the difference is that of int8 from f32, which
    /// the golden tolerance is twice of.
    ///
    /// Verifies: R-014
    #[test]
    fn the_default_bundle_decides_alike_on_both_engines() {
        let file = BundleFile::open(root().join("models/default.kdh")).unwrap();
        let graph = std::fs::read(root().join("models/default.onnx")).unwrap();
        let bundle = file.verify().unwrap();
        let with = |choice| {
            Labeler::with_graph(&bundle, &graph, &LabelerOptions::new().allow_unsigned().engine(choice)).unwrap()
        };
        let (arena, tract) = (with(EngineChoice::Arena), with(EngineChoice::Tract));
        arena.self_test(&bundle).unwrap();
        // What another engine's logits may be away.
        let tolerance = bundle.golden(&bundle.manifest().unwrap()).unwrap().tolerance();

        let documents = dataset::read(root().join("../shared/data/hoc/dev.jsonl")).unwrap();
        let (mut arena_scratch, mut tract_scratch) = (arena.scratch(), tract.scratch());
        let (mut largest, mut sum, mut logits, mut flips) = (0_f32, 0_f64, 0, 0);
        // tract multiplies int8 forty times slower where the processor has no instruction for it: every eighth document does.
        let every =
            if matches!(Kernels::detect(), Kernels::AvxVnni | Kernels::Avx2 | Kernels::Portable) { 8 } else { 1 };
        for document in documents.iter().step_by(every) {
            let found = arena.label(&mut arena_scratch, &document.text).unwrap();
            let expected = tract.label(&mut tract_scratch, &document.text).unwrap();
            for (a, b) in found.labels.iter().zip(&expected.labels) {
                let difference = (a.logit - b.logit).abs();
                (largest, sum, logits) = (largest.max(difference), sum + f64::from(difference), logits + 1);
                if a.positive() != b.positive() {
                    flips += 1;
                    let distance = (b.probability - b.threshold).abs();
                    assert!(distance <= 0.1, "{} flips {distance} away from its threshold", a.code);
                }
            }
        }
        eprintln!(
            "dev: {logits} logits, difference {largest} largest ({tolerance} allowed), {} mean; {flips} decisions differ",
            sum / f64::from(logits)
        );
        assert!(largest <= tolerance, "{largest}");
        assert!(f64::from(flips) <= 0.005 * f64::from(logits), "{flips} of {logits} decisions differ");
    }

    /// Verifies: R-006
    #[test]
    fn kernels_give_the_same_reports() {
        let bundle = Bundle::parse(TINY).unwrap();
        let texts = ["The cells divided slowly. No vessel grew into the tumour!", "x", &"a b c. ".repeat(60)];
        let reports = |options: &LabelerOptions| -> Vec<String> {
            let labeler = Labeler::from_bundle(&bundle, options).unwrap();
            let mut scratch = labeler.scratch();
            texts.iter().map(|text| format!("{:?}", labeler.label(&mut scratch, text).unwrap())).collect()
        };
        let expected = reports(&LabelerOptions::new().allow_unsigned().kernels(Kernels::Portable));
        for kernels in Kernels::ALL.into_iter().filter(|kernels| kernels.is_available()) {
            assert_eq!(reports(&LabelerOptions::new().allow_unsigned().kernels(kernels)), expected, "{kernels}");
        }
    }

    #[test]
    fn says_which_operator_is_in_the_way() {
        // One position fewer than the manifest has tokens.
        let long = Shape { max_tokens: 41, ..SHAPE };
        let error = lower(GRAPHS[0].1, long).unwrap_err();
        assert!(matches!(&error, LowerError::Operator { reason, .. } if reason.contains("positions")), "{error}");
        assert!(matches!(engine(GRAPHS[0].1, long, EngineChoice::Arena), Err(EngineError::Lower(_))));

        // `Erf`, as ONNX writes its name, made another function: a GELU that is none.
        let mut graph = Parts::of_tiny().graph;
        let erf = b"\x22\x03Erf";
        let places: Vec<usize> =
            graph.windows(erf.len()).enumerate().filter(|(_, bytes)| bytes == erf).map(|(at, _)| at).collect();
        assert_eq!(places.len(), 2, "one in each layer");
        places.iter().for_each(|&at| graph[at + 2..at + 5].copy_from_slice(b"Sin"));
        let shape = Shape { labels: 3, max_sentences: 64, max_tokens: 96, vocabulary: 301 };
        let error = lower(&graph, shape).unwrap_err();
        let LowerError::Operator { operator, shape: given, .. } = &error else { panic!("{error}") };
        assert!(operator.starts_with("Sin ") && given.contains("64"), "{error}");
        let tract = engine(&graph, shape, EngineChoice::Auto).unwrap();
        assert!(tract.name().starts_with("tract"));
        assert_eq!(tract.not_lowered(), Some(&error));

        assert!(matches!(lower(b"", SHAPE), Err(LowerError::Graph(_))));
    }

    #[test]
    fn refuses_programs_of_others() {
        let parts = Parts::of_tiny();
        let stored = Bundle::parse(TINY).unwrap().program().unwrap().unwrap().program;
        let write = |parts: &Parts<'_>, program: &[u8], keep_graph: bool| {
            BundleWriter::new(&parts.manifest, &parts.graph, &parts.vocabulary, parts.tolerance, &parts.golden)
                .and_then(|writer| writer.program(program, keep_graph).finish())
                .unwrap()
        };
        let build = |bytes: &[u8], graph: Option<&[u8]>, options: &LabelerOptions| {
            let bundle = Bundle::parse(bytes).unwrap();
            let labeler = match graph {
                None => Labeler::from_bundle(&bundle, options),
                Some(graph) => Labeler::with_graph(&bundle, graph, options),
            };
            labeler.map(|labeler| labeler.engine().name())
        };
        let (auto, tract) = (
            LabelerOptions::new().allow_unsigned(),
            LabelerOptions::new().allow_unsigned().engine(EngineChoice::Tract),
        );
        let alone = write(&parts, stored, false);
        assert!(Bundle::parse(&alone).unwrap().section(SectionKind::Onnx).is_none());
        assert!(matches!(build(&alone, None, &auto), Ok("arena")));
        assert!(matches!(build(&alone, None, &tract), Err(BuildError::NoGraph)));
        assert!(matches!(build(&alone, Some(&parts.graph), &tract), Ok(name) if name.starts_with("tract")));
        assert!(matches!(build(&alone, Some(b"another graph"), &auto), Err(BuildError::ForeignGraph)));
        assert!(matches!(build(&write(&parts, b"no program", true), None, &auto), Err(BuildError::Program(_))));
        let cut = &stored[..stored.len() - 64];
        assert!(matches!(build(&write(&parts, cut, true), None, &auto), Err(BuildError::Program(_))));
        let mut shorter = Parts::of_tiny();
        shorter.manifest.max_tokens = 48;
        assert!(matches!(build(&write(&shorter, stored, true), None, &auto), Err(BuildError::Shape { .. })));
    }

    #[test]
    fn a_program_is_used_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.kdh");
        std::fs::write(&path, TINY).unwrap();
        let labeler =
            Labeler::from_file(BundleFile::open(&path).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
        let copied =
            Labeler::from_bundle(&Bundle::parse(TINY).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
        assert!(labeler.engine().program().unwrap().weights_in_place());
        assert!(!copied.engine().program().unwrap().weights_in_place());
        std::fs::remove_file(path).unwrap();
        let text = "The cells divided.";
        let report = labeler.label(&mut labeler.scratch(), text).unwrap();
        assert_eq!(report, copied.label(&mut copied.scratch(), text).unwrap());
    }

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }
}
