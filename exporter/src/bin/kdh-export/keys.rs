//! `kdh-export keygen` and `kdh-export sign`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use kdh_format::{KeyRole, SecretKey, sign_bundle};
use kdh_runtime::BundleFile;
use kdh_runtime::atomic_file::write_atomically;
use serde_json::json;

/// Make a key that signs bundles
///
/// Writes NAME.secret, which signs and must stay with you (keep it off the devices and off shared machines; it is not
/// encrypted), and NAME.trust, which devices need to verify: give it to `kdh --trust`, or read it with `Trust::parse`. A
/// trust file takes more lines: `key` lines of other keys, `revoked ID`, and `minimum-rollback-counter N`. Neither file is
/// overwritten.
#[derive(Args)]
pub(crate) struct KeygenArgs {
    /// Path of the two files, without their endings
    #[arg(value_name = "NAME")]
    name: PathBuf,
    /// What the key is for
    #[arg(long, value_enum)]
    role: RoleArg,
    /// What people call the key
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Sign a bundle
///
/// Adds an Ed25519 signature behind the bundle's content, which stays as it is; an earlier signature of the same key is
/// replaced, those of other keys stay. The file appears whole or not at all.
#[derive(Args)]
pub(crate) struct SignArgs {
    /// Bundle to sign
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Secret key file
    #[arg(long, value_name = "NAME.secret")]
    key: PathBuf,
    /// File to write, instead of signing in place
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArg {
    /// Signs what goes to devices in use
    Release,
    /// Signs what is tried out; devices refuse it
    Test,
}

pub(crate) fn keygen(args: &KeygenArgs) -> anyhow::Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random bytes")?;
    let role = match args.role {
        RoleArg::Release => KeyRole::Release,
        RoleArg::Test => KeyRole::Test,
    };
    let key = SecretKey::from_seed(&seed, role, &args.label)?;
    let [secret, trust] = ["secret", "trust"].map(|ending| {
        let mut path = args.name.clone().into_os_string();
        path.push(".");
        path.push(ending);
        PathBuf::from(path)
    });
    create(&secret, true, &key.to_text())?;
    create(&trust, false, &format!("kdh-trust 1\n{}\n", key.public()))?;
    let id = key.public().id().to_string();
    if args.json {
        println!("{}", json!({ "id": id, "role": role.name(), "secret": secret, "trust": trust }));
    } else {
        println!("{} key {id}\nsecret  {}\ntrust   {}", role.name(), secret.display(), trust.display());
    }
    Ok(())
}

pub(crate) fn sign(args: &SignArgs) -> anyhow::Result<()> {
    let shown = args.key.display();
    let text = std::fs::read_to_string(&args.key).with_context(|| shown.to_string())?;
    let key = SecretKey::parse(&text).with_context(|| shown.to_string())?;
    let named = || args.bundle.display().to_string();
    let file = BundleFile::open(&args.bundle).with_context(named)?;
    let bundle = file.verify().with_context(named)?;
    let signed = sign_bundle(&bundle, &key).with_context(named)?;
    let signer = format!("{} key {} ({})", key.public().role().name(), key.public().id(), key.public().label());
    let output = args.output.as_ref().unwrap_or(&args.bundle);
    write_atomically(output, &signed).with_context(|| format!("cannot write {}", output.display()))?;
    if args.json {
        let (id, role) = (key.public().id().to_string(), key.public().role().name());
        println!("{}", json!({ "file": output, "id": id, "role": role }));
    } else {
        println!("{}: signed by {signer}", output.display());
    }
    Ok(())
}

/// Writes a new file; a secret one that only its owner can read.
fn create(path: &Path, secret: bool, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if secret { 0o600 } else { 0o644 });
    #[cfg(not(unix))]
    let _ = secret;
    let write = |mut file: File| file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    options.open(path).and_then(write).with_context(|| path.display().to_string())
}
