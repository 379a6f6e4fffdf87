//! What runs inside a domain to complete an upgrade there: the hook contract, the runner that
//! calls a hook, the memory of what is done, and the xenstore keys that dom0 and the agent share.
//!
//! This crate knows neither Xen's libraries nor bundles. It names xenstore paths and judges the
//! bytes found there; the caller reads and writes them.

#![forbid(unsafe_code)]

pub mod answers;
pub mod contract;
pub mod done;
pub mod flag;
pub mod keys;
mod locate;
mod orphan;
mod output;
pub mod runner;
pub mod text;

pub use answers::{Answer, AnswerError, RawAnswer, State};
pub use contract::{Facts, HOOK_PATH, Phase, Progress};
pub use done::{DoneLog, DoneLogError};
pub use flag::{Flag, FlagError};
pub use runner::{HookOutcome, HookRun};
pub use text::{Token, TokenError};
