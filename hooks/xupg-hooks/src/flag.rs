//! The flag: how dom0 tells a domU that an upgrade concerns it.

use std::time::Duration;

use crate::contract::{DEFAULT_TIMEOUT, Facts, Phase};
use crate::keys::flag as key;
use crate::text::Token;

/// The longest time a flag can give a hook: a day. More is taken for a mistake.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What dom0 writes under [`crate::keys::flag_dir`] and the agent reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The upgrade's transaction.
    pub txn: Token,
    /// Why the hook is called: [`Phase::Quiesce`], [`Phase::Boot`] or [`Phase::Rollback`].
    pub phase: Phase,
    /// The release that the node is going to.
    pub release: Token,
    /// The release that it comes from, when known.
    pub from_release: Option<Token>,
    /// How long the agent may try, calls that ended in "retry later" included.
    pub timeout: Duration,
}

/// Why the values under the flag's directory are no flag that can be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// A value does not follow the grammar.
    #[error("the flag's `{key}` is missing or malformed")]
    Malformed {
        /// The key's name.
        key: &'static str,
    },
}

impl Flag {
    /// The keys in the order in which dom0 has to write them, `phase` last; see
    /// [`crate::keys`]. Where a flag may already stand, `phase` must be removed first.
    pub fn writes(&self) -> Vec<(&'static str, String)> {
        let mut writes = vec![
            (key::RELEASE, self.release.to_string()),
            (
                key::FROM,
                self.from_release
                    .as_ref()
                    .map(Token::to_string)
                    .unwrap_or_default(),
            ),
            (key::TIMEOUT, self.timeout.as_secs().to_string()),
        ];
        writes.push((key::TXN, self.txn.to_string()));
        writes.push((key::PHASE, self.phase.as_str().to_owned()));
        writes
    }

    /// Reads a flag: `read` returns a key's value, or `None` when there is no such key. Keys are
    /// read in the order of [`crate::keys`]; `Ok(None)` when there is no (whole) flag.
    ///
    /// # Errors
    /// Outer: those of `read`. Inner: a flag is there, but it cannot be understood.
    pub fn read<E>(
        mut read: impl FnMut(&'static str) -> Result<Option<String>, E>,
    ) -> Result<Result<Option<Self>, FlagError>, E> {
        let Some(txn) = read(key::TXN)? else {
            return Ok(Ok(None));
        };
        let release = read(key::RELEASE)?;
        let from = read(key::FROM)?.filter(|value| !value.is_empty());
        let timeout = read(key::TIMEOUT)?.filter(|value| !value.is_empty());
        let Some(phase) = read(key::PHASE)? else {
            return Ok(Ok(None));
        };
        if read(key::TXN)?.as_ref() != Some(&txn) {
            return Ok(Ok(None));
        }
        let parts = Parts {
            txn,
            release,
            from,
            timeout,
            phase,
        };
        Ok(parts.check().map(Some))
    }

    /// The facts for the hook of the domU called `domain`.
    pub fn facts(&self, domain: &str) -> Facts {
        Facts {
            phase: self.phase,
            domain: domain.to_owned(),
            txn: self.txn.clone(),
            release: self.release.clone(),
            from_release: self.from_release.clone(),
            slot: None,
            root: None,
        }
    }
}

/// The values as read, before they are checked.
struct Parts {
    txn: String,
    release: Option<String>,
    from: Option<String>,
    timeout: Option<String>,
    phase: String,
}

impl Parts {
    fn check(self) -> Result<Flag, FlagError> {
        let malformed = |key| FlagError::Malformed { key };
        let seconds = self
            .timeout
            .map(|text| text.parse().map_err(|_| malformed(key::TIMEOUT)));
        let timeout = seconds
            .transpose()?
            .map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        if timeout > TIMEOUT_MAX {
            return Err(malformed(key::TIMEOUT));
        }
        Ok(Flag {
            txn: Token::new(self.txn).map_err(|_| malformed(key::TXN))?,
            phase: Phase::from_name(&self.phase)
                // `stage` is dom0's alone: a domU is not running while its new system is written.
                .filter(|phase| *phase != Phase::Stage)
                .ok_or_else(|| malformed(key::PHASE))?,
            release: Token::new(self.release.unwrap_or_default())
                .map_err(|_| malformed(key::RELEASE))?,
            from_release: self
                .from
                .map(|text| Token::new(text).map_err(|_| malformed(key::FROM)))
                .transpose()?,
            timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    fn flag(txn: &str, phase: Phase, release: &str) -> Flag {
        Flag {
            txn: Token::new(txn).unwrap(),
            phase,
            release: Token::new(release).unwrap(),
            from_release: None,
            timeout: Duration::from_secs(30),
        }
    }

    fn read(store: &BTreeMap<&str, String>) -> Result<Option<Flag>, FlagError> {
        Flag::read(|key| Ok::<_, Infallible>(store.get(key).cloned())).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut sent = flag("t1", Phase::Boot, "2.0");
        sent.from_release = Some(Token::new("1.0").unwrap());
        assert_eq!(read(&sent.writes().into_iter().collect()), Ok(Some(sent)));
    }

    #[test]
    fn only_txn_release_and_phase_are_needed() {
        let mut store: BTreeMap<&str, String> = [
            ("txn", "t1".into()),
            ("release", "2.0".into()),
            ("phase", "boot".into()),
        ]
        .into();
        let flag = read(&store).unwrap().unwrap();
        assert_eq!(flag.timeout, DEFAULT_TIMEOUT);
        store.insert("phase", "stage".into());
        assert_eq!(read(&store), Err(FlagError::Malformed { key: "phase" }));
        store.remove("phase");
        assert_eq!(read(&store), Ok(None));
    }

    proptest! {
        /// dom0 replaces one flag by another while the agent reads, in any interleaving: the agent
        /// sees the old one, the new one or none, never a mixture.
        #[test]
        fn a_torn_flag_is_never_followed(steps in prop::collection::vec(0usize..4, 7)) {
            let (old, new) = (flag("t1", Phase::Boot, "2.0"), flag("t2", Phase::Quiesce, "3.0"));
            let store: RefCell<BTreeMap<&str, String>> = RefCell::new(old.writes().into_iter().collect());
            let mut todo = std::iter::once((key::PHASE, None))
                .chain(new.writes().into_iter().map(|(key, value)| (key, Some(value))));
            let mut pace = steps.into_iter();
            let seen = Flag::read(|key| {
                for (key, value) in todo.by_ref().take(pace.next().unwrap_or(0)) {
                    match value {
                        Some(value) => store.borrow_mut().insert(key, value),
                        None => store.borrow_mut().remove(key),
                    };
                }
                Ok::<_, Infallible>(store.borrow().get(key).cloned())
            });
            let seen = seen.unwrap();
            prop_assert!(
                seen == Ok(None) || seen == Ok(Some(old)) || seen == Ok(Some(new)),
                "{:?}", seen
            );
        }
    }
}
