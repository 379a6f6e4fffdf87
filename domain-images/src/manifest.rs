//! The manifest: what a release holds, in numbers and digests. Once its signature is checked, it
//! is the only thing about a bundle that is believed.

mod bounded;
mod check;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use check::{Invalid, limits};

/// The schema this program writes and the only one it reads.
pub const SCHEMA: u32 = 1;

/// One release: the value of `manifest.json`, the first member of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The release's version, for example `4.3.1`; ordered by [`crate::version::compare`].
    pub release: String,
    /// The string that node and bundle must share.
    pub compatible: String,
    /// Once this release is confirmed, the node refuses any release older than this.
    pub floor: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// The payloads in the order of the bundle's members: `dom0` first, `overlay` payloads last.
    pub payloads: Vec<Payload>,
}

impl Manifest {
    /// Reads and checks a manifest. Nothing may be believed before its signature is verified.
    ///
    /// # Errors
    /// [`Invalid`] when the bytes are not a manifest of this schema or contradict themselves.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }
}

impl Payload {
    /// The name of the payload's member in the bundle.
    #[must_use]
    pub fn member(&self) -> String {
        format!("{}.tar.zst", self.domain)
    }
}

/// One domain's part of a release: the member `<domain>.tar.zst`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// `dom0`, or the domU's name in xl.
    pub domain: String,
    /// How the file system comes about.
    pub mode: Mode,
    /// Where the domU's image lies in the slot's root. Absent for `dom0`, whose root is the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Bytes of the payload's member in the bundle: the sum of the frames' `packed`.
    pub packed_bytes: u64,
    /// Bytes of the tar stream: the sum of the frames' `unpacked`.
    pub unpacked_bytes: u64,
    /// Bytes of file content that reach the file system (holes not counted).
    pub data_bytes: u64,
    /// Entries of the tar stream, which is the number of inodes needed at most.
    pub entries: u64,
    /// What the unpacker may create besides files, directories and links.
    #[serde(default)]
    pub allow: Allow,
    /// The zstd frames, in order. Each can be decoded, and its entries created, by itself.
    pub frames: Vec<Frame>,
    /// The signed list of every entry, against which the written tree is read back.
    pub file_list: FileList,
    /// dom0 only: glob patterns of the node's own files, carried from active to standby.
    #[serde(
        default,
        deserialize_with = "bounded::patterns",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub preserve: Vec<String>,
    /// domUs only: how it is stopped, started and judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domu: Option<DomU>,
}

/// How a payload becomes a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A fresh file system, then the payload. Nothing that a guest has written is ever mounted.
    Replace,
    /// A copy of the active slot's image, then the payload on top, with deletions by whiteouts.
    Overlay,
}

/// A domU's image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Absolute path in the slot's root, by default `/var/lib/xupg/images/<domain>.img`.
    pub path: String,
    /// Size of the image file in bytes, a multiple of 4096.
    pub bytes: u64,
}

/// Kinds of entries a vendor has to allow for a payload by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// Block and character devices.
    pub devices: bool,
    /// Named pipes.
    pub fifos: bool,
    /// Files with privilege of their own: the set-user-id or set-group-id bit, or file capabilities
    /// (`security.capability`).
    pub setuid: bool,
}

/// One independent zstd frame of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// Bytes in the bundle.
    pub packed: u32,
    /// Bytes once decoded; 0 for a skippable frame.
    pub unpacked: u32,
    /// SHA-256 of the packed bytes.
    pub sha256: Digest,
    /// What the frame holds, and so which frames must be done before it.
    #[serde(default, skip_serializing_if = "Part::is_files")]
    pub part: Part,
    /// Where the frame begins: absent at a tar header (or the end of the stream), else inside the
    /// stored data of the last file begun in an earlier frame, at this byte of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<u64>,
}

/// What a frame holds. The parts of a payload follow each other in this order, each begins with a
/// frame of its own, and whoever unpacks frames in parallel finishes a part before the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A skippable frame with a piece of the compressed file list; no part of the tar stream.
    List,
    /// Directories only, parents before children.
    Directories,
    /// Files, symbolic links, devices and fifos; their directories are all in the part before.
    #[default]
    Files,
    /// Hard links only; what they name is all in the part before.
    Links,
}

impl Part {
    // serde hands out a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_files(&self) -> bool {
        *self == Part::Files
    }
}

/// The signed list of a payload's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileList {
    /// SHA-256 of the list in its canonical form (see [`crate::filelist`]).
    pub sha256: Digest,
    /// Bytes of the list in its canonical form.
    pub bytes: u64,
}

/// How a domU is stopped, started and judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomU {
    /// The xl configuration in dom0, by default `/etc/xen/<domain>.cfg`.
    pub config: String,
    /// domUs start in ascending and stop in descending order; equal numbers by name.
    #[serde(default = "default_order")]
    pub order: u32,
    /// A trial is confirmed only when every mandatory domU has reported good.
    #[serde(default = "default_true")]
    pub mandatory: bool,
    /// Seconds it gets to finish its quiesce hook.
    #[serde(default = "default_quiesce_s")]
    pub quiesce_s: u32,
    /// Seconds it gets to shut down.
    #[serde(default = "default_shutdown_s")]
    pub shutdown_s: u32,
    /// What happens when it has not shut down by then.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// Seconds from its start in which it must report good in a trial.
    #[serde(default = "default_health_s")]
    pub health_s: u32,
}

/// The policy for a domU that ignores shutdown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// Give the upgrade up and start the domUs again.
    #[default]
    Fail,
    /// Destroy it and go on.
    Destroy,
}

impl DomU {
    /// The settings of a domU about which nothing is said.
    #[must_use]
    pub fn for_domain(domain: &str) -> Self {
        Self {
            config: format!("/etc/xen/{domain}.cfg"),
            order: default_order(),
            mandatory: default_true(),
            quiesce_s: default_quiesce_s(),
            shutdown_s: default_shutdown_s(),
            on_timeout: OnTimeout::default(),
            health_s: default_health_s(),
        }
    }
}

fn default_order() -> u32 {
    50
}
fn default_true() -> bool {
    true
}
fn default_quiesce_s() -> u32 {
    30
}
fn default_shutdown_s() -> u32 {
    120
}
fn default_health_s() -> u32 {
    300
}

/// A SHA-256 digest, 64 lower-case hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse_digest(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256> for Digest {
    fn from(state: Sha256) -> Self {
        Self(state.finalize().into())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        parse_digest(text)
            .ok_or_else(|| serde::de::Error::custom("not a SHA-256 in lower-case hex"))
    }
}

fn parse_digest(text: &str) -> Option<Digest> {
    let digits = text.as_bytes();
    if digits.len() != 64
        || digits
            .iter()
            .any(|d| !matches!(d, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(Digest(digest))
}
