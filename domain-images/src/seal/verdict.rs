//! The first difference that ends a seal, while several threads look for one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::SealError;

/// What ends the seal.
#[derive(Debug)]
pub(super) enum Found {
    /// A difference, or what keeps us from looking for one.
    Error(SealError),
    /// A directory that has another number of entries than are listed.
    Odd(Vec<u8>),
}

/// The difference that comes first of all that were found.
pub(super) struct Verdict {
    /// The number of the list's piece it is about; beyond it there is nothing more to look for.
    rank: AtomicU64,
    found: Mutex<Option<Found>>,
}

impl Default for Verdict {
    fn default() -> Self {
        Self {
            rank: AtomicU64::new(u64::MAX),
            found: Mutex::default(),
        }
    }
}

impl Verdict {
    /// Keeps what was found in the list's piece `rank`, unless an earlier piece has something.
    /// Content has the rank 0.
    pub(super) fn fail(&self, rank: u64, what: Found) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_none() || rank < self.rank.load(Ordering::Relaxed) {
            self.rank.store(rank, Ordering::Relaxed);
            *found = Some(what);
        }
    }

    /// Whether a piece need not be looked at any more, since an earlier one differs.
    pub(super) fn is_moot(&self, rank: u64) -> bool {
        self.rank.load(Ordering::Relaxed) < rank
    }

    /// What was found, if anything was.
    pub(super) fn found(self) -> Option<Found> {
        self.found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_piece_wins_whoever_comes_first() {
        let verdict = Verdict::default();
        for (rank, dir) in [(7, b"c"), (3, b"a"), (5, b"b"), (3, b"d")] {
            verdict.fail(rank, Found::Odd(dir.to_vec()));
        }
        assert!(verdict.is_moot(4) && !verdict.is_moot(3) && !verdict.is_moot(2));
        assert!(matches!(verdict.found(), Some(Found::Odd(dir)) if dir == b"a"));
        assert!(Verdict::default().found().is_none());
    }
}
