//! Watches that neither block their caller nor go silent.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::connection::open;
use crate::libxenstore::{Handle, Place};
use crate::{Error, ErrorKind, path};

/// How often an idle watcher asks whether xenstored is still there, should the connection not say.
const PROBE_EVERY: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Tells which of a [`Watcher`]'s watches has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// Watches nodes, over a connection and a thread of its own.
///
/// * The thread takes events in as they come and keeps only *which* watches have fired. A guest that
///   writes thousands of times to a watched node costs a bit, and blocks nothing.
/// * When xenstored goes away, every wait ends with [`ErrorKind::Disconnected`], for ever: make a new
///   watcher.
/// * A watch fires once when it is set, and may fire without a change: read the node.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    deadline: Duration,
}

/// A watch that is set; dropping it takes it back.
#[derive(Debug)]
#[must_use = "a watch ends when it is dropped"]
pub struct Watch {
    shared: Arc<Shared>,
    token: Token,
    path: CString,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    commands: Mutex<Sender<Command>>,
    /// Interrupts the thread's poll; readable when there are commands.
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    last_token: u64,
    /// Watches that are set; events of others are late and unwanted.
    set: BTreeSet<Token>,
    fired: BTreeSet<Token>,
    ended: Option<ErrorKind>,
}

#[derive(Debug)]
enum Command {
    Watch {
        path: CString,
        token: Token,
        reply: mpsc::SyncSender<Result<(), ErrorKind>>,
    },
    Unwatch {
        path: CString,
        token: Token,
    },
    Stop,
}

impl Watcher {
    pub(crate) fn start(place: Place, deadline: Duration) -> Result<Self, Error> {
        let failed = |kind| Error::new("start a watcher", "", kind);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed(ErrorKind::Other(errno.raw_os_error())))?;
        let (commands, inbox) = mpsc::channel();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            commands: Mutex::new(commands),
            wake,
        });
        let (reply, opened) = mpsc::sync_channel(1);
        let for_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("xenstore-watch".into())
            .spawn(move || match open(&place) {
                Ok(handle) => {
                    // The starter may have stopped waiting; `Stop` is then in the inbox.
                    let _ = reply.send(Ok(()));
                    let why = serve(&handle, &inbox, &for_thread);
                    for_thread.end(why);
                }
                Err(kind) => {
                    let _ = reply.send(Err(kind));
                }
            })
            .map_err(|error| {
                failed(ErrorKind::Other(
                    error.raw_os_error().unwrap_or(libc::EAGAIN),
                ))
            })?;
        // From here on its drop stops the thread.
        let this = Self { shared, deadline };
        match opened.recv_timeout(deadline) {
            Ok(Ok(())) => Ok(this),
            Ok(Err(kind)) => Err(failed(kind)),
            Err(_) => Err(failed(ErrorKind::Timeout)),
        }
    }

    /// Watches a node and all below it, or `@introduceDomain` or `@releaseDomain`. The node need not
    /// exist. The watch fires once at once.
    ///
    /// # Errors
    /// [`ErrorKind::BadPath`], [`ErrorKind::Quota`], and those of the connection.
    pub fn watch(&self, path: &str) -> Result<Watch, Error> {
        let failed = |kind| Error::new("watch", path, kind);
        let node = path::watchable("watch", path)?;
        let token = {
            let mut state = self.shared.lock();
            if let Some(kind) = state.ended {
                return Err(failed(kind));
            }
            state.last_token += 1;
            let token = Token(state.last_token);
            state.set.insert(token);
            token
        };
        // Made first: should the answer be late, its drop takes the watch back.
        let watch = Watch {
            shared: Arc::clone(&self.shared),
            token,
            path: node.clone(),
        };
        let (reply, answer) = mpsc::sync_channel(1);
        self.shared.command(Command::Watch {
            path: node,
            token,
            reply,
        });
        match answer.recv_timeout(self.deadline) {
            Ok(Ok(())) => Ok(watch),
            Ok(Err(kind)) => Err(failed(kind)),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(failed(ErrorKind::Timeout)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(failed(
                self.shared.lock().ended.unwrap_or(ErrorKind::Disconnected),
            )),
        }
    }

    /// Waits until a watch has fired, at most for the given time, and returns all that have fired
    /// since the last call; none when the time is over.
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`] once xenstored is gone.
    pub fn next(&self, at_most: Duration) -> Result<BTreeSet<Token>, Error> {
        let give_up = Instant::now() + at_most;
        let mut state = self.shared.lock();
        loop {
            if !state.fired.is_empty() {
                return Ok(std::mem::take(&mut state.fired));
            }
            if let Some(kind) = state.ended {
                return Err(Error::new("wait for changes", "", kind));
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(BTreeSet::new());
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.command(Command::Stop);
    }
}

impl Watch {
    /// What [`Watcher::next`] returns when this one has fired.
    pub fn token(&self) -> Token {
        self.token
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.set.remove(&self.token);
        state.fired.remove(&self.token);
        drop(state);
        self.shared.command(Command::Unwatch {
            path: std::mem::take(&mut self.path),
            token: self.token,
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked had at most set one flag too few.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the thread something to do; when it has ended, there is nothing to do.
    fn command(&self, command: Command) {
        let sent = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(command);
        if sent.is_ok() {
            // Fails only when it is set already, as often as it can be.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    fn fire(&self, token: Token) {
        let mut state = self.lock();
        if state.set.contains(&token) {
            state.fired.insert(token);
            self.changed.notify_all();
        }
    }

    fn end(&self, why: ErrorKind) {
        self.lock().ended = Some(why);
        self.changed.notify_all();
    }
}

/// The thread: takes in events and does commands until it is stopped or xenstored is gone.
fn serve(handle: &Handle, inbox: &Receiver<Command>, shared: &Shared) -> ErrorKind {
    loop {
        match wait(handle, shared) {
            Ok(Woken::Event) => {}
            Ok(Woken::Idle) => {
                if let Err(errno) = handle.probe()
                    && ErrorKind::of(errno) == ErrorKind::Disconnected
                {
                    return ErrorKind::Disconnected;
                }
            }
            Ok(Woken::Gone) => return ErrorKind::Disconnected,
            Err(errno) => return ErrorKind::of(errno),
        }
        loop {
            match handle.next_event() {
                Ok(Some(token)) => {
                    if let Some(token) = Token::parse(&token) {
                        shared.fire(token);
                    }
                }
                Ok(None) => break,
                Err(_) => return ErrorKind::Disconnected,
            }
        }
        for command in inbox.try_iter() {
            match command {
                Command::Watch { path, token, reply } => {
                    let result = handle
                        .watch(&path, &token.to_c_string())
                        .map_err(ErrorKind::of);
                    // The caller may have stopped waiting; it takes the watch back then.
                    let _ = reply.send(result);
                    if result == Err(ErrorKind::Disconnected) {
                        return ErrorKind::Disconnected;
                    }
                }
                Command::Unwatch { path, token } => {
                    if let Err(errno) = handle.unwatch(&path, &token.to_c_string()) {
                        tracing::debug!(?path, %errno, "cannot take back a watch");
                    }
                }
                Command::Stop => return ErrorKind::Disconnected,
            }
        }
    }
}

enum Woken {
    /// There are events, or commands, or both.
    Event,
    /// Nothing for a while.
    Idle,
    /// The connection has ended.
    Gone,
}

fn wait(handle: &Handle, shared: &Shared) -> Result<Woken, Errno> {
    let mut fds = [
        PollFd::from_borrowed_fd(handle.watch_fd()?, PollFlags::IN),
        PollFd::new(&shared.wake, PollFlags::IN),
    ];
    match poll(&mut fds, Some(&PROBE_EVERY)) {
        Ok(0) => return Ok(Woken::Idle),
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Woken::Event),
        Err(errno) => return Err(errno),
    }
    if fds[0]
        .revents()
        .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
    {
        return Ok(Woken::Gone);
    }
    // Reset before the inbox is read, so that no command is slept over.
    match rustix::io::read(&shared.wake, &mut [0; 8]) {
        Ok(_) | Err(Errno::AGAIN) => Ok(Woken::Event),
        Err(errno) => Err(errno),
    }
}

impl Token {
    fn to_c_string(self) -> CString {
        // Digits hold no NUL.
        CString::new(self.0.to_string()).unwrap_or_default()
    }

    fn parse(text: &CStr) -> Option<Self> {
        text.to_str().ok()?.parse().ok().map(Self)
    }
}
