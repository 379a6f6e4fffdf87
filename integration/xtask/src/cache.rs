//! Things made once: a directory per thing, named by what it was made from.

use crate::{paths, progress};
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Collects everything a thing is made from.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// A key with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.update((value.len() as u64).to_le_bytes());
        self.0.update(value);
        self
    }

    /// Adds a file's bytes, or a directory's names and bytes. What does not exist counts as that.
    ///
    /// # Errors
    /// When something exists and cannot be read.
    pub fn with_path(self, path: &Path) -> Result<Self> {
        let mut key = self.with(path.file_name().unwrap_or_default().as_encoded_bytes());
        if path.is_dir() {
            let mut names: Vec<PathBuf> = fs::read_dir(path)
                .with_context(|| format!("cannot read {}", path.display()))?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<std::io::Result<_>>()?;
            names.sort();
            for name in names {
                key = key.with_path(&name)?;
            }
        } else if path.exists() {
            let bytes =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            key = key.with(bytes);
        }
        Ok(key)
    }

    /// The key as a directory name's end.
    pub fn finish(self) -> String {
        use std::fmt::Write;
        self.0.finalize()[..8]
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

/// The directory `<name>-<key>`, made by `make` when it is not there yet. `make` gets an empty directory; it appears under its
/// name only when complete. Older directories of that name are removed.
///
/// # Errors
/// Those of `make`, and of the file system.
pub fn get_or_make(
    name: &str,
    key: Key,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let cache = paths::cache();
    let wanted = format!("{name}-{}", key.finish());
    let dir = cache.join(&wanted);
    if dir.exists() {
        return Ok(dir);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    lock(&cache)?;
    if dir.exists() {
        return Ok(dir);
    }
    for entry in fs::read_dir(&cache)? {
        let path = entry?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        // `<name>-` followed by 16 hexadecimal digits and perhaps `.tmp`.
        let of_this_name = file_name
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.trim_end_matches(".tmp").len() == 16);
        if of_this_name {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove the old {}", path.display()))?;
        }
    }
    let unfinished = cache.join(format!("{wanted}.tmp"));
    fs::create_dir(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    progress::step(&format!("making {name}"), || make(&unfinished))
        .with_context(|| format!("making {name}"))?;
    fs::rename(&unfinished, &dir).with_context(|| format!("cannot name {}", dir.display()))?;
    Ok(dir)
}

/// Keeps other processes from making and removing things in the same cache, from the first thing that this process makes until
/// it ends.
fn lock(cache: &Path) -> Result<()> {
    static HELD: Mutex<Option<fs::File>> = Mutex::new(None);
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if held.is_none() {
        let path = cache.join("lock");
        let file =
            fs::File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            progress::say("waiting for another cargo xtask that works in the same cache");
            flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        *held = Some(file);
    }
    Ok(())
}
