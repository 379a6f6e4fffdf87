//! A hook whose caller was killed runs on by itself. Before the hook is run again, the earlier
//! run must be over: two at once is more than "idempotent" asks for.
//!
//! So the runner notes the process group in a file while the hook runs. A process id alone proves
//! nothing after a while; with the boot's id and the process's start time it does.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process_group};

/// The note: exists while the hook runs.
pub(crate) struct Note(PathBuf);

impl Note {
    /// Ends the earlier run that `path` tells of, if it still runs, and notes the run of `leader`
    /// there. A note that cannot be written is not worth failing an upgrade for.
    pub(crate) fn write(path: &Path, leader: Pid) -> Self {
        if let Some(identity) = identity(leader)
            && let Err(error) = fs::write(path, identity)
        {
            tracing::warn!(path = %path.display(), %error, "cannot note the running hook");
        }
        Self(path.to_owned())
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove the running hook's note");
        }
    }
}

/// Kills the process group of an earlier run that `path` tells of, if its leader still runs.
pub(crate) fn end_earlier_run(path: &Path) {
    let Ok(noted) = fs::read_to_string(path) else {
        return;
    };
    let leader = noted
        .split(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .filter(|pid: &i32| *pid > 1)
        .and_then(Pid::from_raw);
    if let Some(leader) = leader
        && identity(leader).as_deref() == Some(noted.as_str())
    {
        tracing::warn!(
            pid = leader.as_raw_nonzero(),
            "ending the hook's earlier run"
        );
        if let Err(error) = kill_process_group(leader, Signal::KILL) {
            tracing::warn!(%error, "cannot end it");
        }
    }
}

/// `PID START BOOT`: what names a process for good. `None` when it is gone.
fn identity(pid: Pid) -> Option<String> {
    let pid = pid.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything; the start time is the 20th field
    // after it.
    let start = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .to_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{pid} {start} {}", boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[test]
    fn an_earlier_run_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let mut child = sleeper();
        // The caller was killed: the note stays.
        std::mem::forget(Note::write(&path, Pid::from_child(&child)));
        end_earlier_run(&path);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_stranger_with_the_same_process_id_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let mut child = sleeper();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        for noted in [
            format!("{} 1 {}", child.id(), boot.trim()),
            format!("{}", child.id()),
            "x".into(),
            String::new(),
            "-1".into(),
        ] {
            fs::write(&path, noted).unwrap();
            end_earlier_run(&path);
            assert!(child.try_wait().unwrap().is_none());
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
