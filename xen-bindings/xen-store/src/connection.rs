//! A connection with a thread of its own, so that its caller can stop waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use rustix::io::Errno;

use crate::ErrorKind;
use crate::libxenstore::{Handle, Place};

type Job = Box<dyn FnOnce(&Opened) + Send>;

/// The handle, or why there is none.
type Opened = Result<Handle, ErrorKind>;

/// The caller's end. Dropping it lets the thread end as soon as libxenstore lets go of it; with a
/// xenstored that never answers, that is never.
#[derive(Debug)]
pub(crate) struct Connection {
    jobs: Sender<Job>,
    broken: Arc<AtomicBool>,
}

impl Connection {
    /// Starts the thread, which opens the handle: a failure shows in the first call.
    pub(crate) fn start(place: Place) -> Result<Self, ErrorKind> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let broken = Arc::new(AtomicBool::new(false));
        let not_opened = Arc::clone(&broken);
        thread::Builder::new()
            .name("xenstore".into())
            .spawn(move || {
                let opened = open(&place);
                if opened.is_err() {
                    not_opened.store(true, Ordering::SeqCst);
                }
                for job in inbox {
                    job(&opened);
                }
            })
            .map_err(|error| ErrorKind::Other(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        Ok(Self { jobs, broken })
    }

    /// Whether no call on this connection can succeed any more, or none should be tried: it was
    /// never opened, it has ended, or it did not answer in time.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Makes one call on the thread and waits for it until the deadline.
    pub(crate) fn call<T, F>(&self, deadline: Instant, call: F) -> Result<T, ErrorKind>
    where
        T: Send + 'static,
        F: FnOnce(&Handle) -> Result<T, Errno> + Send + 'static,
    {
        let (reply, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |opened| {
            let result = match opened {
                Ok(handle) => call(handle).map_err(ErrorKind::of),
                Err(kind) => Err(*kind),
            };
            // Nobody waits any more when the deadline has passed.
            let _ = reply.send(result);
        });
        // When the thread is gone, so is the sender of the answer.
        let _ = self.jobs.send(job);
        let result = match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(ErrorKind::Timeout),
            Err(RecvTimeoutError::Disconnected) => Err(ErrorKind::Disconnected),
        };
        if matches!(result, Err(ErrorKind::Timeout | ErrorKind::Disconnected)) {
            self.broken.store(true, Ordering::SeqCst);
        }
        result
    }
}

pub(crate) fn open(place: &Place) -> Opened {
    Handle::open(place).map_err(|errno| {
        tracing::debug!(?place, %errno, "cannot open xenstore");
        match errno {
            Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
            // libxenstore tries the socket, then the guest's device, and reports on the latter.
            Errno::NOENT | Errno::CONNREFUSED | Errno::NODEV | Errno::NXIO => {
                ErrorKind::Unavailable
            }
            other => ErrorKind::Other(other.raw_os_error()),
        }
    })
}
