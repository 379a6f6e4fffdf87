//! What can be known before the first byte is written: whether the release fits.

use std::fs;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileTypeExt as _;

use super::error::Problem;
use super::{StageTarget, under};
use crate::image::{FileKind, ImageError, open_regular};
use crate::manifest::{Image, Manifest, Mode, Payload};

/// Bytes that ext4 itself needs in a file system of `bytes` for `entries` inodes, and some to spare.
fn overhead(bytes: u64, entries: u64) -> u64 {
    // Inodes of 256 bytes, a journal of at most 1 GiB, bitmaps and descriptors.
    entries.saturating_mul(256) + (bytes / 64).min(1 << 30) + (1 << 20)
}

/// What is known about the slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Bytes of the slot, a multiple of 4096.
    pub(super) slot_bytes: u64,
    /// Whether it is a block device.
    pub(super) is_device: bool,
}

/// Checks that slot and images are there and large enough.
pub(super) fn check(manifest: &Manifest, target: &StageTarget) -> Result<Plan, Problem> {
    let plan = measure_slot(target)?;
    let slot = format!("the slot {}", target.slot.display());
    let mut needed = overhead(plan.slot_bytes, 0);
    for payload in &manifest.payloads {
        needed = needed.saturating_add(match &payload.image {
            None => fill(payload),
            Some(image) => domain_image(payload, image, target)?,
        });
    }
    fits(slot, needed, plan.slot_bytes)?;
    Ok(plan)
}

/// Bytes of a payload's content, in whole blocks.
fn fill(payload: &Payload) -> u64 {
    // Half a block is lost at the end of a file, on average.
    let tails = payload.entries.saturating_mul(2048 + 256);
    payload.data_bytes.saturating_add(tails)
}

/// Checks a domU's payload against its image; returns the bytes the image takes in the slot.
fn domain_image(payload: &Payload, image: &Image, target: &StageTarget) -> Result<u64, Problem> {
    if payload.mode == Mode::Replace {
        let what = format!("the image of `{}`", payload.domain);
        let needed = payload.data_bytes + overhead(image.bytes, payload.entries);
        fits(what, needed, image.bytes)?;
        return Ok(image.bytes);
    }
    let path = under(&target.active_root, &image.path);
    let active = open_regular(&path, FileKind::Read).map_err(Problem::image(&payload.domain))?;
    let bytes = active
        .metadata()
        .map_err(ImageError::io("look at", &path))
        .map_err(Problem::image(&payload.domain))?
        .len();
    Ok(image.bytes.max(bytes))
}

fn fits(what: String, needed: u64, available: u64) -> Result<(), Problem> {
    if needed > available {
        return Err(Problem::TooLarge {
            what,
            needed,
            available,
        });
    }
    Ok(())
}

fn measure_slot(target: &StageTarget) -> Result<Plan, Problem> {
    let doing = || format!("look at the slot {}", target.slot.display());
    let kind = fs::metadata(&target.slot)
        .map_err(Problem::io(doing()))?
        .file_type();
    if !kind.is_block_device() && !kind.is_file() {
        return Err(Problem::Image {
            domain: "dom0".to_owned(),
            source: ImageError::Unusable {
                path: target.slot.clone(),
                reason: "the slot is neither a block device nor a file",
            },
        });
    }
    let end = fs::File::open(&target.slot)
        .and_then(|mut file| file.seek(SeekFrom::End(0)))
        .map_err(Problem::io(doing()))?;
    let bytes = target.region.map_or(end, |region| region.bytes);
    Ok(Plan {
        slot_bytes: bytes / 4096 * 4096,
        is_device: kind.is_block_device() && target.region.is_none(),
    })
}
