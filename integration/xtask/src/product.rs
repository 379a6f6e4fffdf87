//! The product's programs, built here, and releases that carry them as a vendor would put them in.

use crate::command::{command, run};
use crate::images::release::Release;
use crate::keys::Keys;
use crate::paths;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// What the lab's nodes and bundles call themselves.
pub const COMPATIBLE: &str = "xupg-lab";

/// The programs that go into a node.
#[derive(Debug, Clone)]
pub struct Product {
    /// For dom0.
    pub xupg: PathBuf,
    /// For domUs: static.
    pub agent: PathBuf,
}

impl Product {
    /// Builds both.
    ///
    /// # Errors
    /// When cargo fails, with what it said.
    pub fn build() -> Result<Self> {
        let target = paths::target()?;
        run(&mut cargo(&["--profile", "lab", "-p", "xupg"]))?;
        // With an explicit target the flags below do not reach build scripts and procedural macros.
        let triple = "x86_64-unknown-linux-gnu";
        run(
            cargo(&["--profile", "agent", "-p", "xupg-agent", "--target", triple])
                .env("RUSTFLAGS", "-C target-feature=+crt-static"),
        )?;
        Ok(Self {
            xupg: target.join("lab/xupg"),
            agent: target.join(triple).join("agent/xupg-agent"),
        })
    }

    /// Builds the program that a hostile domU runs in the drills, static.
    ///
    /// # Errors
    /// When cargo fails.
    pub fn guest_probe(&self) -> Result<PathBuf> {
        let triple = "x86_64-unknown-linux-gnu";
        run(cargo(&[
            "--profile",
            "agent",
            "-p",
            "guest-probe",
            "--target",
            triple,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
        Ok(paths::target()?.join(triple).join("agent/guest-probe"))
    }

    /// The `xupg` command, to run on this machine.
    pub fn command(&self) -> Command {
        command(&self.xupg.to_string_lossy(), [] as [&str; 0])
    }

    /// A good release with the programs, their units and init scripts, and the lab's trust anchor in it; no hooks.
    ///
    /// # Errors
    /// When a file is not there.
    pub fn release(&self, keys: &Keys, name: &str, version: &str) -> Result<Release> {
        let system = paths::repo().join("hooks/system");
        let wants = "/etc/systemd/system/multi-user.target.wants";
        let units = [
            ("xupg-boot.service", "multi-user"),
            ("xupg-overdue.service", "emergency"),
            ("xupg-overdue.timer", "sysinit"),
        ];
        let mut release = Release::new(name, version);
        for (unit, target) in units {
            let installed = format!("/usr/lib/systemd/system/{unit}");
            let wanted = format!("/etc/systemd/system/{target}.target.wants/{unit}");
            release = release
                .with_copy("dom0", &installed, &system.join(unit), 0o644)?
                .with_link("dom0", &wanted, &installed);
        }
        Ok(release
            .with_copy("dom0", "/usr/sbin/xupg", &self.xupg, 0o755)?
            .with_copy(
                "dom0",
                "/etc/xupg/trust/release-ca.pem",
                &keys.release_ca(),
                0o644,
            )?
            .with_file("dom0", "/etc/xupg/node.json", node_json(), 0o644)
            .with_copy("web", "/usr/sbin/xupg-agent", &self.agent, 0o755)?
            .with_copy(
                "web",
                "/etc/xupg-agent.init",
                &system.join("xupg-agent.busybox"),
                0o755,
            )?
            .with_copy("db", "/usr/sbin/xupg-agent", &self.agent, 0o755)?
            .with_copy(
                "db",
                "/usr/lib/systemd/system/xupg-agent.service",
                &system.join("xupg-agent.service"),
                0o644,
            )?
            .with_link(
                "db",
                &format!("{wants}/xupg-agent.service"),
                "/usr/lib/systemd/system/xupg-agent.service",
            ))
    }
}

fn node_json() -> String {
    serde_json::json!({ "schema": 1, "compatible": COMPATIBLE }).to_string()
}

/// The same cargo that built this program.
fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut cargo = command(&cargo, ["build", "--quiet"]);
    cargo.args(arguments).current_dir(paths::repo());
    cargo
}
