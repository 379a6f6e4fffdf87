//! The thread that owns libxl.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::libxl::{Code, Context, DeathWatch, Event, EventId, Happened};
use crate::{End, Reason};

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// Why the thread gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Not in time.
    Late,
    /// The thread has ended.
    Ended,
}

/// The callers' end.
#[derive(Debug)]
pub(crate) struct Worker {
    jobs: Option<Sender<Job>>,
    /// Interrupts the thread's poll.
    wake: Arc<OwnedFd>,
    broken: Arc<AtomicBool>,
}

/// What the thread works with.
pub(crate) struct Engine {
    pub(crate) libxl: Context,
    waiting: HashMap<EventId, Waiting>,
    last_id: EventId,
}

enum Waiting {
    /// For an operation to complete.
    Operation(SyncSender<Result<(), Code>>),
    /// For a domain to end.
    End {
        watch: DeathWatch,
        stopped: Option<Reason>,
        progress: Sender<End>,
    },
}

impl Worker {
    /// Starts the thread and opens libxl on it.
    pub(crate) fn start(deadline: Duration) -> Result<Self, StartError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| StartError::Io(errno.into()))?;
        let wake = Arc::new(wake);
        let (jobs, inbox) = mpsc::channel();
        let broken = Arc::new(AtomicBool::new(false));
        let (reply, opened) = mpsc::sync_channel(1);
        let (its_wake, its_broken) = (Arc::clone(&wake), Arc::clone(&broken));
        thread::Builder::new()
            .name("libxl".into())
            .spawn(move || {
                match Context::open() {
                    Ok(libxl) => {
                        // A starter that has stopped waiting has dropped the jobs' end too.
                        let _ = reply.send(Ok(()));
                        Engine::new(libxl).run(&inbox, &its_wake);
                    }
                    Err(code) => {
                        let _ = reply.send(Err(code));
                    }
                }
                its_broken.store(true, Ordering::SeqCst);
            })
            .map_err(StartError::Io)?;
        match opened.recv_timeout(deadline) {
            Ok(Ok(())) => Ok(Self {
                jobs: Some(jobs),
                wake,
                broken,
            }),
            Ok(Err(code)) => Err(StartError::Libxl(code)),
            Err(RecvTimeoutError::Timeout) => Err(StartError::Late),
            Err(RecvTimeoutError::Disconnected) => Err(StartError::Ended),
        }
    }

    /// Whether the thread has ended, or did not answer a call that never takes long.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Does something on the thread and waits for the result. A thread that is late is given up.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.post(Box::new(move |engine| {
            let _ = reply.send(call(engine));
        }));
        answer.recv_timeout(deadline).map_err(|error| {
            self.broken.store(true, Ordering::SeqCst);
            match error {
                RecvTimeoutError::Timeout => NoAnswer::Late,
                RecvTimeoutError::Disconnected => NoAnswer::Ended,
            }
        })
    }

    /// Gives the thread something to do.
    pub(crate) fn post(&self, job: Job) {
        if let Some(jobs) = &self.jobs
            // Refused only when the thread has ended: whoever waits for the job sees that.
            && jobs.send(job).is_ok()
        {
            self.interrupt();
        }
    }

    fn interrupt(&self) {
        // Fails only when it is set already, as often as it can be.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// Why there is no thread.
#[derive(Debug)]
pub(crate) enum StartError {
    Libxl(Code),
    Late,
    Ended,
    Io(std::io::Error),
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread ends when it sees that nobody can ask any more.
        self.jobs = None;
        self.interrupt();
    }
}

impl Engine {
    fn new(libxl: Context) -> Self {
        Self {
            libxl,
            waiting: HashMap::new(),
            last_id: 0,
        }
    }

    /// Starts a libxl operation whose completion is reported to the receiver.
    pub(crate) fn start(
        &mut self,
        start: impl FnOnce(&Context, EventId) -> Result<(), Code>,
        reply: SyncSender<Result<(), Code>>,
    ) -> EventId {
        let id = self.new_id();
        match start(&self.libxl, id) {
            Ok(()) => {
                self.waiting.insert(id, Waiting::Operation(reply));
            }
            Err(code) => {
                // Nobody waits any more when the deadline has passed.
                let _ = reply.send(Err(code));
            }
        }
        id
    }

    /// Reports a domain's end step by step to the receiver.
    pub(crate) fn watch_end(&mut self, domid: u32, progress: Sender<End>) -> Result<EventId, Code> {
        let id = self.new_id();
        let watch = self.libxl.watch_death(domid, id)?;
        self.waiting.insert(
            id,
            Waiting::End {
                watch,
                stopped: None,
                progress,
            },
        );
        Ok(id)
    }

    /// Nobody waits for this any more.
    pub(crate) fn forget(&mut self, id: EventId) {
        match self.waiting.remove(&id) {
            Some(Waiting::Operation(_)) => self.libxl.abort(id),
            Some(Waiting::End { watch, .. }) => self.libxl.unwatch_death(watch),
            None => {}
        }
    }

    fn new_id(&mut self) -> EventId {
        self.last_id += 1;
        self.last_id
    }

    fn run(mut self, inbox: &Receiver<Job>, wake: &OwnedFd) {
        while !self.libxl.is_broken() {
            if let Err(code) = self.libxl.poll(wake.as_fd()) {
                tracing::error!(reason = code.name(), "libxl can not wait for events");
                return;
            }
            // Reset before the inbox is read, so that no job is slept over.
            let _ = rustix::io::read(wake, &mut [0; 8]);
            loop {
                match inbox.try_recv() {
                    Ok(job) => job(&mut self),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            loop {
                match self.libxl.next_event() {
                    Ok(Some(event)) => self.handle(event),
                    Ok(None) => break,
                    Err(code) => {
                        tracing::error!(reason = code.name(), "libxl can not give events");
                        return;
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match (self.waiting.get_mut(&event.id), event.what) {
            (Some(Waiting::Operation(reply)), Happened::Completed(result)) => {
                let _ = reply.send(result);
                self.waiting.remove(&event.id);
            }
            (
                Some(Waiting::End {
                    stopped, progress, ..
                }),
                Happened::Stopped(reason),
            ) => {
                *stopped = Some(reason);
                let _ = progress.send(End::Stopped(reason));
            }
            (
                Some(Waiting::End {
                    stopped, progress, ..
                }),
                Happened::Gone,
            ) => {
                let _ = progress.send(End::Gone(*stopped));
                self.forget(event.id);
            }
            // Of something that was forgotten meanwhile.
            _ => tracing::trace!(?event, "an event for nobody"),
        }
    }
}
