//! The slots, the disk under them, and the page cache.

use super::noise::Noise;
use crate::command::{command, run};
use anyhow::{Context, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a slot.
pub(super) const SLOT: u64 = 3 << 30;

/// Bytes that go to the disk at once, past the page cache.
const STEP: usize = 4 << 20;
const BLOCK: usize = 4096;

/// `O_DIRECT` of Linux on every 64-bit PC.
fn direct() -> i32 {
    rustix::fs::OFlags::DIRECT.bits().cast_signed()
}

/// The file `name` in `folder` as a slot: allocated, and written once, since the first write to a block costs more than others.
///
/// # Errors
/// When the disk is full, or cannot do direct I/O.
pub(super) fn slot(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    if fs::metadata(&path).is_ok_and(|about| about.len() == SLOT) {
        return Ok(path);
    }
    let doing = || format!("making the slot {}", path.display());
    let unfinished = folder.join(format!("{name}.tmp"));
    File::create(&unfinished).with_context(doing)?;
    run(command("fallocate", ["--length", &SLOT.to_string()]).arg(&unfinished))?;
    write(&unfinished, SLOT).with_context(doing)?;
    fs::rename(&unfinished, &path).with_context(doing)?;
    Ok(path)
}

/// Writes `bytes` of noise to the file, past the page cache, and flushes the disk.
///
/// # Errors
/// The kernel's.
pub(super) fn write(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(direct())
        .open(path)?;
    let noise = Noise::default().take(STEP + BLOCK);
    let aligned = noise.as_ptr().align_offset(BLOCK);
    let noise = &noise[aligned..aligned + STEP];
    let mut left = bytes.next_multiple_of(BLOCK as u64);
    while left > 0 {
        let now = usize::try_from(left).map_or(STEP, |left| left.min(STEP));
        file.write_all(&noise[..now])?;
        left -= now as u64;
    }
    file.sync_all()
}

/// The disk that holds a file.
pub(super) struct Disk(PathBuf);

impl Disk {
    /// Of `path`.
    ///
    /// # Errors
    /// When the file system lies on no single disk that counts.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let device = fs::metadata(path)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let disk = Self(PathBuf::from(format!(
            "/sys/dev/block/{major}:{minor}/stat"
        )));
        disk.written().map(|_| disk)
    }

    /// Bytes written to it since the machine is up, by everybody.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(super) fn written(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.0)
            .with_context(|| format!("{}: no disk that counts", self.0.display()))?;
        let sectors = text.split_ascii_whitespace().nth(6);
        let sectors: u64 = sectors
            .and_then(|count| count.parse().ok())
            .with_context(|| format!("{}: {text}", self.0.display()))?;
        // Always 512 bytes, whatever the disk's blocks.
        Ok(sectors * 512)
    }
}

/// Empties the page cache, then reads `files` into it.
///
/// # Errors
/// The kernel's.
pub(super) fn only_cached(files: &[PathBuf]) -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")?;
    for path in files {
        File::open(path)
            .and_then(|mut file| io::copy(&mut file, &mut io::sink()))
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(())
}
