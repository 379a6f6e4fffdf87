//! Small bundles that a node must refuse, or that must not boot.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::bundles::Factory;
use crate::cache::{Key, get_or_make};
use crate::command::run;
use crate::images::release::Release;
use crate::keys::Signer;
use crate::product::COMPATIBLE;

/// A release of next to nothing: dom0's boot image and release file, and a `web` as small.
#[derive(Debug, Clone)]
pub(super) struct Small {
    /// Names its file.
    pub(super) name: &'static str,
    /// Its version.
    pub(super) version: &'static str,
    /// For which nodes.
    pub(super) compatible: &'static str,
    /// dom0's boot image comes from this release; without one it is noise.
    pub(super) boot: Option<Release>,
    /// Bytes of `web`'s image.
    pub(super) web_bytes: u64,
    /// Seconds that `web` gets to shut down; its policy is `fail`.
    pub(super) shutdown_s: u32,
}

impl Default for Small {
    fn default() -> Self {
        Self {
            name: "small",
            version: "2.0",
            compatible: COMPATIBLE,
            boot: None,
            web_bytes: 4 << 20,
            shutdown_s: 20,
        }
    }
}

/// Bytes of noise in the place of a boot image: several frames.
const NOISE: usize = 9 << 20;

impl Small {
    /// The bundle.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn bundle(&self, factory: &Factory, signer: &Signer) -> Result<PathBuf> {
        let mut key = Key::new()
            .with("small bundle 1")
            .with(format!("{self:?}"))
            .with_path(&signer.cert)?
            .with_path(&factory.product.xupg)?;
        let boot = match &self.boot {
            None => None,
            Some(release) => {
                let trees = release.trees(&factory.parts)?;
                key = key.with(trees.as_os_str().as_encoded_bytes());
                Some(trees.join("dom0/usr/lib/xupg/boot/xen.efi"))
            }
        };
        let file = format!("{}.xupg", self.name);
        let folder = get_or_make(&format!("bundle-{}", self.name), key, |dir| {
            for domain in ["dom0", "web"] {
                let place = dir.join(domain).join("usr/lib/xupg");
                fs::create_dir_all(place.join("boot"))?;
                fs::write(place.join("release"), format!("{}\n", self.version))?;
            }
            let image = dir.join("dom0/usr/lib/xupg/boot/xen.efi");
            match &boot {
                Some(boot) => drop(fs::copy(boot, image)?),
                None => fs::write(image, noise(NOISE))?,
            }
            let spec = json!({
                "schema": 1, "release": self.version, "compatible": self.compatible,
                "floor": "0.1",
                "payloads": [
                    { "domain": "dom0", "source": "dom0" },
                    { "domain": "web", "source": "web", "image": { "bytes": self.web_bytes },
                      "domu": { "config": "/etc/xen/web.cfg", "order": 10, "mandatory": true,
                                "quiesce_s": 20, "shutdown_s": self.shutdown_s,
                                "on_timeout": "fail", "health_s": 120 } },
                ],
            });
            fs::write(dir.join("spec.json"), spec.to_string())?;
            run(factory
                .product
                .command()
                .args(["bundle", "create", "--level", "1"])
                .arg(dir.join("spec.json"))
                .arg("--cert")
                .arg(&signer.cert)
                .arg("--key")
                .arg(&signer.key)
                .arg("--output")
                .arg(dir.join(&file)))?;
            Ok(())
        })?;
        Ok(folder.join(file))
    }
}

/// Bytes that no compressor makes smaller; the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

/// Where a bundle is to be hurt.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hurt {
    /// One bit in the middle of a member.
    Middle(&'static str),
    /// One bit near the start of a member.
    Start(&'static str),
    /// One bit near the end of a member.
    End(&'static str),
    /// The file ends in the middle of a member.
    CutIn(&'static str),
}

/// A hurt copy of `bundle`, called `to`.
///
/// # Errors
/// When it is not a bundle.
pub(super) fn hurt(bundle: &Path, hurt: Hurt, to: &Path) -> Result<()> {
    let mut bytes = fs::read(bundle).with_context(|| format!("reading {}", bundle.display()))?;
    let flip = match hurt {
        Hurt::Middle(name) => middle(&member(&bytes, name)?),
        Hurt::Start(name) => member(&bytes, name)?.start + 40,
        Hurt::End(name) => member(&bytes, name)?.end - 40,
        Hurt::CutIn(name) => {
            let at = middle(&member(&bytes, name)?);
            bytes.truncate(at);
            at - 1
        }
    };
    if !matches!(hurt, Hurt::CutIn(_)) {
        let byte = bytes.get_mut(flip).context("the member is too short")?;
        *byte ^= 1;
    }
    fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
}

fn middle(range: &Range<usize>) -> usize {
    usize::midpoint(range.start, range.end)
}

/// Where a member's bytes lie in a tar of plain files.
fn member(tar: &[u8], name: &str) -> Result<Range<usize>> {
    let mut at = 0;
    while let Some(header) = tar.get(at..at + 512) {
        let text = |field: &[u8]| {
            let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).unwrap_or(0);
        let start = at + 512;
        if text(&header[..100]) == name {
            return Ok(start..start + size);
        }
        at = start + size.next_multiple_of(512);
    }
    bail!("the bundle has no {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_its_name() {
        let mut tar = Vec::new();
        for (name, body) in [("manifest.json", "{}"), ("dom0.tar.zst", "payload")] {
            let mut header = [0_u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..136].copy_from_slice(format!("{:011o}\0", body.len()).as_bytes());
            tar.extend_from_slice(&header);
            tar.extend_from_slice(body.as_bytes());
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        let range = member(&tar, "dom0.tar.zst").unwrap();
        assert_eq!(&tar[range], b"payload");
        assert!(member(&tar, "web.tar.zst").is_err());
    }
}
