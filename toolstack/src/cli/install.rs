//! `install`: an empty disk becomes a node.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use super::{Global, print, print_json};
use crate::error::{Doing, Error, OrFailed, Result};
use crate::flash::{self, NewSlot};
use crate::install::{self, EmptyDisk, Layout};
use crate::journal::Journal;
use crate::observe;
use crate::report::SCHEMA;
use crate::slot::Slot;

/// Lay out an empty disk, or a disk image file, from a bundle.
///
/// The disk gets an EFI system partition, two slots and a state partition. The release goes into
/// slot A. Both slots' boot entries are written to the firmware of `--efivars`, or else by the
/// node itself when it first boots, through EFI/BOOT/BOOTX64.EFI.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// The disk, or the image file.
    disk: PathBuf,
    /// The bundle; `-` reads it from standard input.
    #[arg(long)]
    bundle: PathBuf,
    /// The folder of trust anchors (*.pem); the node gets them as well.
    #[arg(long, value_name = "DIR")]
    trust: PathBuf,
    /// A folder of files that are this node's own, copied over the release: keys, network,
    /// /etc/xupg/node.json.
    #[arg(long, value_name = "DIR")]
    node_files: Option<PathBuf>,
    /// Make the image file, this many MiB large.
    #[arg(long, value_name = "MIB")]
    size: Option<u64>,
    /// The EFI system partition: room for three boot images and one more while it is written.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    esp: u64,
    /// The state partition.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    state: u64,
    /// Write the boot entry to the firmware variables mounted here (/sys/firmware/efi/efivars).
    #[arg(long, value_name = "DIR")]
    efivars: Option<PathBuf>,
    /// Overwrite a disk that is not empty.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(verb: &Install, global: &Global) -> Result<()> {
    let input: Box<dyn Read + Send> = if verb.bundle.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        let doing = || format!("opening the bundle {}", verb.bundle.display());
        Box::new(File::open(&verb.bundle).map_err(|e| Error::refused(e).doing(doing()))?)
    };
    let bundle = flash::open_bundle(input, &verb.trust, 0)
        .doing(|| format!("checking the bundle {}", verb.bundle.display()))?;
    let manifest = bundle.manifest().clone();
    let release = observe::release_of(&manifest, bundle.manifest_bytes());
    let signed_at = flash::signed_at(&bundle);
    let doing = || format!("installing {} on {}", release.version, verb.disk.display());
    let mib = |n: u64| n << 20;
    let layout = Layout {
        disk_bytes: verb.size.map(mib),
        esp_bytes: mib(verb.esp),
        state_bytes: mib(verb.state),
    };
    let empty = EmptyDisk::find(&verb.disk, layout, verb.force).doing(doing)?;
    if global.dry_run {
        return print(&format!("{}: slot A, slot B empty", doing()));
    }
    let work = || -> Result<()> {
        let disk = empty.lay_out()?;
        let slot = Slot::A;
        let mountpoint = tempfile::tempdir().or_failed(|| "making a mount point".to_owned())?;
        let part = disk.partition(slot.partition_label())?;
        let staged = NewSlot {
            device: verb.disk.clone(),
            partition: part,
            mountpoint: mountpoint.path().to_owned(),
        }
        .write(bundle, &|_| {})?;
        if let Some(files) = &verb.node_files {
            install::copy_node_files(files, staged.root())?;
        }
        install::write_defaults(staged.root(), &manifest.compatible, &verb.trust)?;
        disk.install_image(slot, staged.root())?;
        if let Some(efivars) = &verb.efivars {
            disk.register(slot, staged.root(), efivars)?;
        }
        staged.finish()?;
        // The journal comes last: a disk without one is not a node.
        let journal = Journal::installed(slot, release.clone(), manifest.floor.clone(), signed_at);
        disk.make_state(&journal)
    };
    work().map_err(|error| {
        error
            .doing(doing())
            .after_changes()
            .node("the disk is not bootable")
            .hint("run `xupg install` again")
    })?;
    if global.json {
        return print_json(&serde_json::json!({
            "schema": SCHEMA, "disk": verb.disk, "release": release, "slot": Slot::A,
        }));
    }
    print(&format!(
        "{} holds {} in slot A",
        verb.disk.display(),
        release.version
    ))
}
