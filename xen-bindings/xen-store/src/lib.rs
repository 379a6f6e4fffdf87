//! xenstore, safely: values, permissions, transactions and watches, each with a deadline.
//!
//! A thin layer over libxenstore for programs in dom0. What it adds:
//!
//! * **Deadlines.** libxenstore waits for ever. Here each connection has a thread of its own that
//!   makes the calls, and the caller stops waiting in time ([`ErrorKind::Timeout`]). The connection
//!   is then given up, its thread with it (it ends when libxenstore lets go of it), and the next call
//!   opens a new one.
//! * **Bytes.** A guest may write anything, so values are bytes, never text.
//! * **Watches that neither block nor go silent.** See [`Watcher`].
//! * **Errors** that say what was done to which path, and what to do about it ([`ErrorKind`]).
//!
//! ```no_run
//! # fn main() -> Result<(), xen_store::Error> {
//! let store = xen_store::Store::open()?;
//! store.write("/tool/example/state", "ready")?;
//! let watcher = store.watcher()?;
//! let answer = watcher.watch("/local/domain/3/data/answer")?;
//! while !watcher.next(std::time::Duration::from_secs(60))?.contains(&answer.token()) {}
//! # Ok(()) }
//! ```

mod connection;
mod error;
mod libxenstore;
mod path;
mod permissions;
mod store;
mod transaction;
mod watcher;

pub use error::{Error, ErrorKind};
pub use permissions::{Access, Permissions};
pub use store::{DEFAULT_DEADLINE, Store, VALUE_MAX};
pub use transaction::Transaction;
pub use watcher::{Token, Watch, Watcher};
