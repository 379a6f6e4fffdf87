//! `cargo xtask bench stage`: xupg beside RAUC, beside the recipe by hand and beside the floor, on the same content, in one run.
//!
//! Every run begins with the bundle and the programs in the page cache and nothing else, and ends when everything is on the
//! disk: the clock covers a `sync`. The tools take turns, so that a noisy minute hits all of them. Every tool has a slot of its
//! own, 3 GiB, written before, so that none pays for what another did to it. Nothing here asserts a time.

mod disk;
mod floor;
mod material;
mod memory;
mod noise;
mod rauc;
mod recipe;
mod report;
mod roots;
mod tally;
mod tools;
mod watch;

use crate::keys::Keys;
use crate::{packages, progress};
use anyhow::Result;
use clap::ValueEnum;
use material::{Builder, Material};
pub use memory::memory;
use report::{Report, Row};
use tools::Bench;

/// What is staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// dom0's root alone.
    One,
    /// dom0's root and three domUs.
    Node,
}

impl Case {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Node => "node",
        }
    }
}

/// The packages that only the benchmark needs.
const PACKAGES: &[&str] = &["rauc", "squashfs-tools", "dbus-daemon", "dbus-bin"];

/// Measures `cases` in `runs` alternating runs and prints the table, or one JSON object for each of its rows.
///
/// # Errors
/// When a tool fails, or a tool leaves other content than the rest.
pub fn stage(cases: &[Case], runs: usize, json: bool) -> Result<()> {
    packages::ensure()?;
    packages::ensure_these(PACKAGES)?;
    let keys = Keys::ensure()?;
    let builder = Builder::new(&keys)?;
    let mut report = Report::new()?;
    for case in cases {
        let material = builder.material(*case)?;
        report.add(&material, measure(&builder, &material, runs)?);
    }
    if json {
        report.print_json();
    } else {
        report.print_table();
    }
    Ok(())
}

fn measure(builder: &Builder, material: &Material, runs: usize) -> Result<Vec<Row>> {
    let case = material.case.name();
    let mut bench = Bench::new(builder, material)?;
    let mut rows: Vec<Row> = bench.tools().map(|tool| Row::new(case, tool)).collect();
    for number in 1..=runs {
        for (index, row) in rows.iter_mut().enumerate() {
            let run = bench.run(index)?;
            progress::say(format_args!(
                "{case}, run {number} of {runs}: {:<12} {:6.2} s",
                row.tool, run.seconds
            ));
            row.runs.push(run);
        }
    }
    bench.compare()?;
    Ok(rows)
}
