//! The bundle and the parts of it that `kdh-format` reads.

use kdh_format::{
    Bundle, BundleError, BundleWriter, Decisions, Golden, Manifest, ProgramSection, SectionKind, Signatures, Trust,
};
use sha2::{Digest, Sha256};

use super::{Outcome, Target};

pub(super) const BUNDLE: Target = Target {
    name: "bundle",
    about: "Bundle::parse and everything behind it, as the file is and with its digests made right",
    short: 20_000,
    dictionary: &[b"kdh-bundle\0\0\0\0\0\0", b"kdh-program\0\0\0\0\0", &[0; 64], &[1, 0, 0, 0, 1, 0, 0, 0]],
    files: &[
        "format/tests/golden/v1.kdh",
        "format/tests/golden/v1-decisions.kdh",
        "format/tests/golden/v1-signed.kdh",
        "format/tests/hostile",
    ],
    made: || vec![with_program()],
    start: || {
        Box::new(|input| {
            let _ = read(input);
            let mut sealed = input.to_vec();
            seal(&mut sealed);
            read(&sealed)
        })
    },
};

/// Reads everything that can be read.
fn read(bytes: &[u8]) -> Outcome {
    let bundle = match Bundle::parse(bytes) {
        Ok(bundle) => bundle,
        Err(error) => {
            let _ = error.to_string();
            return Outcome::refused(&error);
        }
    };
    for section in bundle.sections() {
        let start = section.bytes.as_ptr().addr() - bytes.as_ptr().addr();
        assert!(start.is_multiple_of(64) && start + section.bytes.len() <= bytes.len(), "a section outside the file");
        assert_eq!(<[u8; 32]>::from(Sha256::digest(section.bytes)), section.sha256, "a section with another digest");
    }
    let _ = (format!("{bundle:?}"), bundle.digest(), bundle.trailer(), bundle.rollback_counter());
    let signatures = Signatures::parse(bundle.trailer());
    let signed = signatures.as_ref().map_or(0, |signatures| signatures.iter().count());
    let program = bundle.program();
    if let Some(Err(error)) = &program {
        return Outcome::refused(error);
    }
    let manifest = match bundle.manifest() {
        Ok(manifest) => manifest,
        Err(error) => return Outcome::refused(&error),
    };
    match bundle.golden(&manifest) {
        Ok(golden) => {
            assert_eq!(golden.cases().len(), golden.cases().count());
            Outcome::accepted(bundle.sections().len() + 100 * usize::from(program.is_some()) + 1000 * signed)
        }
        Err(error) => Outcome::refused(&error),
    }
}

/// Makes the digests right, as far as there is a table.
fn seal(bytes: &mut [u8]) {
    let number =
        |bytes: &[u8], at: usize| bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let count = number(bytes, 24).map_or(0, |count| count as u32 as usize).min(32);
    for entry in (0..count).map(|index| 64 + 64 * index) {
        let (Some(offset), Some(len)) = (number(bytes, entry + 8), number(bytes, entry + 16)) else { return };
        let range = offset as usize..(offset as usize).saturating_add(len as usize);
        let Some(section) = bytes.get(range) else { continue };
        let digest = Sha256::digest(section);
        if let Some(place) = bytes.get_mut(entry + 32..entry + 64) {
            place.copy_from_slice(&digest);
        }
    }
    let end = 64 + 64 * count;
    if let Some((header, place)) = bytes.get_mut(..end + 32).map(|header| header.split_at_mut(end)) {
        place.copy_from_slice(&Sha256::digest(header));
    }
}

fn golden_file() -> Vec<u8> {
    std::fs::read(crate::root().join("format/tests/golden/v1.kdh")).unwrap_or_default()
}

fn section(kind: SectionKind) -> Vec<u8> {
    let file = golden_file();
    Bundle::parse(&file).ok().and_then(|bundle| bundle.section(kind)).unwrap_or_default().to_vec()
}

/// The golden bundle with a small program beside its graph.
fn with_program() -> Vec<u8> {
    let write = || -> Result<Vec<u8>, BundleError> {
        let file = golden_file();
        let bundle = Bundle::parse(&file)?;
        let Ok(manifest) = bundle.manifest() else { return Ok(Vec::new()) };
        let Ok(golden) = bundle.golden(&manifest) else { return Ok(Vec::new()) };
        let cases: Vec<_> = golden.cases().collect();
        let writer = BundleWriter::new(&manifest, b"graph", b"[CLS]\n[SEP]\n[UNK]\n", golden.tolerance(), &cases);
        let program = super::model::small_program(true, 8);
        Ok(writer.and_then(|writer| writer.program(&program, true).finish()).unwrap_or_default())
    };
    write().unwrap_or_default()
}

pub(super) const MANIFEST: Target = Target {
    name: "manifest",
    about: "Manifest::parse; what it takes is within the bounds, and read again is the same",
    short: 60_000,
    dictionary: &[b"\x80\x80\x80\x80\x08", b"\xff\xff\xff\xff\x0f", b"\0\0\x80\x3f", b"\0\0\xc0\x7f"],
    files: &[],
    made: || vec![section(SectionKind::Manifest)],
    start: || {
        Box::new(|input| {
            let manifest = Manifest::parse(input);
            if let Ok(manifest) = &manifest {
                assert!(manifest.check().is_ok() && (1..=kdh_format::MAX_LABELS).contains(&manifest.labels.len()));
                let again = postcard::to_allocvec(&(1_u32, manifest)).unwrap_or_default();
                assert_eq!(Manifest::parse(&again).as_ref(), Ok(manifest), "written and read it is another");
            }
            Outcome::of(&manifest)
        })
    },
};

pub(super) const GOLDEN: Target = Target {
    name: "golden",
    about: "Golden::parse; every announced text is there",
    short: 60_000,
    dictionary: &[b"\x80\x80\x80\x80\x08", b"\0\0\x80\x3f", b"\0\0\xc0\x7f", b"\x80\x02"],
    files: &[],
    made: || vec![section(SectionKind::Golden)],
    start: || {
        Box::new(|input| {
            let golden = Golden::parse(input, 2);
            if let Ok(golden) = &golden {
                assert!(golden.tolerance() > 0.0 && golden.tolerance().is_finite());
                assert_eq!(golden.cases().len(), golden.cases().count());
                assert!(golden.cases().all(|case| case.logits.len() == 2));
            }
            Outcome::of(&golden)
        })
    },
};

pub(super) const PROGRAM_SECTION: Target = Target {
    name: "program-section",
    about: "ProgramSection::parse; the program is the rest of the section",
    short: 60_000,
    dictionary: &[b"kdh-program\0\0\0\0\0"],
    files: &[],
    made: || vec![[&b"kdh-program\0\0\0\0\0\x01\0\0\0"[..], &[0; 12], &[7; 32], b"program"].concat()],
    start: || {
        Box::new(|input| {
            let section = ProgramSection::parse(input);
            if let Ok(section) = &section {
                assert_eq!(section.program.len() + 64, input.len());
            }
            Outcome::of(&section)
        })
    },
};

pub(super) const DECISIONS: Target = Target {
    name: "decisions",
    about: "Decisions::parse; what it takes is within the rules, and read again is the same",
    short: 40_000,
    dictionary: &[b"\x80\x80\x80\x80\x08", b"\xff\xff\xff\xff\x0f", b"\0\0\x80\x3f", b"\0\0\xc0\x7f", b"\0\0\0\0"],
    files: &[],
    made: || {
        let file = std::fs::read(crate::root().join("format/tests/golden/v1-decisions.kdh")).unwrap_or_default();
        let bundle = Bundle::parse(&file);
        let section = bundle.ok().and_then(|bundle| bundle.section(SectionKind::Decisions)).unwrap_or_default();
        vec![section.to_vec()]
    },
    start: || {
        Box::new(|input| {
            let decisions = Decisions::parse(input, 2);
            if let Ok(decisions) = &decisions {
                assert!(decisions.check(2).is_ok());
                // The version is written in front.
                let again = postcard::to_allocvec(&(1_u32, decisions)).unwrap_or_default();
                assert_eq!(Decisions::parse(&again, 2).as_ref(), Ok(decisions), "written and read it is another");
            }
            Outcome::of(&decisions)
        })
    },
};

pub(super) const TRUST: Target = Target {
    name: "trust",
    about: "Trust::parse, the file of keys, and Trust::verify of a signed bundle with what it makes of it",
    short: 20_000,
    dictionary: &[b"key ", b"revoked ", b"minimum-rollback-counter ", b"\n", b"18446744073709551616", b"test", b"#"],
    files: &["examples/keys/demonstration.trust"],
    made: Vec::new,
    start: || {
        let file = std::fs::read(crate::root().join("format/tests/golden/v1-signed.kdh")).unwrap_or_default();
        Box::new(move |input| {
            let text = String::from_utf8_lossy(input);
            let trust = Trust::parse(&text);
            match &trust {
                // A check of a signature takes most of the time: one in sixteen.
                Ok(trust) if input.len().is_multiple_of(16) => {
                    let verified = Bundle::parse(&file).map(|bundle| trust.verify(&bundle));
                    Outcome::accepted(1 + trust.keys().len() + 100 * usize::from(matches!(verified, Ok(Ok(_)))))
                }
                _ => Outcome::of(&trust),
            }
        })
    },
};
