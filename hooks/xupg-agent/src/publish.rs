//! Puts the agent's answer into xenstore, from a thread of its own: a hook's deadline must not
//! wait for xenstored.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use xupg_hooks::keys::{ANSWER_DIR, answer as key};
use xupg_hooks::{Answer, Phase, Token};

use crate::link::{Link, LinkError};

/// xenstore is written at most this often; in between only the latest answer counts.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);
/// After a failure, so long until the next attempt.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// An answer and what it is one to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addressed {
    pub(crate) txn: Token,
    pub(crate) phase: Phase,
    pub(crate) answer: Answer,
}

#[derive(Default)]
struct Board {
    wanted: Option<Addressed>,
    /// What xenstore holds, as far as known.
    published: Option<Addressed>,
    /// Counts the times that what xenstore holds became unknown.
    epoch: u64,
}

/// The answer that dom0 is to see.
#[derive(Clone, Default)]
pub(crate) struct Publisher(Arc<(Mutex<Board>, Condvar)>);

impl Publisher {
    /// Starts the thread that publishes.
    pub(crate) fn start() -> std::io::Result<Self> {
        let publisher = Self::default();
        let publishing = publisher.clone();
        std::thread::Builder::new()
            .name("publish".into())
            .spawn(move || publishing.publish())?;
        Ok(publisher)
    }

    /// Replaces the answer. Returns at once.
    pub(crate) fn set(&self, wanted: Addressed) {
        self.board().wanted = Some(wanted);
        self.0.1.notify_all();
    }

    /// xenstore may have forgotten everything: publish the answer again.
    pub(crate) fn afresh(&self) {
        let mut board = self.board();
        board.published = None;
        board.epoch += 1;
        drop(board);
        self.0.1.notify_all();
    }

    /// Waits until the answer is in xenstore; false when it is not within `patience`.
    pub(crate) fn settle(&self, patience: Duration) -> bool {
        let waiting = self
            .0
            .1
            .wait_timeout_while(self.board(), patience, |board| {
                board.wanted != board.published
            });
        !waiting
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .timed_out()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // The board is whole at every moment, so another thread's panic does not spoil it.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self) {
        let mut link = Link::default();
        let mut failing = false;
        loop {
            let board = self
                .0
                .1
                .wait_while(self.board(), |board| board.wanted == board.published)
                .unwrap_or_else(PoisonError::into_inner);
            let (wanted, before) = (board.wanted.clone(), board.published.clone());
            let epoch = board.epoch;
            drop(board);
            let Some(wanted) = wanted else { continue };

            let started = Instant::now();
            match write(&mut link, &wanted, before.as_ref()) {
                Ok(()) => {
                    let mut board = self.board();
                    // Unless `afresh` was called meanwhile: then it goes round again.
                    if board.epoch == epoch {
                        board.published = Some(wanted);
                    }
                    drop(board);
                    self.0.1.notify_all();
                    failing = false;
                    std::thread::sleep(PUBLISH_EVERY.saturating_sub(started.elapsed()));
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("cannot answer yet: {error}");
                    }
                    // Some of it may have been written.
                    self.board().published = None;
                    std::thread::sleep(TRY_AGAIN);
                }
            }
        }
    }
}

/// Writes `wanted` in the order that the protocol asks for, leaving out what is there already.
fn write(link: &mut Link, wanted: &Addressed, before: Option<&Addressed>) -> Result<(), LinkError> {
    let taken_up = before.filter(|old| old.txn == wanted.txn && old.phase == wanted.phase);
    for (name, value) in wanted.answer.writes(&wanted.txn, wanted.phase) {
        let there = taken_up.is_some_and(|old| match name {
            // The emptying of the state belongs to taking up a flag only.
            key::STATE => value.is_empty() || old.answer.state == wanted.answer.state,
            key::PROGRESS => old.answer.progress.percent == wanted.answer.progress.percent,
            key::MESSAGE => old.answer.progress.message == wanted.answer.progress.message,
            _ => true,
        });
        if !there {
            link.write(&format!("{ANSWER_DIR}/{name}"), &value)?;
        }
    }
    Ok(())
}
