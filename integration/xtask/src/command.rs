//! Running other programs: a failure carries the command line and the end of what it printed.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs to the end and returns stdout.
///
/// # Errors
/// When the program cannot be started or exits non-zero.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    command.stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    checked(command, output)
}

/// Like [`run`], with `input` on stdin.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let output = std::thread::scope(|scope| {
        // A program that exits early breaks this pipe; its exit status says why.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })
    .with_context(|| format!("waiting for {}", shown(command)))?;
    checked(command, output)
}

/// The program's name and arguments, ready to run.
pub fn command<I, S>(program: &str, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    // Debian keeps mkfs and friends where an ordinary user's PATH does not look.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command.env("LC_ALL", "C");
    command
}

fn checked(command: &Command, output: Output) -> Result<Vec<u8>> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.trim().is_empty() {
        said = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let lines: Vec<&str> = said.trim_end().lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
    bail!("{} ended with {}\n  {tail}", shown(command), output.status)
}

/// A command line for people to read.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
