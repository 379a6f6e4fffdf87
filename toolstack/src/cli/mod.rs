//! The command line: one file per family of verbs. Results go to standard output, everything
//! else to standard error.

mod bundle;
mod change;
mod install;
mod look;
mod progress;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::{Error, Kind, Result};
use crate::node::Node;

/// Upgrade a whole Xen node, hypervisor, dom0 and every domU, as one signed release.
///
/// A release is staged into the standby slot, the node reboots into it for one trial boot, and
/// the release is confirmed when dom0 and every mandatory domU have reported good. One reboot
/// puts everything back.
///
/// Exit status: 0 done, or nothing to do; 1 failed; 2 usage; 3 refused, and nothing changed;
/// 4 another xupg holds the node's lock.
#[derive(Debug, Parser)]
#[command(
    name = "xupg",
    version,
    disable_help_subcommand = false,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Global {
    /// Say more on standard error; twice, even more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Print the plan that would be carried out, and change nothing.
    #[arg(short = 'N', long, global = true)]
    dry_run: bool,
    /// Print results and errors as JSON, with a schema number.
    #[arg(long, global = true)]
    json: bool,
    /// Write progress as JSON lines to this file descriptor (3 or more).
    #[arg(long, value_name = "FD", global = true, value_parser = clap::value_parser!(i32).range(3..))]
    progress_fd: Option<i32>,
    /// Work on the node whose root directory is DIR.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        hide_default_value = true,
        global = true
    )]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make, look at, check and sign bundles.
    #[command(subcommand)]
    Bundle(bundle::Verb),
    /// Lay out an empty disk, or a disk image file, from a bundle.
    Install(install::Install),
    /// Upgrade the node: stage, switch, reboot.
    Apply(change::Apply),
    /// Write and verify a release into the standby slot; nothing that boots changes.
    Stage(change::Stage),
    /// Make the staged release the next to boot, once.
    Switch(change::Switch),
    /// Say where the node stands.
    Status,
    /// Show the running upgrade as it goes on, until it is over.
    Watch,
    /// Keep the release that is on trial, whatever its health.
    Confirm,
    /// Go back to the release in the standby slot: shut down, switch, reboot.
    Rollback,
    /// Read the standby slot back and compare it with its signed file lists.
    Verify(look::Verify),
    /// Bring the node up after a boot; what the boot service runs.
    Boot(change::Boot),
}

/// Runs the command line `arguments`; what `main` is.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let help = !error.use_stderr();
            // Nobody is left to tell if this fails.
            let _ = error.print();
            return ExitCode::from(if help { 0 } else { Kind::Usage.exit_code() });
        }
    };
    start_log(cli.global.verbose);
    let node = Node::at(&cli.global.root);
    let outcome = match &cli.verb {
        Verb::Bundle(verb) => bundle::run(verb, &cli.global),
        Verb::Install(verb) => install::run(verb, &cli.global),
        Verb::Apply(verb) => change::apply(verb, &node, &cli.global),
        Verb::Stage(verb) => change::stage(verb, &node, &cli.global),
        Verb::Switch(verb) => change::switch(verb, &node, &cli.global),
        Verb::Status => look::status(&node, &cli.global),
        Verb::Watch => look::watch(&node, &cli.global),
        Verb::Confirm => change::confirm(&node, &cli.global),
        Verb::Rollback => change::rollback(&node, &cli.global),
        Verb::Verify(verb) => look::verify(verb, &node, &cli.global),
        Verb::Boot(verb) => change::boot(verb, &node, &cli.global),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = if speaks_of_node(&cli.verb) {
                with_standing(error, &node)
            } else {
                error
            };
            let code = error.kind().exit_code();
            let told = if cli.global.json {
                print(&format!("{:#}", error.to_json()))
            } else {
                let mut stderr = std::io::stderr();
                writeln!(stderr, "error: {error}").map_err(Error::failed)
            };
            // Nobody is left to tell if this fails.
            drop(told);
            ExitCode::from(code)
        }
    }
}

fn speaks_of_node(verb: &Verb) -> bool {
    !matches!(verb, Verb::Bundle(_) | Verb::Install(_))
}

/// Observes the node once more: the error tells where it stands now, not where it should.
fn with_standing(error: Error, node: &Node) -> Error {
    match crate::observe::status(node) {
        Ok(status) => error.node(status.standing()),
        Err(unknown) => error.node(format!("unknown: {}", unknown.because())),
    }
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info,xupg=debug",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("XUPG_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(verbose > 1)
        .init();
}

/// Prints a result. A reader that has gone away is an error, not a panic.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(Error::failed)
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value).map_err(Error::failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
