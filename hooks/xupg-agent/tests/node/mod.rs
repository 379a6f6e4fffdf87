//! A guest on a real xenstored, with dom0's eyes on it, and an agent that believes it runs there.
#![allow(dead_code, reason = "every test file uses its part of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xen_store::Store;
use xenstored_lab::{Guest, XenStored};
use xupg_hooks::{Answer, Flag, Phase, RawAnswer, State, Token, keys};

pub(crate) const DOMID: u16 = 7;
/// Longer than anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Node {
    guest: Option<Guest>,
    pub(crate) dom0: Store,
    pub(crate) xenstored: XenStored,
    dir: TempDir,
    agent: Option<Child>,
}

impl Node {
    /// A node whose domU `web` has this hook; `None`: no hook.
    pub(crate) fn new(hook: Option<&str>) -> Self {
        let xenstored = XenStored::start().unwrap();
        let dom0 = Store::open_at(xenstored.socket_path()).unwrap();
        let mut node = Self {
            guest: None,
            dom0,
            xenstored,
            dir: TempDir::new().unwrap(),
            agent: None,
        };
        node.start_guest();
        if let Some(text) = hook {
            node.install(format!("#!/bin/sh\n{text}\n").as_bytes());
        }
        node
    }

    pub(crate) fn install(&self, hook: &[u8]) {
        let path = self.path("hook");
        fs::write(&path, hook).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the hook has left in a file; empty when there is none.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn start_guest(&mut self) {
        let domid = u32::from(DOMID);
        self.guest = Some(self.xenstored.guest(DOMID).unwrap());
        self.dom0
            .write(&format!("{}/name", keys::domain_path(domid)), "web")
            .unwrap();
    }

    /// xenstored dies and comes back with an empty store, the guest known to it again.
    pub(crate) fn restart_xenstored(&mut self) {
        self.xenstored.kill().unwrap();
        self.guest = None;
        self.xenstored.restart().unwrap();
        self.dom0 = Store::open_at(self.xenstored.socket_path()).unwrap();
        self.start_guest();
    }

    pub(crate) fn raise(&self, txn: &str, phase: Phase) {
        self.raise_for(txn, phase, 60);
    }

    pub(crate) fn raise_for(&self, txn: &str, phase: Phase, seconds: u64) {
        let flag = Flag {
            txn: Token::new(txn).unwrap(),
            phase,
            release: Token::new("2.0").unwrap(),
            from_release: Some(Token::new("1.0").unwrap()),
            timeout: Duration::from_secs(seconds),
        };
        self.withdraw();
        for (key, value) in flag.writes() {
            self.dom0
                .write(&keys::flag_key(DOMID.into(), key), value)
                .unwrap();
        }
    }

    pub(crate) fn withdraw(&self) {
        let phase = keys::flag_key(DOMID.into(), keys::flag::PHASE);
        if self.dom0.exists(&phase).unwrap() {
            self.dom0.remove(&phase).unwrap();
        }
    }

    pub(crate) fn agent_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xupg-agent"));
        command
            .arg("--hook")
            .arg(self.path("hook"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .env("XENSTORED_PATH", self.guest.as_ref().unwrap().socket_path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(self.agent_command().spawn().unwrap());
    }

    pub(crate) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// SIGTERM, as every init sends it.
    pub(crate) fn stop_agent(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().expect("an agent runs");
        let pid = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        agent.wait().unwrap()
    }

    pub(crate) fn answer(&self, txn: &str, phase: Phase) -> Option<Answer> {
        let raw = RawAnswer::read(|key| {
            self.dom0
                .read_optional(&keys::answer_key(DOMID.into(), key))
        });
        raw.unwrap()
            .check(&Token::new(txn).unwrap(), phase)
            .unwrap()
    }

    /// Waits for the first answer in one of `states`.
    pub(crate) fn wait_for(&self, txn: &str, phase: Phase, states: &[State]) -> Answer {
        let mut last = None;
        wait_until(&format!("{states:?}"), || {
            last = self.answer(txn, phase);
            last.as_ref()
                .is_some_and(|answer| states.contains(&answer.state))
        });
        last.unwrap()
    }

    /// Waits for the end of it.
    pub(crate) fn end(&self, txn: &str, phase: Phase) -> Answer {
        let finals: Vec<State> = State::ALL
            .into_iter()
            .filter(|state| state.is_final())
            .collect();
        self.wait_for(txn, phase, &finals)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_agent();
    }
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
