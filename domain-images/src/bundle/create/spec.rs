//! What to build: the JSON file that describes a release.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::CreateError;
use crate::manifest::{Allow, DomU, Image, Mode};

/// A release to be built. In JSON:
///
/// ```json
/// {"schema": 1, "release": "2.0", "compatible": "acme-node", "floor": "1.0",
///  "payloads": [
///   {"domain": "dom0", "source": "dom0-root", "allow": {"setuid": true},
///    "preserve": ["/etc/ssh/ssh_host_*", "/etc/xupg"]},
///   {"domain": "web", "source": "web.tar.zst", "image": {"bytes": 67108864}},
///   {"domain": "db", "source": "db-changes", "mode": "overlay", "image": {"bytes": 1073741824},
///    "domu": {"config": "/etc/xen/db.cfg", "order": 10, "mandatory": false}}]}
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleSpec {
    /// 1.
    pub schema: u32,
    /// See [`crate::manifest::Manifest::release`].
    pub release: String,
    /// See [`crate::manifest::Manifest::compatible`].
    pub compatible: String,
    /// See [`crate::manifest::Manifest::floor`].
    pub floor: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Times later than this (seconds since 1970) become this. Without it times stay.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// The payloads, in the order of the bundle: dom0 first, overlay last.
    pub payloads: Vec<PayloadSpec>,
}

/// One payload to be built.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadSpec {
    /// `dom0`, or the domU's name in xl.
    pub domain: String,
    /// A directory, or a tarball: `.tar`, `.tar.zst`. Relative to the spec's folder.
    pub source: PathBuf,
    /// `replace` if not said.
    #[serde(default = "replace")]
    pub mode: Mode,
    /// The image; a domU needs one.
    #[serde(default)]
    pub image: Option<ImageSpec>,
    /// What it may hold besides files, directories and links.
    #[serde(default)]
    pub allow: Allow,
    /// dom0's files that stay on the node.
    #[serde(default)]
    pub preserve: Vec<String>,
    /// How the domU is run; with defaults if not said.
    #[serde(default)]
    pub domu: Option<DomU>,
    /// Whose the files are; as found if not said.
    #[serde(default)]
    pub owners: Owners,
    /// Owners, modes and devices of single entries, see [`super::table`]. Relative to the spec's
    /// folder.
    #[serde(default)]
    pub table: Option<PathBuf>,
}

/// A domU's image to be made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// By default `/var/lib/xupg/images/<domain>.img`.
    #[serde(default)]
    pub path: Option<String>,
    /// Bytes, a multiple of 4096.
    pub bytes: u64,
}

/// Whose the entries are, before the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owners {
    /// As found. For root, and under fakeroot.
    #[default]
    Keep,
    /// Everything is root's. For builders that are not root.
    Root,
}

fn replace() -> Mode {
    Mode::Replace
}

impl BundleSpec {
    /// Reads a spec; its relative paths become relative to its folder.
    ///
    /// # Errors
    /// [`CreateError::Io`], [`CreateError::Spec`].
    pub fn load(path: &Path) -> Result<Self, CreateError> {
        let text = std::fs::read(path).map_err(|error| CreateError::io("read", path, error))?;
        let mut spec: Self =
            serde_json::from_slice(&text).map_err(|error| CreateError::Spec(error.to_string()))?;
        if spec.schema != 1 {
            return Err(CreateError::Spec(format!("unknown schema {}", spec.schema)));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for payload in &mut spec.payloads {
            payload.source = folder.join(&payload.source);
            payload.table = payload.table.take().map(|table| folder.join(table));
        }
        Ok(spec)
    }
}

impl PayloadSpec {
    pub(super) fn image(&self) -> Option<Image> {
        self.image.as_ref().map(|image| Image {
            path: image
                .path
                .clone()
                .unwrap_or_else(|| format!("/var/lib/xupg/images/{}.img", self.domain)),
            bytes: image.bytes,
        })
    }

    pub(super) fn domu(&self) -> Option<DomU> {
        let needed = self.domain != "dom0";
        self.domu
            .clone()
            .or_else(|| needed.then(|| DomU::for_domain(&self.domain)))
    }
}
