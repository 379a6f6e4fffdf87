//! The way to xenstore, with a deadline on every call.
//!
//! `xenstore-rs` calls block for ever when xenstored dies at the wrong moment or stands still, and
//! a blocked thread cannot be interrupted. So every connection lives on a thread of its own; a call
//! that misses its deadline loses the connection, and the next call makes a new one.
//!
//! The sync form of `xenstore-rs` has no watches, and the async form's go silent when the
//! connection dies, so the agent polls. At one small read per second that costs a domU nothing.

use std::io::{self, ErrorKind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use xenstore_rs::Xs;
use xenstore_rs::unix::XsUnix;

/// A xenstored that answers at all answers in milliseconds.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// So many threads may be stuck in a call; beyond that, no new connection is tried.
const STUCK_MAX: usize = 3;

/// A call that brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// There is no way to xenstore (yet).
    #[error("cannot reach xenstore: {0}")]
    Unreachable(io::Error),
    /// No answer in time.
    #[error("xenstore does not answer")]
    Silent,
    /// xenstored, or the connection, failed the call.
    #[error("xenstore fails to {verb} {path}: {source}")]
    Failed {
        /// `read` or `write`.
        verb: &'static str,
        /// The key.
        path: String,
        /// Why.
        source: io::Error,
    },
}

enum Call {
    Read { path: String },
    Write { path: String, value: String },
}

type Answer = io::Result<String>;

struct Connection {
    calls: Sender<Call>,
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
}

/// A way to xenstore that is made when needed, and made again when lost.
#[derive(Default)]
pub(crate) struct Link {
    connection: Option<Connection>,
    stuck: Vec<JoinHandle<()>>,
    made: u64,
}

impl Link {
    /// How often a connection has been made. When it changes, xenstored may be another one, with
    /// an empty store.
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// The key's value; `None` when there is no such key. Relative paths start at the domain's own
    /// directory.
    pub(crate) fn read(&mut self, path: &str) -> Result<Option<String>, LinkError> {
        match self.call(
            "read",
            path,
            Call::Read {
                path: path.to_owned(),
            },
        ) {
            Ok(value) => Ok(Some(value)),
            Err(LinkError::Failed { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the key.
    pub(crate) fn write(&mut self, path: &str, value: &str) -> Result<(), LinkError> {
        let call = Call::Write {
            path: path.to_owned(),
            value: value.to_owned(),
        };
        self.call("write", path, call).map(drop)
    }

    fn call(&mut self, verb: &'static str, path: &str, call: Call) -> Result<String, LinkError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        // A thread that is gone shows itself in the answer.
        let _ = connection.calls.send(call);
        match connection.answers.recv_timeout(CALL_DEADLINE) {
            Ok(answer) => {
                if answer
                    .as_ref()
                    .err()
                    .is_none_or(|error| is_xenstoreds_answer(error.kind()))
                {
                    self.connection = Some(connection);
                }
                answer.map_err(|source| LinkError::Failed {
                    verb,
                    path: path.to_owned(),
                    source,
                })
            }
            Err(RecvTimeoutError::Timeout) => {
                self.stuck.push(connection.thread);
                Err(LinkError::Silent)
            }
            Err(RecvTimeoutError::Disconnected) => Err(LinkError::Silent),
        }
    }

    fn connect(&mut self) -> Result<Connection, LinkError> {
        self.stuck.retain(|thread| !thread.is_finished());
        if self.stuck.len() >= STUCK_MAX {
            return Err(LinkError::Silent);
        }
        let (calls, incoming) = channel();
        let (outgoing, answers) = channel();
        let thread = std::thread::Builder::new()
            .name("xenstore".into())
            .spawn(move || serve(&incoming, &outgoing))
            .map_err(LinkError::Unreachable)?;
        match answers.recv_timeout(CALL_DEADLINE) {
            Ok(Ok(_)) => {
                self.made += 1;
                Ok(Connection {
                    calls,
                    answers,
                    thread,
                })
            }
            Ok(Err(error)) => Err(LinkError::Unreachable(error)),
            Err(_) => {
                self.stuck.push(thread);
                Err(LinkError::Silent)
            }
        }
    }
}

/// A connection's thread: says whether it could connect, then answers calls until nobody is there
/// to make any.
fn serve(calls: &Receiver<Call>, answers: &Sender<Answer>) {
    let xenstore = match XsUnix::new() {
        Ok(xenstore) => xenstore,
        Err(error) => {
            let _ = answers.send(Err(error));
            return;
        }
    };
    if answers.send(Ok(String::new())).is_err() {
        return;
    }
    for call in calls {
        let answer = match call {
            Call::Read { path } => xenstore.read(&path).map(String::from),
            Call::Write { path, value } => xenstore.write(&path, &value).map(|()| String::new()),
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

/// The kinds that `xenstore-rs` makes of xenstored's own error answers. After any other the
/// connection may be broken or out of step.
fn is_xenstoreds_answer(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::OutOfMemory
            | ErrorKind::InvalidInput
    )
}
