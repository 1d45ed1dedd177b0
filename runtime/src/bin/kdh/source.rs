//! Where bundles and texts come from.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use kdh_runtime::engine::Origin;
use kdh_runtime::format::KeyRole;
use kdh_runtime::{Bundle, BundleFile, EngineChoice, Kernels, Labeler, LabelerOptions, Signer, Trust};
use serde::Serialize;

const DEFAULT_BUNDLE: &str = "models/default.kdh";
const BUNDLE_VARIABLE: &str = "KDH_BUNDLE";
const TRUST_VARIABLE: &str = "KDH_TRUST";
/// The key that signs the default bundle. Its secret half is published beside it.
const DEMONSTRATION: &str = include_str!("../../../../examples/keys/demonstration.trust");

#[derive(clap::Args)]
pub(crate) struct BundleArgs {
    /// Bundle to use; see `kdh --help` for the default
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

impl BundleArgs {
    /// The bundle that the user means, whether it is there or not.
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.bundle {
            return Ok(path.clone());
        }
        if let Some(path) = std::env::var_os(BUNDLE_VARIABLE).filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        // `cargo run` sets the variable, so that it works from every folder of the repository.
        let repository = std::env::var_os("CARGO_MANIFEST_DIR").map(|runtime| Path::new(&runtime).join(".."));
        [Some(PathBuf::new()), repository]
            .into_iter()
            .flatten()
            .map(|folder| folder.join(DEFAULT_BUNDLE))
            .find(|path| path.exists())
            .ok_or_else(|| {
                anyhow!(
                    "no bundle: give --bundle FILE, set {BUNDLE_VARIABLE}, or run where {DEFAULT_BUNDLE} is (this \
                     folder has none)"
                )
            })
    }
}

#[derive(clap::Args)]
pub(crate) struct EngineArgs {
    /// What runs the model
    #[arg(long, value_enum, default_value = "auto")]
    engine: EngineArg,
    /// Kernels of the arena, instead of the fastest that the processor has; all give the same bits
    #[arg(long, value_name = "NAME")]
    kernels: Option<Kernels>,
    /// The ONNX graph, when the bundle leaves it out and tract is to run it
    #[arg(long, value_name = "FILE.onnx")]
    onnx: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Label the bundle's golden texts first, and do nothing when a logit is not what the exporter recorded
    #[arg(long)]
    self_test: bool,
}

/// Whose bundles are taken.
#[derive(clap::Args)]
pub(crate) struct TrustArgs {
    /// Take only bundles that a key of this trust file has signed; see `kdh --help` for the default
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Let test keys of the trust file count; not for devices in use
    #[arg(long)]
    allow_test_keys: bool,
    /// Take bundles that nobody trusted has signed; for development
    #[arg(long)]
    allow_unsigned: bool,
}

impl TrustArgs {
    /// What the user trusts: a file, or else the published demonstration key.
    pub(crate) fn trust(&self) -> anyhow::Result<Trust> {
        let variable = || std::env::var_os(TRUST_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let trust = match self.trust.clone().or_else(variable) {
            Some(path) => {
                let named = || path.display().to_string();
                let trust = Trust::parse(&fs::read_to_string(&path).with_context(named)?).with_context(named)?;
                if self.allow_test_keys { trust.allow_test_keys() } else { trust }
            }
            None => Trust::parse(DEMONSTRATION)?.allow_test_keys(),
        };
        Ok(if self.allow_unsigned { trust.allow_unsigned() } else { trust })
    }
}

/// Says on standard error what a test key is worth.
pub(crate) fn note_signer(signer: &Signer) {
    let note = match signer {
        Signer::Key { role: KeyRole::Test, id, .. } if is_demonstration(signer) => format!(
            "note: the bundle is signed by demonstration key {id}, whose secret is published: this does not prove who made \
             it; give --trust"
        ),
        Signer::Key { role: KeyRole::Test, .. } => {
            format!("note: the bundle is signed by a {signer}: not for devices in use")
        }
        _ => return,
    };
    let _ = writeln!(io::stderr(), "{note}");
}

fn is_demonstration(signer: &Signer) -> bool {
    let Signer::Key { id, .. } = signer else { return false };
    Trust::parse(DEMONSTRATION).is_ok_and(|trust| trust.keys().iter().any(|key| key.id() == *id))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineArg {
    /// The arena if the graph can be lowered, otherwise tract
    Auto,
    /// Our own kernels, in planned memory
    Arena,
    /// The reference: slower, and allocates
    Tract,
}

impl EngineArgs {
    pub(crate) fn options(&self, options: LabelerOptions) -> anyhow::Result<LabelerOptions> {
        let options = options.trust(self.trust.trust()?).self_test(self.self_test).engine(match self.engine {
            EngineArg::Arena => EngineChoice::Arena,
            EngineArg::Tract => EngineChoice::Tract,
            EngineArg::Auto => EngineChoice::Auto,
        });
        Ok(match self.kernels {
            Some(kernels) => options.kernels(kernels),
            None => options,
        })
    }

    /// The graph beside the bundle, if one is given.
    pub(crate) fn graph(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let read = |path: &PathBuf| fs::read(path).with_context(|| path.display().to_string());
        self.onnx.as_ref().map(read).transpose()
    }

    /// Builds the labeler of an open bundle.
    pub(crate) fn labeler_of(&self, file: &Arc<BundleFile>, options: LabelerOptions) -> anyhow::Result<Labeler> {
        let options = self.options(options)?;
        let labeler = match self.graph()? {
            None => Labeler::from_shared(file.clone(), &options)?,
            Some(graph) => with_graph(&file.verify()?, &graph, &options)?,
        };
        note_signer(labeler.signer());
        Ok(labeler)
    }

    /// Opens a bundle and builds its labeler.
    pub(crate) fn labeler(&self, path: &Path, options: LabelerOptions) -> anyhow::Result<Labeler> {
        self.labeler_of(&Arc::new(open(path)?), options).with_context(|| path.display().to_string())
    }
}

/// Builds the labeler of a bundle that leaves its graph out.
pub(crate) fn with_graph(bundle: &Bundle<'_>, graph: &[u8], options: &LabelerOptions) -> anyhow::Result<Labeler> {
    #[cfg(feature = "tract")]
    return Ok(Labeler::with_graph(bundle, graph, options)?);
    #[cfg(not(feature = "tract"))]
    {
        let _ = (bundle, graph, options);
        bail!("{NO_GRAPHS}")
    }
}

/// Why a build without tract refuses a graph.
#[cfg(not(feature = "tract"))]
pub(crate) const NO_GRAPHS: &str = "this kdh was built without tract and reads no graphs; build it with the feature";

/// What runs a model, for results.
#[derive(Serialize)]
pub(crate) struct EngineReport<'l> {
    pub(crate) name: &'static str,
    pub(crate) kernels: &'l [String],
    /// Where the model comes from.
    pub(crate) model: &'static str,
    /// Why it is tract although the arena would have been taken.
    pub(crate) not_lowered: Option<String>,
}

impl<'l> EngineReport<'l> {
    pub(crate) fn new(labeler: &'l Labeler) -> Self {
        let engine = labeler.engine();
        let model = match engine.origin() {
            Origin::InPlace => "stored program, in place",
            Origin::Copied => "stored program, copied",
            Origin::Lowered => "graph, lowered to a program",
            _ => "graph",
        };
        #[cfg(feature = "tract")]
        let not_lowered = engine.not_lowered().map(ToString::to_string);
        #[cfg(not(feature = "tract"))]
        let not_lowered = None;
        Self { name: engine.name(), kernels: engine.kernels(), model, not_lowered }
    }
}

/// One line.
impl fmt::Display for EngineReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}; {})", self.name, self.kernels.join(", "), self.model)?;
        self.not_lowered.iter().try_for_each(|reason| write!(f, "; not the arena: {reason}"))
    }
}

/// Opens a bundle's file.
pub(crate) fn open(path: &Path) -> anyhow::Result<BundleFile> {
    BundleFile::open(path).with_context(|| path.display().to_string())
}

/// The text of a file, or of standard input for `-`; no more than `max_bytes` are kept in memory.
pub(crate) fn read_text(path: &Path, max_bytes: usize) -> anyhow::Result<String> {
    let (name, bytes) = if path.as_os_str() == OsStr::new("-") {
        let input = io::stdin();
        if input.is_terminal() {
            let _ = writeln!(io::stderr(), "reading the text from the terminal; end it with Ctrl-D");
        }
        ("standard input".into(), read_at_most(input.lock(), max_bytes))
    } else {
        let bytes = open_text(path).and_then(|file| read_at_most(file, max_bytes));
        (path.display().to_string(), bytes)
    };
    decode(bytes, max_bytes).context(name)
}

fn open_text(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a directory; give a text file"));
    }
    File::open(path)
}

/// One byte more than `max_bytes` when there is more.
fn read_at_most(input: impl Read, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decode(bytes: io::Result<Vec<u8>>, max_bytes: usize) -> anyhow::Result<String> {
    let bytes = bytes?;
    if bytes.len() > max_bytes {
        bail!("the text has more than {max_bytes} bytes; split it");
    }
    // The error of `String::from_utf8` holds the bytes; only the position goes on.
    String::from_utf8(bytes)
        .map_err(|error| anyhow!("not UTF-8 at byte {}; convert the text to UTF-8", error.utf8_error().valid_up_to()))
}
