//! Where scenarios start: a node that has been booted once and is kept as a snapshot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::drill;
use crate::bundles::Factory;
use crate::cache::{Key, get_or_make};
use crate::nested::{BOOT, Node};
use crate::node::qemu::Accelerator;
use crate::node::state::NodeState;
use crate::{paths, progress};

/// What a scenario finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// A node of release 1.0, idle, both domUs alive.
    Base,
    /// The same with the drills' release staged.
    Staged,
}

/// Everything that scenarios have in common.
#[derive(Debug)]
pub(super) struct Stand {
    /// Makes bundles.
    pub(super) factory: Factory,
    /// The drills' release.
    pub(super) drill: PathBuf,
    disk: PathBuf,
}

impl Stand {
    /// Makes or finds bundles and the node's disk.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(super) fn set_up() -> Result<Self> {
        let factory = Factory::ensure()?;
        let disk = factory.disk(&factory.good("1.0")?)?;
        let release = drill::release(&factory)?;
        let drill = factory.bundle(&release, &drill::terms(), &factory.keys.release_signer())?;
        Ok(Self {
            factory,
            drill,
            disk,
        })
    }

    /// A copy of the node in `dir`, going on where the snapshot was taken.
    ///
    /// # Errors
    /// When the snapshot cannot be made.
    pub(super) fn node(&self, start: Start, dir: &Path) -> Result<Node> {
        let kept = match start {
            Start::Base => self.base()?,
            Start::Staged => self.staged()?,
        };
        let state = NodeState::open(&kept.join("node"))?.copy_to(dir)?;
        Node::resume(state, &self.factory, SNAPSHOT)
    }

    fn base(&self) -> Result<PathBuf> {
        let key = Key::new()
            .with("base 1")
            .with(format!("{:?}", Accelerator::choose()?))
            .with(include_str!("../node/qemu.rs"))
            .with(self.disk.as_os_str().as_encoded_bytes())
            .with_path(&self.factory.keys.ovmf_vars())?;
        get_or_make("node-base", key, |dir| {
            let vars = self.factory.keys.ovmf_vars();
            let state = NodeState::create(&dir.join("node"), &self.disk, &vars)?;
            let mut node = progress::step("first boot of the node", || {
                Node::start(state, &self.factory)
            })?;
            node.wait_for("idle", BOOT, |status| status["state"] == "idle")?;
            node.expect_release("1.0")?;
            ensure!(
                secure_boot(&node)?,
                "Secure Boot is not enforcing; nothing that follows would mean anything"
            );
            keep(node)
        })
    }

    fn staged(&self) -> Result<PathBuf> {
        let base = self.base()?;
        let key = Key::new()
            .with("staged 1")
            .with(base.as_os_str().as_encoded_bytes())
            .with(self.drill.as_os_str().as_encoded_bytes());
        get_or_make("node-staged", key, |dir| {
            let state = NodeState::open(&base.join("node"))?.copy_to(&dir.join("node"))?;
            let node = Node::resume(state, &self.factory, SNAPSHOT)?;
            node.offer(&[&self.drill])?;
            let said = node.xupg(&format!("stage {}", offered(&self.drill)?))?;
            ensure!(said.status == Some(0), "xupg stage: {said:?}");
            node.run("umount /offer")?;
            keep(node)
        })
    }
}

const SNAPSHOT: &str = "start";

/// The path in dom0 of a bundle that is offered to it.
///
/// # Errors
/// When it is no file.
pub(super) fn offered(bundle: &Path) -> Result<String> {
    let name = bundle.file_name().context("a bundle has a name")?;
    Ok(format!("/offer/{}", name.to_string_lossy()))
}

/// Saves a running node as the one snapshot of its files (an older one of that name goes), and ends
/// it.
fn keep(node: Node) -> Result<()> {
    let Node {
        mut machine,
        consoles,
    } = node;
    drop(consoles);
    progress::step("saving the node", || machine.save(SNAPSHOT))?;
    let state = machine.quit()?;
    fs::remove_file(state.offer_disk())?;
    Ok(())
}

fn secure_boot(node: &Node) -> Result<bool> {
    // Four bytes of attributes, then the value.
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let bytes = node.machine.ssh().get(variable)?;
    Ok(bytes.get(4) == Some(&1))
}

/// Where a scenario's node lives while it runs.
pub(super) fn place(scenario: &str) -> PathBuf {
    paths::lab().join("test").join(scenario)
}
