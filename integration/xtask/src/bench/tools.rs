//! The tools in their turns.

use super::disk::{self, Disk};
use super::material::{Builder, Material};
use super::report::Run;
use super::watch::{self, Taken};
use super::{floor::Floor, rauc::Rauc, recipe::Recipe, tally};
use crate::command::command;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// One way to get the content onto the disk.
pub(super) trait Tool {
    /// As in the table.
    fn name(&self) -> &'static str;

    /// What it reads and runs: all of it is in the page cache when the clock starts.
    fn reads(&self) -> Vec<PathBuf>;

    /// Before the clock starts.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// The work itself.
    fn run(&mut self) -> Result<Taken>;

    /// After the clock has stopped.
    fn clean_up(&mut self) -> Result<()> {
        Ok(())
    }

    /// The slots it has filled; none for the floor.
    fn slots(&self) -> Vec<PathBuf>;
}

/// All tools, on one case.
pub(super) struct Bench<'a> {
    tools: Vec<Box<dyn Tool + 'a>>,
    disk: Disk,
    mountpoint: PathBuf,
    entries: u64,
}

impl<'a> Bench<'a> {
    /// Makes the slots.
    ///
    /// # Errors
    /// When the disk is full.
    pub(super) fn new(builder: &'a Builder, material: &'a Material) -> Result<Self> {
        let slot = |tool: &str| material.slot(builder, tool);
        let folder = |name: &str| -> Result<PathBuf> {
            let path = builder.folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
            Ok(path)
        };
        let xupg = |sealed| -> Result<Box<dyn Tool + 'a>> {
            Ok(Box::new(Xupg {
                builder,
                material,
                slot: slot("xupg")?,
                mountpoint: folder("xupg.mnt")?,
                sealed,
            }))
        };
        Ok(Self {
            tools: vec![
                xupg(false)?,
                Box::new(Rauc::new(builder, material, &folder("rauc")?)?),
                xupg(true)?,
                Box::new(Recipe::new(material, slot("tar")?, folder("tar.mnt")?)?),
                Box::new(Floor::new(material, slot("floor")?)),
            ],
            disk: Disk::of(&builder.folder)?,
            mountpoint: folder("look.mnt")?,
            entries: material.entries,
        })
    }

    /// Names, in the order in which they take turns.
    pub(super) fn tools(&self) -> impl Iterator<Item = &'static str> {
        self.tools.iter().map(|tool| tool.name())
    }

    /// One run of one tool.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn run(&mut self, index: usize) -> Result<Run> {
        let tool = &mut self.tools[index];
        let doing = format!("running {}", tool.name());
        tool.prepare().context(doing.clone())?;
        disk::only_cached(&tool.reads())?;
        let before = self.disk.written()?;
        let taken = tool.run().context(doing.clone())?;
        let begin = Instant::now();
        rustix::fs::sync();
        let time = taken.time + begin.elapsed();
        let written_bytes = self.disk.written()? - before;
        tool.clean_up().context(doing)?;
        Ok(Run {
            seconds: time.as_secs_f64(),
            peak_rss_bytes: taken.peak_rss,
            written_bytes,
        })
    }

    /// Looks at what the last runs have left.
    ///
    /// # Errors
    /// When a tool's slots do not hold all that was packed, or not what the others hold: its time would mean nothing.
    pub(super) fn compare(&self) -> Result<()> {
        let mut first = None;
        for tool in &self.tools {
            let slots = tool.slots();
            if slots.is_empty() {
                continue;
            }
            let tally = tally::of(&slots, &self.mountpoint)
                .with_context(|| format!("looking at what {} has left", tool.name()))?;
            let (name, expected) = *first.get_or_insert((tool.name(), tally));
            ensure!(
                tally == expected && tally.entries >= self.entries,
                "{} has left {tally:?}, {name} {expected:?}, and {} entries were packed",
                tool.name(),
                self.entries
            );
        }
        Ok(())
    }
}

/// The engine.
struct Xupg<'a> {
    builder: &'a Builder,
    material: &'a Material,
    slot: PathBuf,
    mountpoint: PathBuf,
    sealed: bool,
}

impl Tool for Xupg<'_> {
    fn name(&self) -> &'static str {
        if self.sealed { "xupg-sealed" } else { "xupg" }
    }

    fn reads(&self) -> Vec<PathBuf> {
        let mut files = programs(&["mke2fs", "losetup"]);
        files.extend([self.builder.program.clone(), self.material.bundle.clone()]);
        files
    }

    fn run(&mut self) -> Result<Taken> {
        let mut stage = command(&self.builder.program.to_string_lossy(), ["stage"]);
        stage.args([&self.material.bundle, &self.builder.trust]);
        stage.args([&self.slot, &self.mountpoint]);
        stage.arg(if self.sealed { "sealed" } else { "unsealed" });
        watch::run(&mut stage, &[])
    }

    fn slots(&self) -> Vec<PathBuf> {
        vec![self.slot.clone()]
    }
}

/// Where Debian keeps these programs, as far as they are there.
pub(super) fn programs(names: &[&str]) -> Vec<PathBuf> {
    names
        .iter()
        .flat_map(|name| ["/usr/bin", "/usr/sbin"].map(|folder| PathBuf::from(folder).join(name)))
        .filter(|path| path.exists())
        .collect()
}
