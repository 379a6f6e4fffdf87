//! A running node.

use super::qemu::{Accelerator, Qemu};
use super::qmp::Qmp;
use super::ssh::Ssh;
use super::state::NodeState;
use crate::progress;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// RAM of the node in MiB: dom0's, and the two domUs'.
const MEMORY_MIB: u32 = 2048;

/// A QEMU of ours with a node in it. Dropping it is pulling the plug.
#[derive(Debug)]
pub struct Machine {
    state: NodeState,
    child: Child,
    qmp: Qmp,
    ssh: Ssh,
    ssh_port: u16,
    sockets: PathBuf,
}

impl Machine {
    /// Switches the node on.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn start(state: NodeState, ssh_key: &Path) -> Result<Self> {
        Self::launch(state, ssh_key, None)
    }

    /// Continues where [`Machine::save`] was called.
    ///
    /// # Errors
    /// When QEMU does not start or the node has no such snapshot.
    pub fn resume(state: NodeState, ssh_key: &Path, snapshot: &str) -> Result<Self> {
        Self::launch(state, ssh_key, Some(snapshot.to_owned()))
    }

    fn launch(state: NodeState, ssh_key: &Path, snapshot: Option<String>) -> Result<Self> {
        let ssh_port = free_port()?;
        // Unix socket names are limited to 107 bytes; the lab's directory may be deep.
        let sockets =
            std::env::temp_dir().join(format!("xupg-lab-{}-{ssh_port}", std::process::id()));
        fs::create_dir(&sockets).with_context(|| format!("cannot make {}", sockets.display()))?;
        let qemu = Qemu {
            accelerator: Accelerator::choose()?,
            memory_mib: MEMORY_MIB,
            disk: state.disk(),
            vars: state.vars(),
            offer: state.offer_disk(),
            console: state.console(),
            monitor: sockets.join("qmp"),
            ssh_port,
            snapshot,
        };
        let errors = fs::File::create(state.dir().join("qemu.stderr"))?;
        let mut child = qemu
            .command()
            .stdout(errors.try_clone()?)
            .stderr(errors)
            .spawn()
            .context("cannot start QEMU")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let qmp = match Qmp::connect(&qemu.monitor, deadline) {
            Ok(qmp) => qmp,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let _ = fs::remove_dir_all(&sockets);
                let said = fs::read_to_string(state.dir().join("qemu.stderr")).unwrap_or_default();
                return Err(error.context(format!("QEMU says: {}", said.trim())));
            }
        };
        let ssh = Ssh::new(ssh_key, ssh_port);
        Ok(Self {
            state,
            child,
            qmp,
            ssh,
            ssh_port,
            sockets,
        })
    }

    /// Commands inside dom0.
    pub fn ssh(&self) -> &Ssh {
        &self.ssh
    }

    /// The port on 127.0.0.1 that leads to dom0's ssh.
    pub fn ssh_port(&self) -> u16 {
        self.ssh_port
    }

    /// The node's files.
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// How much the console has said so far: a place to wait from.
    pub fn console_mark(&self) -> usize {
        fs::metadata(self.state.console()).map_or(0, |meta| meta.len() as usize)
    }

    /// What the console has said since `mark`.
    pub fn console_since(&self, mark: usize) -> String {
        let bytes = fs::read(self.state.console()).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(mark..).unwrap_or_default()).into_owned()
    }

    /// Waits until the console has said `text` after `mark`, and returns the line.
    ///
    /// # Errors
    /// When it has not within `patience`, or QEMU has ended; with the end of the console.
    pub fn wait_for_console(
        &mut self,
        mark: usize,
        text: &str,
        patience: Duration,
    ) -> Result<String> {
        let deadline = Instant::now() + patience;
        let mut told = Instant::now();
        loop {
            let said = self.console_since(mark);
            if let Some(line) = said.lines().find(|line| line.contains(text)) {
                return Ok(line.trim().to_owned());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "QEMU ended ({status}) while waiting for `{text}`\n{}",
                    tail(&said)
                );
            }
            if Instant::now() >= deadline {
                bail!(
                    "no `{text}` on the console after {} s; it ends with\n{}",
                    patience.as_secs(),
                    tail(&said)
                );
            }
            if told.elapsed() > Duration::from_secs(20) {
                told = Instant::now();
                let last = said.lines().rfind(|line| !line.trim().is_empty());
                progress::say(format_args!(
                    "  still waiting for `{text}`; console: {}",
                    last.unwrap_or("").trim()
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the node is up (its last boot unit has run and ssh answers); returns the console's line, which names release
    /// and slot.
    ///
    /// # Errors
    /// As [`Machine::wait_for_console`].
    pub fn wait_until_up(&mut self, mark: usize, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        let line = self.wait_for_console(mark, "lab: node up", patience)?;
        self.ssh.wait(deadline)?;
        Ok(line)
    }

    /// Identifies one boot of dom0's kernel.
    ///
    /// # Errors
    /// When dom0 cannot be reached.
    pub fn boot_id(&self) -> Result<String> {
        let id = self.ssh.run(
            "cat /proc/sys/kernel/random/boot_id",
            Duration::from_secs(60),
        )?;
        Ok(id.trim().to_owned())
    }

    /// Reboots dom0 in an orderly way and waits until the node is up again; returns the console's line.
    ///
    /// # Errors
    /// As [`Machine::wait_until_up`].
    pub fn reboot(&mut self, patience: Duration) -> Result<String> {
        let mark = self.console_mark();
        // The connection may break before the answer: not an error here.
        let _ = self
            .ssh
            .try_run("systemctl reboot", Duration::from_secs(60));
        self.wait_until_up(mark, patience)
    }

    /// Puts copies of `files` under `/offer` in dom0, read-only, in the place of what was offered before.
    ///
    /// # Errors
    /// When they do not fit or dom0 cannot be reached.
    pub fn offer(&self, files: &[&Path]) -> Result<()> {
        let minute = Duration::from_secs(60);
        self.ssh
            .run("if mountpoint -q /offer; then umount /offer; fi", minute)?;
        self.state.offer(files)?;
        // dom0 may remember blocks of what the disk held before.
        self.ssh.run(
            "mkdir -p /offer && blockdev --flushbufs /dev/disk/by-id/virtio-offer && \
             mount -t ext4 -o ro,noload /dev/disk/by-id/virtio-offer /offer",
            minute,
        )?;
        Ok(())
    }

    /// Pulls the plug: the machine is gone at once, its flash stays as it is.
    pub fn power_cut(mut self) -> NodeState {
        self.pull_the_plug();
        self.state.clone()
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp
            .execute("system_reset", json!({}), Duration::from_secs(60))?;
        Ok(())
    }

    /// Saves the whole machine under a name, in the node's own files. It goes on running.
    ///
    /// # Errors
    /// When QEMU cannot save.
    pub fn save(&mut self, snapshot: &str) -> Result<()> {
        // Written to the host's disk as a whole: give it time.
        self.qmp
            .monitor(&format!("savevm {snapshot}"), Duration::from_secs(600))
    }

    /// Ends QEMU in an orderly way (all caches written), without telling the node.
    ///
    /// # Errors
    /// When QEMU does not end.
    pub fn quit(mut self) -> Result<NodeState> {
        let _ = self.qmp.execute("quit", json!({}), Duration::from_secs(60));
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                bail!("QEMU has not ended a minute after `quit`");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self.state.clone())
    }

    /// The socket of QEMU's monitor.
    pub fn monitor(&self) -> PathBuf {
        self.sockets.join("qmp")
    }

    /// Forgets about the machine without ending it.
    pub fn leave_running(self) {
        std::mem::forget(self);
    }

    fn pull_the_plug(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.pull_the_plug();
    }
}

/// Free now; QEMU takes it a moment later.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
