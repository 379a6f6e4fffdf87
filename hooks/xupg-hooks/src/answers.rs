//! The agent's answers. dom0 reads them as hostile bytes: a guest may write anything at any time.

use crate::contract::{Phase, Progress};
use crate::keys::answer as key;
use crate::text::{Token, printable};

/// A value longer than this is refused unread.
pub const VALUE_MAX: usize = 256;

/// What a domU says about its hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The hook runs.
    Running,
    /// The hook is done, now or earlier in this transaction and phase.
    Done,
    /// This domU has no hook, so there is nothing to do: as good as done.
    None,
    /// The hook refuses.
    Refused,
    /// The hook wants to be asked again; the agent will do so until the flag's time is over.
    Retry,
    /// The hook failed, or did not end in time.
    Failed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Running,
        Self::Done,
        Self::None,
        Self::Refused,
        Self::Retry,
        Self::Failed,
    ];

    /// The word in xenstore.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::None => "none",
            Self::Refused => "refused",
            Self::Retry => "retry",
            Self::Failed => "failed",
        }
    }

    /// The state of that exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The domU has nothing left to do and nothing against the upgrade.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Done | Self::None)
    }

    /// No other state follows by itself.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Running | Self::Retry)
    }
}

/// An answer: written by the agent with [`Answer::writes`], understood by dom0 with
/// [`RawAnswer::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How the hook is doing.
    pub state: State,
    /// The hook's progress and message, or why it failed or refused.
    pub progress: Progress,
}

impl Answer {
    /// The keys in the order in which the agent has to write them when it takes up `txn` and
    /// `phase`; see [`crate::keys`]. Later answers to the same may leave out what has not changed,
    /// but keep the order, so that whoever sees a final state sees its message too.
    pub fn writes(&self, txn: &Token, phase: Phase) -> Vec<(&'static str, String)> {
        vec![
            (key::STATE, String::new()),
            (key::PROGRESS, self.progress.percent.to_string()),
            (key::MESSAGE, self.progress.message.clone()),
            (key::TXN, txn.to_string()),
            (key::PHASE, phase.as_str().to_owned()),
            (key::STATE, self.state.as_str().to_owned()),
        ]
    }
}

/// The bytes found at the answer's keys, `None` where there is no such key. To be read in the
/// order of [`crate::keys::ANSWER_READ_ORDER`], which is that of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawAnswer {
    /// Which transaction is answered.
    pub txn: Option<Vec<u8>>,
    /// Which phase is answered.
    pub phase: Option<Vec<u8>>,
    /// A word of [`State`].
    pub state: Option<Vec<u8>>,
    /// 0 to 100.
    pub progress: Option<Vec<u8>>,
    /// Free text.
    pub message: Option<Vec<u8>>,
}

/// A value breaks the grammar. An agent does not do that; a guest that does is broken or hostile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The value is longer than [`VALUE_MAX`].
    #[error("the guest's `{key}` is {length} bytes long, {VALUE_MAX} are allowed")]
    TooLong {
        /// The key's name.
        key: &'static str,
        /// Bytes found.
        length: usize,
    },
    /// The value is not one of those allowed.
    #[error("the guest's `{key}` is malformed: `{shown}`")]
    Malformed {
        /// The key's name.
        key: &'static str,
        /// The value, made printable and short.
        shown: String,
    },
}

impl RawAnswer {
    /// Reads the answer's keys in the right order. `read` is given the key's name (see
    /// [`crate::keys::answer_key`]) and returns its bytes, or `None` when there is no such key.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read<E>(
        mut read: impl FnMut(&'static str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            txn: read(key::TXN)?,
            phase: read(key::PHASE)?,
            state: read(key::STATE)?,
            progress: read(key::PROGRESS)?,
            message: read(key::MESSAGE)?,
        })
    }

    /// The answer to the flag with `txn` and `phase`: `None` while there is none, or one to
    /// another flag. What it holds is printable ASCII.
    ///
    /// # Errors
    /// [`AnswerError`] when a value breaks the grammar. It says nothing about the hook: the agent
    /// (or whoever wrote it) may still write a good answer later.
    pub fn check(&self, txn: &Token, phase: Phase) -> Result<Option<Answer>, AnswerError> {
        let (Some(told_txn), Some(told_phase), Some(state)) = (
            bounded(key::TXN, &self.txn)?,
            bounded(key::PHASE, &self.phase)?,
            bounded(key::STATE, &self.state)?,
        ) else {
            return Ok(None);
        };
        // Emptied by the agent while it takes up another flag.
        if told_txn != txn.as_str().as_bytes()
            || told_phase != phase.as_str().as_bytes()
            || state.is_empty()
        {
            return Ok(None);
        }
        let state = std::str::from_utf8(state)
            .ok()
            .and_then(State::from_name)
            .ok_or_else(|| malformed(key::STATE, state))?;
        let percent = match bounded(key::PROGRESS, &self.progress)? {
            Some(bytes) => percent(bytes).ok_or_else(|| malformed(key::PROGRESS, bytes))?,
            None => 0,
        };
        let message = printable(bounded(key::MESSAGE, &self.message)?.unwrap_or_default());
        Ok(Some(Answer {
            state,
            progress: Progress { percent, message },
        }))
    }
}

fn bounded<'a>(
    key: &'static str,
    value: &'a Option<Vec<u8>>,
) -> Result<Option<&'a [u8]>, AnswerError> {
    match value {
        Some(bytes) if bytes.len() > VALUE_MAX => Err(AnswerError::TooLong {
            key,
            length: bytes.len(),
        }),
        other => Ok(other.as_deref()),
    }
}

fn malformed(key: &'static str, bytes: &[u8]) -> AnswerError {
    AnswerError::Malformed {
        key,
        shown: printable(bytes),
    }
}

/// `0` to `100`, without sign or leading zeros.
fn percent(bytes: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: u8 = text.parse().ok()?;
    (number <= 100 && number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    fn token(text: &str) -> Token {
        Token::new(text).unwrap()
    }

    fn raw(store: &BTreeMap<&str, Vec<u8>>) -> RawAnswer {
        RawAnswer::read(|key| Ok::<_, Infallible>(store.get(key).cloned())).unwrap()
    }

    fn answer(state: State) -> Answer {
        Answer {
            state,
            progress: Progress {
                percent: 7,
                message: "at it".into(),
            },
        }
    }

    fn stored(answer: &Answer, txn: &str, phase: Phase) -> BTreeMap<&'static str, Vec<u8>> {
        let writes = answer.writes(&token(txn), phase).into_iter();
        writes
            .map(|(key, value)| (key, value.into_bytes()))
            .collect()
    }

    #[test]
    fn what_the_agent_writes_dom0_understands() {
        for state in State::ALL {
            let store = stored(&answer(state), "t1", Phase::Boot);
            assert_eq!(
                raw(&store).check(&token("t1"), Phase::Boot),
                Ok(Some(answer(state)))
            );
        }
    }

    #[test]
    fn an_answer_to_another_flag_is_no_answer() {
        let raw = raw(&stored(&answer(State::Done), "t1", Phase::Quiesce));
        assert_eq!(raw.check(&token("t2"), Phase::Quiesce), Ok(None));
        assert_eq!(raw.check(&token("t1"), Phase::Boot), Ok(None));
        assert_eq!(
            RawAnswer::default().check(&token("t1"), Phase::Boot),
            Ok(None)
        );
    }

    #[test]
    fn a_value_outside_the_grammar_is_named() {
        for (key, value) in [
            ("state", b"DONE".to_vec()),
            ("state", b"done\n".to_vec()),
            ("progress", b"101".to_vec()),
            ("progress", b"+5".to_vec()),
            ("progress", b"".to_vec()),
            ("message", vec![b'a'; VALUE_MAX + 1]),
            ("txn", vec![0xff; 2000]),
        ] {
            let mut store = stored(&answer(State::Done), "t1", Phase::Boot);
            store.insert(key, value);
            let error = raw(&store).check(&token("t1"), Phase::Boot).unwrap_err();
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_neither_panic_nor_get_through(
            state in prop_oneof![Just(b"failed".to_vec()), prop::collection::vec(any::<u8>(), 0..300)],
            progress in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
            message in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        ) {
            let raw = RawAnswer {
                txn: Some(b"t1".to_vec()), phase: Some(b"boot".to_vec()),
                state: Some(state), progress, message,
            };
            let shown = match raw.check(&token("t1"), Phase::Boot) {
                Ok(Some(answer)) => {
                    prop_assert!(answer.progress.percent <= 100);
                    answer.progress.message
                }
                Ok(None) => String::new(),
                Err(error) => error.to_string(),
            };
            prop_assert!(shown.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        }

        /// The agent takes up a new flag while dom0 reads, in any interleaving: the old answer is
        /// never taken for one to the new flag.
        #[test]
        fn a_stale_done_is_never_taken_for_the_new_flag(steps in prop::collection::vec(0usize..4, 5)) {
            let mut store = stored(&answer(State::Done), "t1", Phase::Quiesce);
            let mut todo = answer(State::Running).writes(&token("t1"), Phase::Boot).into_iter();
            let mut pace = steps.into_iter();
            let raw = RawAnswer::read(|key| {
                for (key, value) in todo.by_ref().take(pace.next().unwrap_or(0)) {
                    store.insert(key, value.into_bytes());
                }
                Ok::<_, Infallible>(store.get(key).cloned())
            }).unwrap();
            let state = raw.check(&token("t1"), Phase::Boot).unwrap().map(|answer| answer.state);
            prop_assert!(matches!(state, None | Some(State::Running)), "{:?}", state);
        }
    }
}
