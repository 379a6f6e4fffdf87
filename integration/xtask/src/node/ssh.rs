//! Commands inside of a node, through the `ssh` program.

use crate::command::{command, run, run_with_input};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How to reach one node's dom0.
#[derive(Debug, Clone)]
pub struct Ssh {
    key: PathBuf,
    port: u16,
}

/// What a command inside the node said and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// The exit status; `None` when it was killed or the connection broke.
    pub status: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Ssh {
    /// Root on 127.0.0.1, that port, that private key.
    pub fn new(key: &Path, port: u16) -> Self {
        Self {
            key: key.to_path_buf(),
            port,
        }
    }

    /// The `ssh` command up to the host; the caller adds what to run.
    pub fn command(&self) -> Command {
        let mut ssh = command("ssh", ["-F", "none", "-q", "-i"]);
        ssh.arg(&self.key);
        for option in [
            "BatchMode=yes",
            // A new node has a new host key, on a port that another node had before.
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ConnectTimeout=20",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=6",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.args(["-p", &self.port.to_string(), "root@127.0.0.1"]);
        ssh
    }

    /// Runs a shell line in dom0 and returns how it ended, good or bad. After `deadline` the connection is cut.
    ///
    /// # Errors
    /// When ssh cannot be started, the node cannot be reached, or the deadline passes.
    pub fn try_run(&self, line: &str, deadline: Duration) -> Result<Said> {
        let mut ssh = command(
            "timeout",
            ["--foreground", &deadline.as_secs().max(1).to_string()],
        );
        let inner = self.command();
        ssh.arg(inner.get_program())
            .args(inner.get_args())
            .arg(line);
        let output: Output = ssh
            .stdin(Stdio::null())
            .output()
            .context("cannot start ssh")?;
        let said = Said {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        match said.status {
            // timeout's own status, and ssh's.
            Some(124) => bail!(
                "`{line}` has not ended after {} s in the node",
                deadline.as_secs()
            ),
            Some(255) => bail!(
                "the node's ssh does not answer (`{line}`) {}",
                said.stderr.trim()
            ),
            _ => Ok(said),
        }
    }

    /// Runs a shell line in dom0 that must succeed, and returns its stdout.
    ///
    /// # Errors
    /// As [`Ssh::try_run`], and when it exits non-zero.
    pub fn run(&self, line: &str, deadline: Duration) -> Result<String> {
        let said = self.try_run(line, deadline)?;
        if said.status != Some(0) {
            bail!(
                "`{line}` in the node: exit {:?}\n  {}\n  {}",
                said.status,
                said.stdout.trim(),
                said.stderr.trim()
            );
        }
        Ok(said.stdout)
    }

    /// Writes a file in dom0, in one step. For small files; large ones are offered as a disk.
    ///
    /// # Errors
    /// When the node cannot be reached or the file not be written.
    pub fn put(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let line = format!("cat >{path}.new && chmod {mode:o} {path}.new && mv {path}.new {path}");
        run_with_input(self.command().arg(line), bytes)?;
        Ok(())
    }

    /// Reads a file of dom0.
    ///
    /// # Errors
    /// When the node cannot be reached or the file not be read.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        run(self.command().arg(format!("cat {path}")))
    }

    /// Waits until commands can be run.
    ///
    /// # Errors
    /// When that is not so until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Result<()> {
        loop {
            let error = match self.run("true", Duration::from_secs(30)) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(error).context("waiting for ssh");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}
