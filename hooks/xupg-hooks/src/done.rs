//! What is done, by transaction and phase: so that a hook that has completed is not run again
//! after a reboot or a restart, and one that was cut short is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::contract::Phase;
use crate::text::Token;

/// Where the agent keeps it in a domU.
pub const AGENT_DIR: &str = "/var/lib/xupg-agent";

/// So many entries are kept. Only the latest transactions can be asked for again.
const ENTRIES_MAX: usize = 32;

/// The memory: a small text file, one `TXN PHASE` per line, the latest last.
#[derive(Debug)]
pub struct DoneLog {
    dir: PathBuf,
    entries: Vec<(Token, Phase)>,
}

/// The memory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}", path = path.display())]
pub struct DoneLogError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DoneLog {
    /// Opens the memory in `dir`, which is made if need be. Lines that make no sense are ignored:
    /// at worst a hook runs twice, which it must be able to.
    ///
    /// # Errors
    /// The directory cannot be made, or the file cannot be read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, DoneLogError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|source| DoneLogError {
            action: "make",
            path: dir.clone(),
            source,
        })?;
        let path = dir.join("done");
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(DoneLogError {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let entries = text
            .lines()
            .filter_map(|line| {
                let (txn, phase) = line.split_once(' ')?;
                Some((Token::new(txn).ok()?, Phase::from_name(phase)?))
            })
            .collect();
        Ok(Self { dir, entries })
    }

    /// The directory that it lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the hook has completed for this transaction and phase.
    pub fn is_done(&self, txn: &Token, phase: Phase) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.0 == *txn && entry.1 == phase)
    }

    /// Remembers that it has. When this returns, a power cut can no longer undo it; cut short, the
    /// old memory is still whole.
    ///
    /// # Errors
    /// The file could not be written; it is then remembered in this process only.
    pub fn record(&mut self, txn: &Token, phase: Phase) -> Result<(), DoneLogError> {
        if self.is_done(txn, phase) {
            return Ok(());
        }
        self.entries.push((txn.clone(), phase));
        let excess = self.entries.len().saturating_sub(ENTRIES_MAX);
        self.entries.drain(..excess);
        let text: String = self
            .entries
            .iter()
            .map(|(txn, phase)| format!("{txn} {phase}\n"))
            .collect();
        write_durably(&self.dir, "done", text.as_bytes()).map_err(|source| DoneLogError {
            action: "write",
            path: self.dir.join("done"),
            source,
        })
    }
}

/// Replaces `dir/name` by `bytes` as a whole, and waits until that is on the disk.
fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(name))?;
    // The rename itself is only durable once the directory is.
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text).unwrap()
    }

    #[test]
    fn what_is_recorded_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/on/demand");
        let mut log = DoneLog::open(&dir).unwrap();
        log.record(&token("t1"), Phase::Boot).unwrap();
        let log = DoneLog::open(&dir).unwrap();
        assert!(log.is_done(&token("t1"), Phase::Boot));
        assert!(!log.is_done(&token("t1"), Phase::Rollback));
        assert!(!log.is_done(&token("t2"), Phase::Boot));
    }

    #[test]
    fn a_draft_left_by_a_power_cut_and_garbage_are_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("done.new"), "t1 boot\n").unwrap();
        fs::write(
            dir.path().join("done"),
            b"t2 bo\nt3\n\xff\xfe boot\n\0\nt4 boot\n",
        )
        .unwrap();
        let log = DoneLog::open(dir.path()).unwrap();
        let known: Vec<_> = ["t1", "t2", "t3", "t4"]
            .into_iter()
            .filter(|txn| log.is_done(&token(txn), Phase::Boot))
            .collect();
        assert_eq!(known, ["t4"]);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = DoneLog::open(dir.path()).unwrap();
        for number in 0..100 {
            log.record(&token(&format!("t{number}")), Phase::Boot)
                .unwrap();
        }
        let log = DoneLog::open(dir.path()).unwrap();
        assert_eq!(log.entries.len(), ENTRIES_MAX);
        assert!(log.is_done(&token("t99"), Phase::Boot));
    }

    #[test]
    fn a_memory_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DoneLog::open(file.join("below")).unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
