//! What people do by hand: `mount -o loop; tar --zstd -x; sync; umount`.

use super::material::{IMAGE, Material};
use super::tools::{Tool, programs};
use super::watch::{self, Taken};
use crate::command::command;
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;

/// `$1` slot, `$2` and `$3` mount points, `$4` bytes of an image; then domains and their tarballs, dom0 first.
/// `nodiscard` spares the slot's blocks, which would have to be allocated anew.
const SCRIPT: &str = r#"
set -eu
slot=$1 root=$2 domu=$3 bytes=$4
shift 4
trap 'umount "$domu" 2>/dev/null || :; umount "$root" 2>/dev/null || :' EXIT
unpack() {
    mke2fs -q -F -t ext4 -E nodiscard "$1"
    mount -o loop "$1" "$2"
    tar --zstd -x --xattrs --xattrs-include='*' --acls --numeric-owner -f "$3" -C "$2"
}
unpack "$slot" "$root" "$2"
shift 2
while [ $# -gt 0 ]; do
    image=$root/var/lib/xupg/images/$1.img
    mkdir -p "${image%/*}"
    truncate -s "$bytes" "$image"
    unpack "$image" "$domu" "$2"
    sync
    umount "$domu"
    shift 2
done
sync
umount "$root"
trap - EXIT
"#;

/// The recipe on one case.
pub(super) struct Recipe {
    slot: PathBuf,
    arguments: Vec<OsString>,
    reads: Vec<PathBuf>,
}

impl Recipe {
    /// With `folder` to mount in.
    ///
    /// # Errors
    /// When the mount points cannot be made.
    pub(super) fn new(material: &Material, slot: PathBuf, folder: PathBuf) -> Result<Self> {
        let mut arguments = vec![OsString::from("-c"), SCRIPT.into(), "recipe".into()];
        arguments.push(slot.clone().into());
        for name in ["root", "domu"] {
            std::fs::create_dir_all(folder.join(name))?;
            arguments.push(folder.join(name).into());
        }
        arguments.push(IMAGE.to_string().into());
        for (domain, path) in &material.tarballs {
            arguments.extend([OsString::from(*domain), path.clone().into()]);
        }
        let mut reads = material.tarball_paths();
        reads.extend(programs(&[
            "dash", "mke2fs", "mount", "umount", "tar", "zstd",
        ]));
        Ok(Self {
            slot,
            arguments,
            reads,
        })
    }
}

impl Tool for Recipe {
    fn name(&self) -> &'static str {
        "tar"
    }

    fn reads(&self) -> Vec<PathBuf> {
        self.reads.clone()
    }

    fn run(&mut self) -> Result<Taken> {
        watch::run(&mut command("sh", &self.arguments), &[])
    }

    fn slots(&self) -> Vec<PathBuf> {
        vec![self.slot.clone()]
    }
}
