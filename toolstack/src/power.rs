//! The node's power: an orderly reboot through its init.

use std::process::Command;

use crate::error::{Error, OrFailed, Result};
use crate::node::Node;
use crate::ports::Power;

/// Reboots with the node's own `reboot`.
#[derive(Debug)]
pub struct InitPower {
    node: Node,
}

impl InitPower {
    /// The power of `node`; for a folder it is `sbin/reboot` inside it, so that a test can see
    /// that it was asked.
    pub fn of(node: &Node) -> Self {
        Self { node: node.clone() }
    }
}

impl InitPower {
    /// Whether the system is on its way down already, by anybody's order.
    pub fn is_going_down(&self) -> bool {
        // systemd's word for it; another init is taken to be up.
        Command::new(self.node.path("/usr/bin/systemctl"))
            .arg("is-system-running")
            .output()
            .is_ok_and(|output| output.stdout.trim_ascii() == b"stopping")
    }
}

impl Power for InitPower {
    fn reboot(&mut self) -> Result<()> {
        rustix::fs::sync();
        let program = self.node.path("/sbin/reboot");
        let status = Command::new(&program)
            .status()
            .or_failed(|| format!("running {}", program.display()))?;
        if status.success() {
            Ok(())
        } else {
            Err(
                Error::failed(format!("{} ended with {status}", program.display()))
                    .doing("rebooting")
                    .hint("reboot the node by hand: everything is in place"),
            )
        }
    }
}
