//! A small client of QEMU's machine protocol (QMP): one command at a time, over a Unix socket.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects to the socket, which QEMU may still have to make, and leaves negotiation mode.
    ///
    /// # Errors
    /// When that does not work until `deadline`.
    pub fn connect(socket: &Path, deadline: Instant) -> Result<Self> {
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("QEMU's monitor does not answer");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut qmp = Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
        };
        qmp.reader
            .get_ref()
            .set_read_timeout(Some(Duration::from_secs(60)))?;
        qmp.message().context("no greeting from QEMU's monitor")?;
        qmp.execute("qmp_capabilities", json!({}), Duration::from_secs(60))?;
        Ok(qmp)
    }

    /// Runs one command and returns its result. Events that arrive meanwhile are dropped.
    ///
    /// # Errors
    /// When QEMU reports one, is gone, or says nothing for `silence`.
    pub fn execute(&mut self, command: &str, arguments: Value, silence: Duration) -> Result<Value> {
        self.reader.get_ref().set_read_timeout(Some(silence))?;
        let request = json!({ "execute": command, "arguments": arguments });
        self.writer
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("sending {command} to QEMU"))?;
        loop {
            let answer = self
                .message()
                .with_context(|| format!("waiting for QEMU's answer to {command}"))?;
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!(
                    "QEMU refuses {command}: {}",
                    error["desc"].as_str().unwrap_or("?")
                );
            }
        }
    }

    /// Runs a line of the monitor for people; used for what QMP has no simple command for.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; and when the line prints anything, which for the commands used here means failure.
    pub fn monitor(&mut self, line: &str, silence: Duration) -> Result<()> {
        let arguments = json!({ "command-line": line });
        let said = self.execute("human-monitor-command", arguments, silence)?;
        match said.as_str().map(str::trim) {
            None | Some("") => Ok(()),
            Some(said) => bail!("QEMU on {line}: {said}"),
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU has closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
