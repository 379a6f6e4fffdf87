//! The node as a place: where its files are, its configuration, its lock and its partitions.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use crate::error::{Error, Kind, OrFailed, Result};
use crate::slot::Slot;

/// A node whose root directory is `root`: `/` for the one that runs, a folder in tests.
#[derive(Debug, Clone)]
pub struct Node {
    root: PathBuf,
}

/// `/etc/xupg/node.json`: what kind of node this is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Always 1.
    pub schema: u32,
    /// The string that node and bundle must share.
    pub compatible: String,
    /// The disk, where its partitions have no nodes under `/dev/disk/by-partlabel`; relative to
    /// the node's root.
    #[serde(default)]
    pub disk: Option<PathBuf>,
}

impl Node {
    /// The node whose root is `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// An absolute path of the node.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Whether this is the running system rather than a folder.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The mounted state partition.
    pub fn state_directory(&self) -> PathBuf {
        self.path("/var/lib/xupg/state")
    }

    /// The mounted EFI system partition.
    pub fn esp(&self) -> PathBuf {
        self.path("/boot/efi")
    }

    /// The trust anchors.
    pub fn trust(&self) -> PathBuf {
        self.path("/etc/xupg/trust")
    }

    /// Where the standby slot is mounted while it is written.
    pub fn standby_mountpoint(&self) -> PathBuf {
        self.path("/run/xupg/standby")
    }

    /// Reads `/etc/xupg/node.json`.
    ///
    /// # Errors
    /// [`Kind::Refused`] where it is missing or not understood.
    pub fn config(&self) -> Result<NodeConfig> {
        let path = self.path("/etc/xupg/node.json");
        let refused = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::refused(error).doing(format!(
                "reading the node's configuration {}",
                path.display()
            ))
        };
        let bytes = fs::read(&path).map_err(|error| refused(error.into()))?;
        let config: NodeConfig =
            serde_json::from_slice(&bytes).map_err(|error| refused(error.into()))?;
        if config.schema != 1 {
            return Err(refused(
                format!("it has schema {}, not 1", config.schema).into(),
            ));
        }
        Ok(config)
    }

    /// The slot that is live: the one whose partition is mounted at `/`. The kernel command line
    /// (`xupg.slot=`) says which one the firmware chose, and an initramfs that finds another
    /// release there than its own may have taken the other; so it counts only for a folder that
    /// stands for a node.
    ///
    /// # Errors
    /// [`Kind::Refused`] where the root is no slot.
    pub fn booted(&self) -> Result<Slot> {
        if self.is_live() {
            return self.mounted_slot();
        }
        let path = self.path("/proc/cmdline");
        let line = fs::read_to_string(&path)
            .or_failed(|| format!("reading the kernel command line {}", path.display()))?;
        line.split_ascii_whitespace()
            .rev()
            .find_map(|word| word.strip_prefix("xupg.slot="))
            .and_then(|letter| letter.parse().ok())
            .ok_or_else(|| {
                Error::refused("the kernel command line has no `xupg.slot=a` or `xupg.slot=b`")
            })
    }

    fn mounted_slot(&self) -> Result<Slot> {
        let doing = || "looking for the partition that is mounted at /".to_owned();
        let device = fs::metadata("/").or_failed(doing)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let uevent = format!("/sys/dev/block/{major}:{minor}/uevent");
        let facts = fs::read_to_string(&uevent).unwrap_or_default();
        let label = facts
            .lines()
            .find_map(|line| line.strip_prefix("PARTNAME="));
        Slot::ALL
            .into_iter()
            .find(|slot| label == Some(slot.partition_label()))
            .ok_or_else(|| {
                Error::refused("it is neither `xupg-a` nor `xupg-b`")
                    .doing(doing())
                    .hint("is this dom0 booted from a slot?")
            })
    }

    /// Takes the node's lock, or fails with [`Kind::Busy`].
    ///
    /// # Errors
    /// Where another xupg holds it, or it cannot be made.
    pub fn lock(&self) -> Result<NodeLock> {
        let path = self.path("/run/xupg.lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .or_failed(|| format!("opening the lock {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(NodeLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::new(Kind::Busy, "another xupg is changing this node")
                    .hint("`xupg watch` shows what it is doing"))
            }
            Err(error) => Err(Error::failed(error).doing(format!("locking {}", path.display()))),
        }
    }

    /// Where `slot` lies on the flash.
    ///
    /// # Errors
    /// Where the node has no such partition.
    pub fn slot_region(&self, slot: Slot, config: &NodeConfig) -> Result<Region> {
        let label = slot.partition_label();
        let device = self.path("/dev/disk/by-partlabel").join(label);
        match fs::metadata(&device) {
            Ok(_) => {
                return Ok(Region {
                    device,
                    offset: 0,
                    bytes: None,
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::failed(error).doing(format!("looking for partition {label}")));
            }
        }
        let Some(disk) = &config.disk else {
            return Err(
                Error::refused(format!("there is no partition labelled `{label}`"))
                    .hint("is this a node laid out by `xupg install`?"),
            );
        };
        let disk = self.path(&disk.to_string_lossy());
        let partition = crate::disk::find(&disk, label)?;
        Ok(Region {
            device: disk,
            offset: partition.offset,
            bytes: Some(partition.bytes),
        })
    }
}

/// Where a file system lies: a device, or a part of a device or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The device or file.
    pub device: PathBuf,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes; to the end where absent.
    pub bytes: Option<u64>,
}

/// The proof that no other xupg changes this node. Held by whoever changes anything.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}
