//! What the tools get to stage: the same trees, packed at the same level, each in the tool's own format.

use super::{Case, disk, rauc, roots};
use crate::cache::{Key, get_or_make};
use crate::command::{command, run};
use crate::keys::Keys;
use crate::paths;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What `xupg bundle create` does when nobody asks for another.
const LEVEL: u32 = 9;

/// Bytes of a domU's image.
pub(super) const IMAGE: u64 = 512 << 20;

/// Makes material.
pub(super) struct Builder {
    pub(super) keys: Keys,
    /// `domain-images/examples/bench.rs`, built.
    pub(super) program: PathBuf,
    /// The directory with the one anchor that nodes trust.
    pub(super) trust: PathBuf,
    /// For slots and everything that changes.
    pub(super) folder: PathBuf,
}

/// One case, in every format.
pub(super) struct Material {
    pub(super) case: Case,
    /// For xupg.
    pub(super) bundle: PathBuf,
    /// For RAUC.
    pub(super) raucb: PathBuf,
    /// For `tar`: domain and tarball.
    pub(super) tarballs: Vec<(&'static str, PathBuf)>,
    /// For the floor: the bundle's payloads cut between frames into parts that unpack to the same number of bytes, one for each core.
    pub(super) parts: Vec<PathBuf>,
    /// Bytes of the tar streams, all domains.
    pub(super) unpacked_bytes: u64,
    /// Entries, all domains.
    pub(super) entries: u64,
}

impl Builder {
    /// Builds the program.
    ///
    /// # Errors
    /// When cargo fails.
    pub(super) fn new(keys: &Keys) -> Result<Self> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut build = command(&cargo, ["build", "--quiet", "--release"]);
        build.args(["-p", "xupg-images", "--example", "bench"]);
        run(build.current_dir(paths::repo()))?;
        let folder = paths::lab().join("bench");
        let trust = folder.join("trust");
        fs::create_dir_all(&trust).with_context(|| format!("making {}", trust.display()))?;
        fs::copy(keys.release_ca(), trust.join("release-ca.pem")).context("copying the anchor")?;
        Ok(Self {
            keys: keys.clone(),
            program: paths::target()?.join("release/examples/bench"),
            trust,
            folder,
        })
    }

    /// The material of a case, made or found.
    ///
    /// # Errors
    /// When a tool fails or the disk is full.
    pub(super) fn material(&self, case: Case) -> Result<Material> {
        let domains: Vec<&'static str> = match case {
            Case::One => roots::domains().take(1).collect(),
            Case::Node => roots::domains().collect(),
        };
        let tarballs = domains
            .iter()
            .map(|domain| Ok((*domain, tarball(domain)?)))
            .collect::<Result<Vec<_>>>()?;
        let bundle = self.bundle(case, &domains)?;
        let manifest = run(command("tar", ["-xOf"]).arg(&bundle).arg("manifest.json"))?;
        let manifest: Value = serde_json::from_slice(&manifest)?;
        let sum = |key: &str| -> u64 {
            let payloads = manifest["payloads"].as_array();
            let numbers = payloads.into_iter().flatten().map(|payload| &payload[key]);
            numbers.filter_map(Value::as_u64).sum()
        };
        Ok(Material {
            case,
            raucb: rauc::bundle(&self.keys, case, &tarballs)?,
            parts: parts(case, &bundle, &manifest, sum("unpacked_bytes"))?,
            bundle,
            tarballs,
            unpacked_bytes: sum("unpacked_bytes"),
            entries: sum("entries"),
        })
    }

    fn bundle(&self, case: Case, domains: &[&str]) -> Result<PathBuf> {
        let allow = json!({ "setuid": true, "devices": true, "fifos": true });
        let payloads = domains
            .iter()
            .map(|domain| {
                let mut payload =
                    json!({ "domain": domain, "source": roots::root(domain)?, "allow": allow });
                if *domain != "dom0" {
                    payload["image"] = json!({ "bytes": IMAGE });
                }
                Ok(payload)
            })
            .collect::<Result<Vec<_>>>()?;
        let spec = json!({
            "schema": 1, "release": "1.0", "compatible": "xupg-bench", "floor": "1.0",
            "payloads": payloads,
        })
        .to_string();
        let signer = self.keys.release_signer();
        let key = Key::new()
            .with("bench bundle 1")
            .with(&spec)
            .with_path(&signer.cert)?
            .with_path(&paths::repo().join("domain-images/src/bundle"))?
            .with_path(&paths::repo().join("domain-images/src/filelist"))?
            .with_path(&paths::repo().join("domain-images/src/manifest.rs"))?;
        let dir = get_or_make(&format!("bench-{}-xupg", case.name()), key, |dir| {
            fs::write(dir.join("spec.json"), &spec)?;
            let mut create = command(&self.program.to_string_lossy(), ["create"]);
            create.arg(dir.join("spec.json")).arg(&signer.cert);
            run(create.arg(&signer.key).arg(dir.join("release.xupg")))?;
            Ok(())
        })?;
        Ok(dir.join("release.xupg"))
    }
}

/// A domain's root as one zstd frame, as everybody makes it.
fn tarball(domain: &str) -> Result<PathBuf> {
    let root = roots::root(domain)?;
    let key = Key::new()
        .with("bench tarball 1")
        .with(LEVEL.to_le_bytes())
        .with(root.as_os_str().as_encoded_bytes());
    let name = format!("{domain}.tar.zst");
    let dir = get_or_make(&format!("bench-tar-{domain}"), key, |dir| {
        let mut tar = command("tar", ["--sort=name", "--numeric-owner", "--acls"]);
        tar.args(["--xattrs", "--xattrs-include=*", "-I"]);
        tar.arg(format!("zstd -{LEVEL} -T0"));
        tar.arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(dir.join(&name))
            .arg(".");
        run(&mut tar)?;
        Ok(())
    })?;
    Ok(dir.join(name))
}

/// Cuts all payloads, one after the other, into as many parts as there are cores.
fn parts(case: Case, bundle: &Path, manifest: &Value, unpacked: u64) -> Result<Vec<PathBuf>> {
    let cores = std::thread::available_parallelism()?.get() as u64;
    let name = |part: u64| format!("part-{part}.zst");
    let key = Key::new()
        .with("bench parts 1")
        .with(cores.to_le_bytes())
        .with(bundle.as_os_str().as_encoded_bytes());
    let dir = get_or_make(&format!("bench-{}-parts", case.name()), key, |dir| {
        let mut outputs = (0..cores)
            .map(|part| File::create(dir.join(name(part))))
            .collect::<io::Result<Vec<_>>>()?;
        let mut done = 0;
        for payload in manifest["payloads"].as_array().into_iter().flatten() {
            let member = format!("{}.tar.zst", payload["domain"].as_str().unwrap_or_default());
            let extracted = dir.join("payload");
            let mut tar = command("tar", ["-xf"]);
            tar.arg(bundle).arg("-C").arg(dir).arg(&member);
            run(&mut tar)?;
            fs::rename(dir.join(&member), &extracted)?;
            let mut payload_file = File::open(&extracted)?;
            for frame in payload["frames"].as_array().into_iter().flatten() {
                let number = |key: &str| frame[key].as_u64().context("a frame without sizes");
                // Whoever has unpacked the least so far is the next part's.
                let part = (done * cores / unpacked.max(1)).min(cores - 1);
                let mut packed = (&mut payload_file).take(number("packed")?);
                let index = usize::try_from(part)?;
                io::copy(&mut packed, &mut outputs[index])?;
                done += number("unpacked")?;
            }
            fs::remove_file(extracted)?;
        }
        Ok(())
    })?;
    Ok((0..cores).map(|part| dir.join(name(part))).collect())
}

impl Material {
    /// What a tool reads, so that it is in the page cache when the clock starts.
    pub(super) fn tarball_paths(&self) -> Vec<PathBuf> {
        self.tarballs.iter().map(|(_, path)| path.clone()).collect()
    }

    /// A slot of `tool`.
    ///
    /// # Errors
    /// As [`disk::slot`].
    pub(super) fn slot(&self, builder: &Builder, tool: &str) -> Result<PathBuf> {
        disk::slot(&builder.folder, &format!("{tool}.slot"))
    }
}
