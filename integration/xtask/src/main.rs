//! The lab: builds, demonstrates and tests xupg on a real, nested Xen.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::bundles::Factory;
use xtask::test::{self, Tier};
use xtask::{bench, demo, fuzz, lab, packages, progress, root};

/// The lab: builds, demonstrates and tests xupg on a real, nested Xen.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Installs packages, makes keys, kernels, roots and the releases' trees, as far as they are not there.
    Setup,
    /// Upgrades a real Xen node in QEMU, and takes it back.
    Demo,
    /// Runs the tests: format, layers, lints, programs, fuzz targets, and scenarios on nested Xen.
    Test {
        /// Only this tier; may be given more than once.
        #[arg(long)]
        tier: Vec<Tier>,
        /// Only the scenarios whose name, or whose story's name, contains one of these.
        names: Vec<String>,
    },
    /// Runs the fuzz targets of domain-images: a fixed number of inputs, always the same seed.
    Fuzz {
        /// Inputs for each target; the slow ones get an eighth or a quarter.
        #[arg(long, default_value_t = fuzz::ITERATIONS)]
        iterations: u64,
    },
    /// Measures xupg beside what people use instead.
    #[command(subcommand)]
    Bench(BenchVerb),
    /// One node to play with.
    #[command(subcommand)]
    Lab(LabVerb),
}

#[derive(Subcommand)]
enum BenchVerb {
    /// Staging a release: xupg, RAUC, tar by hand and the floor, in alternating runs. Needs root and a quiet machine.
    Stage {
        /// Prints one JSON object for each row of the table.
        #[arg(long)]
        json: bool,
        /// Runs of each tool.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
        runs: u8,
        /// Only this case.
        #[arg(long)]
        case: Option<bench::Case>,
    },
    /// The peak memory of `xupg apply`, for bundles of 100 MB and of 1 GB. Needs root.
    Memory {
        /// Prints one JSON object for each row of the table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum LabVerb {
    /// Boots the node: as it was left, or a new one.
    Up,
    /// Opens a shell in dom0, or runs a command there.
    Ssh {
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        line: Vec<String>,
    },
    /// Builds the product's programs and puts them into the running node, without making images.
    Sync,
    /// Shuts the node down; its disk stays.
    Down,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = root::ensure().and_then(|()| run(cli.verb));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Setup => setup(),
        Verb::Demo => packages::ensure().and_then(|()| demo::run()),
        Verb::Test { tier, names } => test::run(&tier, &names),
        Verb::Fuzz { iterations } => fuzz::run(iterations),
        Verb::Bench(BenchVerb::Stage { json, runs, case }) => {
            let cases = case.map_or(vec![bench::Case::One, bench::Case::Node], |case| vec![case]);
            bench::stage(&cases, usize::from(runs), json)
        }
        Verb::Bench(BenchVerb::Memory { json }) => bench::memory(json),
        Verb::Lab(LabVerb::Up) => setup().and_then(|()| lab::up()),
        Verb::Lab(LabVerb::Ssh { line }) => lab::ssh(&line),
        Verb::Lab(LabVerb::Sync) => lab::sync(),
        Verb::Lab(LabVerb::Down) => lab::down(),
    }
}

fn setup() -> anyhow::Result<()> {
    packages::ensure()?;
    let factory = Factory::ensure()?;
    for version in ["1.0", "2.0"] {
        let bundle = factory.good(version)?;
        progress::say(format_args!("release {version}: {}", bundle.display()));
    }
    Ok(())
}
