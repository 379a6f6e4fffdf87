//! Runs a program of the system and keeps what it said, for the error.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::ImageError;

/// Bytes of a program's output that an error repeats.
const OUTPUT_KEPT: usize = 600;

/// Runs `program`; its exit code is the caller's to judge.
pub(super) fn output<A: AsRef<OsStr>>(
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<Output, ImageError> {
    Command::new(program)
        .args(arguments)
        // Error messages are shown, and e2fsck's are recognised, in one language.
        .env("LC_ALL", "C")
        // Services may lack the directories that hold file system tools.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("MKE2FS_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .map_err(|source: io::Error| ImageError::Io {
            doing: "run",
            path: Path::new(program).to_owned(),
            source,
        })
}

/// Runs `program` and takes any exit code but 0 for failure; returns what it wrote to stdout.
pub(super) fn run<A: AsRef<OsStr>>(
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<Vec<u8>, ImageError> {
    let out = output(program, arguments)?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    Err(ImageError::Command {
        program,
        status: out.status,
        output: said(&out),
    })
}

/// The end of what a program said, in one line.
pub(super) fn said(out: &Output) -> String {
    let mut text = String::from_utf8_lossy(&out.stderr).into_owned();
    if text.trim().is_empty() {
        text = String::from_utf8_lossy(&out.stdout).into_owned();
    }
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    let cut = line.len().saturating_sub(OUTPUT_KEPT);
    let cut = (cut..=line.len())
        .find(|at| line.is_char_boundary(*at))
        .unwrap_or(0);
    line[cut..].to_owned()
}
