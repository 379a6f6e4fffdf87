//! What no tool can beat here: the longer of decoding on all cores to nowhere, and writing as many bytes past the page cache.

use super::disk;
use super::material::Material;
use super::tools::{Tool, programs};
use super::watch::{self, Taken};
use crate::command::command;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Instant;

const SCRIPT: &str = r#"
set -eu
jobs=
for part; do
    zstd -dqc -- "$part" >/dev/null &
    jobs="$jobs $!"
done
for job in $jobs; do
    wait "$job"
done
"#;

/// The floor of one case.
pub(super) struct Floor<'a> {
    material: &'a Material,
    slot: PathBuf,
}

impl<'a> Floor<'a> {
    pub(super) fn new(material: &'a Material, slot: PathBuf) -> Self {
        Self { material, slot }
    }
}

impl Tool for Floor<'_> {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn reads(&self) -> Vec<PathBuf> {
        let mut files = programs(&["dash", "zstd"]);
        files.extend_from_slice(&self.material.parts);
        files
    }

    fn run(&mut self) -> Result<Taken> {
        let mut decode = command("sh", ["-c", SCRIPT, "floor"]);
        let decoded = watch::run(decode.args(&self.material.parts), &[])?;
        let begin = Instant::now();
        disk::write(&self.slot, self.material.unpacked_bytes)
            .with_context(|| format!("writing {}", self.slot.display()))?;
        Ok(Taken {
            time: decoded.time.max(begin.elapsed()),
            ..decoded
        })
    }

    fn slots(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}
