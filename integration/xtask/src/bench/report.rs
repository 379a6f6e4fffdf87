//! Rows, the table, and the aims beside what came out.

use super::material::Material;
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;

/// One run of one tool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Until all was on the disk.
    pub(super) seconds: f64,
    pub(super) peak_rss_bytes: u64,
    /// By everybody, so another busy program shows here.
    pub(super) written_bytes: u64,
}

/// All runs of one tool on one case.
pub(super) struct Row {
    case: &'static str,
    pub(super) tool: &'static str,
    pub(super) runs: Vec<Run>,
}

impl Row {
    pub(super) fn new(case: &'static str, tool: &'static str) -> Self {
        Self {
            case,
            tool,
            runs: Vec::new(),
        }
    }

    fn seconds(&self) -> Vec<f64> {
        let mut seconds: Vec<f64> = self.runs.iter().map(|run| run.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds
    }

    fn median(&self) -> f64 {
        let seconds = self.seconds();
        match (seconds.len(), seconds.len() / 2) {
            (0, _) => f64::NAN,
            (count, middle) if count % 2 == 0 => {
                f64::midpoint(seconds[middle - 1], seconds[middle])
            }
            (_, middle) => seconds[middle],
        }
    }

    fn min(&self) -> f64 {
        self.seconds().first().copied().unwrap_or(f64::NAN)
    }

    fn max(&self) -> f64 {
        self.seconds().last().copied().unwrap_or(f64::NAN)
    }

    fn peak_rss(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| run.peak_rss_bytes)
            .max()
            .unwrap_or(0)
    }

    /// The median.
    fn written(&self) -> u64 {
        let mut written: Vec<u64> = self.runs.iter().map(|run| run.written_bytes).collect();
        written.sort_unstable();
        written.get(written.len() / 2).copied().unwrap_or(0)
    }
}

/// An aim of the project and what came out.
struct Aim {
    what: String,
    value: f64,
    aim: f64,
    at_least: bool,
}

impl Aim {
    fn line(&self) -> String {
        let sign = if self.at_least { ">=" } else { "<=" };
        format!(
            "{:<46} {:7.2}   aim {sign} {:.2}",
            self.what, self.value, self.aim
        )
    }
}

/// Everything that is printed.
pub(super) struct Report {
    machine: String,
    rows: Vec<Row>,
    aims: Vec<Aim>,
    contents: Vec<String>,
}

impl Report {
    /// Names the machine.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            machine: machine()?,
            rows: Vec::new(),
            aims: Vec::new(),
            contents: Vec::new(),
        })
    }

    /// Adds a case.
    pub(super) fn add(&mut self, material: &Material, rows: Vec<Row>) {
        let case = material.case.name();
        self.contents.push(format!(
            "case {case}: {} domain(s), {} entries, {} MB unpacked, {} MB packed",
            material.tarballs.len(),
            material.entries,
            material.unpacked_bytes / 1_000_000,
            fs::metadata(&material.bundle).map_or(0, |about| about.len()) / 1_000_000,
        ));
        let median = |tool: &str| {
            let row = rows.iter().find(|row| row.tool == tool);
            row.map_or(f64::NAN, Row::median)
        };
        let (xupg, sealed, rauc) = (median("xupg"), median("xupg-sealed"), median("rauc"));
        let mut aim = |what: &str, value: f64, aim: f64, at_least: bool| {
            let what = format!("{case}: {what}");
            self.aims.push(Aim {
                what,
                value,
                aim,
                at_least,
            });
        };
        aim("times as fast as rauc", rauc / xupg, 2.8, true);
        if case == "one" {
            aim(
                "times as fast as tar by hand",
                median("tar") / xupg,
                2.4,
                true,
            );
            aim("times the floor", xupg / median("floor"), 2.0, false);
            aim("sealed, times as fast as rauc", rauc / sealed, 1.8, true);
        }
        for row in rows.iter().filter(|row| row.tool.starts_with("xupg")) {
            let written = row.written() as f64 / material.unpacked_bytes as f64;
            aim(
                &format!("{}, bytes written / unpacked", row.tool),
                written,
                1.05,
                false,
            );
            let mib = row.peak_rss() as f64 / f64::from(1 << 20);
            aim(&format!("{}, peak memory, MiB", row.tool), mib, 64.0, false);
        }
        self.rows.extend(rows);
    }

    /// For people.
    #[allow(clippy::print_stdout, reason = "the command's result")]
    pub(super) fn print_table(&self) {
        println!("{}", self.machine);
        for line in &self.contents {
            println!("{line}");
        }
        println!();
        println!(
            "| case | tool        | median s |   min |   max | peak memory MiB | written MB | runs |"
        );
        println!(
            "|------|-------------|---------:|------:|------:|----------------:|-----------:|-----:|"
        );
        for row in &self.rows {
            println!(
                "| {:<4} | {:<11} | {:8.2} | {:5.2} | {:5.2} | {:15.1} | {:10} | {:4} |",
                row.case,
                row.tool,
                row.median(),
                row.min(),
                row.max(),
                row.peak_rss() as f64 / f64::from(1 << 20),
                row.written() / 1_000_000,
                row.runs.len()
            );
        }
        println!();
        for aim in &self.aims {
            println!("{}", aim.line());
        }
    }

    /// For programs: one object for each row. The rest goes to stderr.
    #[allow(clippy::print_stdout, reason = "the command's result")]
    pub(super) fn print_json(&self) {
        for row in &self.rows {
            println!(
                "{}",
                json!({
                    "case": row.case, "tool": row.tool,
                    "median_s": row.median(), "min_s": row.min(), "max_s": row.max(),
                    "peak_rss_bytes": row.peak_rss(), "written_bytes": row.written(),
                })
            );
        }
        eprintln!("{}", self.machine);
        for line in &self.contents {
            eprintln!("{line}");
        }
        for aim in &self.aims {
            eprintln!("{}", aim.line());
        }
    }
}

/// CPU, cores, kernel.
fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown CPU", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading osrelease")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{model}, {cores} cores, Linux {}", kernel.trim()))
}
