//! `bundle`: make, look at, check and sign bundles. For vendors; no node is needed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use xupg_images::bundle::{
    Bundle, BundleSpec, CreateEvent, NewSignature, Present, Summary, create, resign, verify,
};
use xupg_images::signature::SigningKey;

use super::{Global, print, print_json};
use crate::error::{Doing, Error, OrFailed, Result};
use crate::flash;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a signed bundle from folders or tarballs, as a specification in JSON says.
    Create(Create),
    /// Say what a bundle holds.
    Inspect(Inspect),
    /// Check a whole bundle: signature, every digest, every file list.
    Verify(Verify),
    /// Add a signature to a bundle, or replace those it has.
    Sign(Sign),
}

/// A signer's certificate and key.
#[derive(Debug, Args)]
struct Signer {
    /// The signer's certificate in PEM, intermediates after it.
    #[arg(long, value_name = "PEM")]
    cert: PathBuf,
    /// Its private key in PEM.
    #[arg(long, value_name = "PEM")]
    key: PathBuf,
}

/// Make a bundle.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The specification: what the release holds, and where it comes from.
    spec: PathBuf,
    /// The bundle to write.
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    signer: Signer,
    /// zstd's level.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Times later than this (seconds since 1970) become this. [env: SOURCE_DATE_EPOCH]
    #[arg(long)]
    epoch: Option<u64>,
}

/// Look at a bundle.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The bundle; `-` reads standard input.
    bundle: PathBuf,
    /// The folder of trust anchors; without it the signature is not verified.
    #[arg(long, value_name = "DIR")]
    trust: Option<PathBuf>,
    /// Print the whole manifest, byte for byte.
    #[arg(long)]
    manifest: bool,
}

/// Check a bundle.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The bundle; `-` reads standard input.
    bundle: PathBuf,
    /// The folder of trust anchors.
    #[arg(long, value_name = "DIR", default_value = "/etc/xupg/trust")]
    trust: PathBuf,
}

/// Sign a bundle.
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The bundle.
    bundle: PathBuf,
    /// The bundle to write.
    #[arg(short, long)]
    output: PathBuf,
    /// The signer's certificate in PEM, intermediates after it.
    #[arg(long, value_name = "PEM", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key in PEM.
    #[arg(long, value_name = "PEM", requires = "cert")]
    key: Option<PathBuf>,
    /// A signature made elsewhere: detached CMS over manifest.json in DER.
    #[arg(
        long,
        value_name = "DER",
        required_unless_present = "cert",
        conflicts_with = "cert"
    )]
    signature: Option<PathBuf>,
    /// Drop the signatures that it has.
    #[arg(long)]
    replace: bool,
}

pub(super) fn run(verb: &Verb, global: &Global) -> Result<()> {
    match verb {
        Verb::Create(verb) => make(verb, global),
        Verb::Inspect(verb) => look(verb, global),
        Verb::Verify(verb) => check(verb, global),
        Verb::Sign(verb) => sign(verb),
    }
}

fn signing_key(cert: &Path, key: &Path) -> Result<SigningKey> {
    SigningKey::load(cert, key).or_failed(|| "reading the signer's key".to_owned())
}

fn make(verb: &Create, global: &Global) -> Result<()> {
    let doing = || format!("making the bundle {}", verb.output.display());
    let mut spec =
        BundleSpec::load(&verb.spec).or_failed(|| format!("reading {}", verb.spec.display()))?;
    let from_environment = || std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok();
    if let Some(epoch) = verb.epoch.or_else(from_environment) {
        spec.epoch = Some(epoch);
    }
    let key = signing_key(&verb.signer.cert, &verb.signer.key)?;
    if global.dry_run {
        return print(&format!("{}: {} payloads", doing(), spec.payloads.len()));
    }
    let options = create::Options {
        level: verb.level,
        ..create::Options::default()
    };
    let mut report = |event: CreateEvent<'_>| tell(&event);
    let manifest = create(&spec, &key, &verb.output, &options, &mut report).or_failed(doing)?;
    if global.json {
        return print_json(&manifest);
    }
    print(&format!(
        "{} holds release {}",
        verb.output.display(),
        manifest.release
    ))
}

fn tell(event: &CreateEvent<'_>) {
    match event {
        CreateEvent::Scanned {
            domain,
            entries,
            bytes,
        } => {
            eprintln!("{domain}: {entries} entries, {} MiB", bytes >> 20);
        }
        CreateEvent::Packing { .. } => {}
        CreateEvent::Packed {
            domain,
            packed_bytes,
            unpacked_bytes,
        } => eprintln!(
            "{domain}: {} MiB packed into {} MiB",
            unpacked_bytes >> 20,
            packed_bytes >> 20
        ),
        CreateEvent::Skipped { path, reason } => {
            eprintln!("skipped {}: {reason}", path.display());
        }
    }
}

fn input(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(path).map_err(|error| {
        Error::refused(error).doing(format!("opening the bundle {}", path.display()))
    })?;
    Ok(Box::new(file))
}

fn look(verb: &Inspect, global: &Global) -> Result<()> {
    let doing = || format!("looking into {}", verb.bundle.display());
    let input = input(&verb.bundle)?;
    let bundle = match &verb.trust {
        Some(trust) => flash::open_bundle(input, trust, 0).doing(doing)?,
        None => {
            Bundle::open_unverified(input).map_err(|error| Error::refused(error).doing(doing()))?
        }
    };
    if verb.manifest {
        let text = String::from_utf8_lossy(bundle.manifest_bytes());
        return print(text.trim_end());
    }
    let summary = Summary::new(bundle.manifest(), bundle.manifest_bytes(), bundle.signers());
    if global.json {
        print_json(&summary)
    } else {
        print(summary.to_string().trim_end())
    }
}

fn check(verb: &Verify, global: &Global) -> Result<()> {
    let doing = || format!("checking {}", verb.bundle.display());
    let mut bundle = flash::open_bundle(input(&verb.bundle)?, &verb.trust, 0).doing(doing)?;
    let verified =
        verify(&mut bundle, &mut |_| {}).map_err(|error| Error::refused(error).doing(doing()))?;
    if global.json {
        let summary = Summary::new(bundle.manifest(), bundle.manifest_bytes(), bundle.signers());
        return print_json(&summary);
    }
    for payload in &verified {
        print(&format!(
            "{}: {} entries, {} frames",
            payload.domain, payload.entries, payload.frames
        ))?;
    }
    print(&format!("release {} is whole", bundle.manifest().release))
}

fn sign(verb: &Sign) -> Result<()> {
    let doing = || format!("signing {}", verb.bundle.display());
    let present = if verb.replace {
        Present::Replace
    } else {
        Present::Keep
    };
    let write = |signature: &NewSignature<'_>| {
        resign(input(&verb.bundle)?, signature, present, &verb.output).or_failed(doing)
    };
    match (&verb.signature, &verb.cert, &verb.key) {
        (Some(made), _, _) => {
            let made = std::fs::read(made).or_failed(|| format!("reading {}", made.display()))?;
            write(&NewSignature::Made(&made))?;
        }
        (None, Some(cert), Some(key)) => {
            write(&NewSignature::Key(&signing_key(cert, key)?))?;
        }
        (None, _, _) => return Err(Error::usage("neither a key nor a signature is given")),
    }
    print(&format!("{} is signed", verb.output.display()))
}
