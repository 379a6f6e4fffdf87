//! Runs the coverage-guided fuzz targets of `domain-images/fuzz` for a fixed number of inputs.
//!
//! Stable Rust can instrument for coverage; it only has no switch of its own for it, so the flags
//! are given to LLVM. Address checks are not needed: the readers are safe Rust.

use crate::{command, packages, paths, progress};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Inputs of each target in `cargo xtask test`.
pub const ITERATIONS: u64 = 200_000;

/// Every target, and which share of the inputs it gets: one in so many. A bundle is slow to read, and a
/// file system is slow to make.
pub const TARGETS: [(&str, u64); 7] = [
    ("manifest", 1),
    ("bundle", 4),
    ("signature", 1),
    ("frame", 2),
    ("file_list", 1),
    ("tar", 1),
    ("unpack", 10),
];

/// The target with a bug in it, see [`Fuzzer::finds_the_trap`].
const TRAP: &str = "trap";

const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// Where the programs are built for; naming it keeps the flags away from build scripts.
const BUILT_FOR: &str = "x86_64-unknown-linux-gnu";

/// The target whose seeds and words serve `target`, too.
fn seeds_of(target: &str) -> &str {
    match target {
        // It makes what the other reads.
        "unpack" => "tar",
        own => own,
    }
}

/// The targets, built.
#[derive(Debug)]
pub struct Fuzzer {
    program: PathBuf,
    /// `domain-images/fuzz`: corpora and what is found.
    folder: PathBuf,
}

/// Builds the targets and runs each over its corpus and then `iterations` inputs made from it, always
/// with the same seed. The corpora stay as they are; an input that fails lies in
/// `domain-images/fuzz/artifacts/<target>-*` afterwards.
///
/// # Errors
/// When something cannot be built, or a target fails, which names the input.
pub fn run(iterations: u64) -> Result<()> {
    packages::ensure()?;
    let fuzzer = Fuzzer::build()?;
    fuzzer.finds_the_trap()?;
    for (target, share) in TARGETS {
        fuzzer.run(target, iterations / share)?;
    }
    Ok(())
}

impl Fuzzer {
    /// Builds all targets, which are one program.
    ///
    /// # Errors
    /// When they cannot be built.
    pub fn build() -> Result<Self> {
        let folder = paths::repo().join("domain-images/fuzz");
        let built = paths::target()?.join("fuzz");
        progress::say("fuzz: building");
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--quiet", "--locked", "--target", BUILT_FOR])
            .arg("--target-dir")
            .arg(&built)
            .current_dir(&folder)
            // Debian's clang comes without g++, and with clang++.
            .env("CXX", "clang++")
            .env("RUSTFLAGS", RUSTFLAGS);
        command::run(&mut cargo)?;
        std::fs::create_dir_all(folder.join("artifacts")).context("no folder for what is found")?;
        Ok(Self {
            program: built.join(BUILT_FOR).join("debug/fuzz_target"),
            folder,
        })
    }

    /// Runs a target over its corpus and `inputs` more.
    ///
    /// # Errors
    /// When it fails; the error has what it said and names the input.
    pub fn run(&self, target: &str, inputs: u64) -> Result<()> {
        let corpus = self.folder.join("corpus").join(seeds_of(target));
        let seeds = std::fs::read_dir(&corpus)
            .with_context(|| format!("no corpus in {}", corpus.display()))?
            .count() as u64;
        // The engine counts the seeds as inputs, and itself tries the empty one.
        let inputs = inputs + seeds + 1;
        let mut fuzzer = self.engine(target, inputs, &self.folder.join("artifacts"))?;
        fuzzer.arg(&corpus);
        let said = told(&mut fuzzer)?;
        let found = said.number("stat::new_units_added:");
        progress::say(format_args!(
            "fuzz: {target}, {} inputs, {} a second, {} of them reached something new, from {seeds} seeds",
            said.number("stat::number_of_executed_units:"),
            said.number("stat::average_exec_per_sec:"),
            found,
        ));
        ensure!(said.succeeded, "{target} fails:\n{}", said.text);
        let done = said.number("stat::number_of_executed_units:");
        ensure!(done >= inputs, "{target}: {done} of {inputs} inputs");
        Ok(())
    }

    /// Lets the engine look for a bug that is there: four letters in a row, one in four thousand
    /// million, to which coverage leads letter by letter. If it is not found, no other target's
    /// silence means anything.
    ///
    /// # Errors
    /// When it is not found.
    pub fn finds_the_trap(&self) -> Result<()> {
        let folder = self.program.with_file_name("trapped");
        std::fs::create_dir_all(&folder).context("no folder for what is found")?;
        let mut engine = self.engine(TRAP, 5 * ITERATIONS, &folder)?;
        engine.arg("-max_len=8");
        let said = told(&mut engine)?;
        ensure!(
            !said.succeeded && said.text.contains("the trap is found"),
            "the planted bug is not found, so coverage does not guide the inputs:\n{}",
            said.text
        );
        Ok(())
    }

    /// The program, told which target to run, with a folder for new inputs that is empty, so that
    /// every run begins the same.
    fn engine(&self, target: &str, inputs: u64, artifacts: &Path) -> Result<Command> {
        let fresh = self.program.with_file_name(format!("new-{target}"));
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).context("cannot remove the last run's inputs")?;
        }
        std::fs::create_dir(&fresh).context("no folder for new inputs")?;
        let prefix = artifacts.join(format!("{target}-"));
        let words = self.folder.join("words").join(seeds_of(target));
        let mut engine = Command::new(&self.program);
        if words.exists() {
            engine.arg(format!("-dict={}", words.display()));
        }
        engine
            .env("XUPG_FUZZ_TARGET", target)
            .arg(format!("-runs={inputs}"))
            .args(["-seed=1", "-max_len=65536", "-timeout=60", "-verbosity=0"])
            .args(["-reload=0", "-rss_limit_mb=512", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}", prefix.display()))
            .arg(&fresh);
        Ok(engine)
    }
}

/// How the engine ended, and its report.
struct Told {
    succeeded: bool,
    text: String,
}

impl Told {
    /// The number behind `label`; 0 when the report does not have it.
    fn number(&self, label: &str) -> u64 {
        let rest = self.text.split(label).nth(1).unwrap_or_default();
        let first = rest.split_whitespace().next().unwrap_or_default();
        first.parse().unwrap_or_default()
    }
}

fn told(command: &mut Command) -> Result<Told> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", command::shown(command)))?;
    Ok(Told {
        succeeded: output.status.success(),
        text: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
