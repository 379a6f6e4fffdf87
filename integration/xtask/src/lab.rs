//! `cargo xtask lab ...`: one node that keeps running, for a developer to play with.

use crate::bundles::Factory;
use crate::command::{command, run};
use crate::keys::Keys;
use crate::node::machine::Machine;
use crate::node::qmp::Qmp;
use crate::node::ssh::Ssh;
use crate::node::state::NodeState;
use crate::product::Product;
use crate::{paths, progress};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A first boot under emulation on a busy machine takes minutes.
const BOOT: Duration = Duration::from_secs(600);

/// Boots the lab's node, as it was left, or a new one with release 1.0 when there is none.
///
/// # Errors
/// When one is running already, or it does not come up.
pub fn up() -> Result<()> {
    if Running::load().is_ok_and(|it| Qmp::connect(&it.monitor, Instant::now()).is_ok()) {
        bail!("the node is running already; cargo xtask lab ssh, or lab down");
    }
    let keys = Keys::ensure()?;
    let dir = paths::lab().join("node");
    let state = match NodeState::open(&dir) {
        Ok(state) => state,
        Err(_) => {
            let factory = Factory::ensure()?;
            let disk = progress::step("installing 1.0 on an empty disk", || {
                factory.disk(&factory.good("1.0")?)
            })?;
            // A copy: the cache forgets the disk when the product changes, this node stays.
            NodeState::with_flash(&dir, &keys.ovmf_vars(), |flash| {
                run(command("cp", ["--sparse=always"]).arg(&disk).arg(flash))?;
                Ok(())
            })?
        }
    };
    let mut machine = Machine::start(state, &keys.ssh())?;
    let mark = machine.console_mark();
    let line = progress::step("booting", || machine.wait_until_up(mark, BOOT))?;
    progress::say(line);
    let running = Running {
        ssh_port: machine.ssh_port(),
        monitor: machine.monitor(),
    };
    running.save()?;
    machine.leave_running();
    progress::say("cargo xtask lab ssh gets you in; lab down switches it off");
    Ok(())
}

/// Replaces this process by an ssh into dom0, or runs a command there.
///
/// # Errors
/// When no node is running.
pub fn ssh(line: &[String]) -> Result<()> {
    let running = Running::load()?;
    let keys = Keys::ensure()?;
    let mut ssh = Ssh::new(&keys.ssh(), running.ssh_port).command();
    Err(ssh.args(line).exec()).context("cannot start ssh")
}

/// Builds the product's programs and puts them into the running node: `xupg` into dom0 at once, the agent into each domU, which
/// is shut down and started again for it. The slot then differs from the release that it was staged from.
///
/// # Errors
/// When no node is running, the build fails, or a domU does not shut down.
pub fn sync() -> Result<()> {
    let running = Running::load()?;
    let keys = Keys::ensure()?;
    let node = Ssh::new(&keys.ssh(), running.ssh_port);
    let product = progress::step("building xupg and its agent", Product::build)?;
    progress::step("xupg into dom0", || {
        node.put("/usr/sbin/xupg", &fs::read(&product.xupg)?, 0o755)
    })?;
    node.put("/run/xupg-agent", &fs::read(&product.agent)?, 0o755)?;
    for domain in ["web", "db"] {
        progress::step(&format!("the agent into {domain}"), || {
            node.run(
                &AGENT_INTO.replace("DOMAIN", domain),
                Duration::from_secs(400),
            )
        })?;
    }
    Ok(())
}

/// Run in dom0. A domU has no network: its image is changed while it is down.
const AGENT_INTO: &str = "set -e
was=0
if xl domid DOMAIN >/dev/null 2>&1; then
	was=1
	# One that is still booting loses the request.
	asked=0
	until timeout 60 xl shutdown -w DOMAIN; do asked=$((asked + 1)); [ $asked -lt 5 ]; done
fi
mkdir -p /run/sync
mount -t ext4 -o loop,nosuid,nodev,noexec /var/lib/xupg/images/DOMAIN.img /run/sync
cp /run/xupg-agent /run/sync/usr/sbin/xupg-agent
umount /run/sync
if [ $was = 1 ]; then xl create /etc/xen/DOMAIN.cfg; fi";

/// Shuts the node down and ends its QEMU; its disk stays.
///
/// # Errors
/// When no node is running or it does not end.
pub fn down() -> Result<()> {
    let running = Running::load()?;
    let keys = Keys::ensure()?;
    let node = Ssh::new(&keys.ssh(), running.ssh_port);
    // An orderly end when dom0 still listens; QEMU ends with it. Without domUs there is nothing for xendomains to save.
    let asked = progress::step("shutting down", || {
        node.try_run(
            "timeout 120 xl shutdown -a -w; systemctl poweroff",
            Duration::from_secs(180),
        )
    });
    let deadline = Instant::now() + Duration::from_secs(if asked.is_ok() { 180 } else { 0 });
    while let Ok(mut qmp) = Qmp::connect(&running.monitor, Instant::now()) {
        if Instant::now() >= deadline {
            // QEMU closes the connection instead of answering.
            let _ = qmp.execute("quit", json!({}), Duration::from_secs(10));
            break;
        }
        drop(qmp);
        std::thread::sleep(Duration::from_millis(500));
    }
    fs::remove_file(Running::file())?;
    if let Some(sockets) = running.monitor.parent() {
        let _ = fs::remove_dir_all(sockets);
    }
    Ok(())
}

/// How to reach the node that `lab up` left running.
struct Running {
    ssh_port: u16,
    monitor: PathBuf,
}

impl Running {
    fn file() -> PathBuf {
        paths::lab().join("running.json")
    }

    fn save(&self) -> Result<()> {
        let text = json!({ "ssh_port": self.ssh_port, "monitor": self.monitor }).to_string();
        fs::write(Self::file(), text).context("cannot remember the running node")
    }

    fn load() -> Result<Self> {
        let text = fs::read(Self::file()).context("no node is running; cargo xtask lab up")?;
        let value: Value = serde_json::from_slice(&text)?;
        let port = value["ssh_port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        Ok(Self {
            ssh_port: port.context("running.json has no ssh_port")?,
            monitor: value["monitor"]
                .as_str()
                .context("running.json has no monitor")?
                .into(),
        })
    }
}
