//! Runs a hook: with a deadline, in its own process group, in bounded memory.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::contract::{
    EXIT_DONE, EXIT_REFUSED, EXIT_RETRY_LATER, Facts, HOOK_PATH, PATH_VARIABLE, Progress,
};
use crate::locate::{Located, locate};
use crate::orphan::{Note, end_earlier_run};
use crate::output::{Lines, Tail};
use crate::text::printable;

/// After SIGTERM, so long until SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// After SIGKILL, so long until the runner gives up waiting (a process stuck in the kernel).
const REAP: Duration = Duration::from_secs(5);
/// How often `cancel` is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Progress is reported at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// One call of a hook.
#[derive(Debug)]
pub struct HookRun<'a> {
    /// The hook, as seen inside `root`.
    pub hook: &'a Path,
    /// Run inside this root, by `chroot(8)`; needs root. The caller mounts `/proc`, `/sys` and
    /// `/dev` there. `None`: in the running system.
    pub root: Option<&'a Path>,
    /// What the hook is told.
    pub facts: &'a Facts,
    /// How long it may run. Then its whole process group gets SIGTERM, and SIGKILL 5 s later.
    pub timeout: Duration,
    /// Ends the run early, as the deadline would, when it becomes true.
    pub cancel: Option<&'a AtomicBool>,
    /// A file that notes the run while it lasts. If it tells of an earlier run whose caller was
    /// killed, that is ended first.
    pub note: Option<PathBuf>,
}

/// How a call of a hook ended. Messages are one line of printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOutcome {
    /// Exit code 0.
    Done,
    /// There is no hook, so there is nothing to do.
    NoHook,
    /// [`EXIT_REFUSED`], with the hook's reason.
    Refused(String),
    /// [`EXIT_RETRY_LATER`], with the hook's reason.
    RetryLater(String),
    /// Any other end, or no start.
    Failed(String),
    /// It was still running at the deadline and has been killed.
    TimedOut,
    /// It was still running when `cancel` was set and has been killed.
    Cancelled,
}

impl<'a> HookRun<'a> {
    /// A call of the hook at [`HOOK_PATH`] in the running system.
    pub fn new(facts: &'a Facts, timeout: Duration) -> Self {
        Self {
            hook: Path::new(HOOK_PATH),
            root: None,
            facts,
            timeout,
            cancel: None,
            note: None,
        }
    }

    /// Runs the hook to its end. `on_progress` gets its progress, at most four times a second and
    /// the last one always; it must not block for long, for it delays the deadline.
    ///
    /// Everything that goes wrong with the hook is an outcome. Processes that a hook which ended in
    /// time has left behind are not touched, but their stdout and stderr are closed.
    pub fn run(&self, mut on_progress: impl FnMut(&Progress)) -> HookOutcome {
        match locate(self.root, self.hook) {
            Located::Executable => {}
            Located::Missing => return HookOutcome::NoHook,
            Located::Unusable(why) => {
                return HookOutcome::Failed(format!("{} {why}", self.hook.display()));
            }
        }
        if let Some(note) = &self.note {
            end_earlier_run(note);
        }
        match self
            .start()
            .and_then(|running| running.watch(self, &mut on_progress))
        {
            Ok(outcome) => outcome,
            Err(error) => {
                HookOutcome::Failed(format!("cannot run {}: {error}", self.hook.display()))
            }
        }
    }

    fn start(&self) -> io::Result<Running> {
        let mut command = match self.root {
            Some(root) => {
                // `chroot(8)` rather than a closure between fork and exec: that would be unsafe.
                let mut command = Command::new("chroot");
                command.arg(root).arg(self.hook);
                command
            }
            None => Command::new(self.hook),
        };
        command
            .env_clear()
            .env("PATH", PATH_VARIABLE)
            .env("HOME", "/root")
            .env("LC_ALL", "C")
            .envs(
                self.facts
                    .variables()
                    .iter()
                    .map(|(name, value)| (name, OsStr::new(value))),
            )
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Running::new(command.spawn()?, self.note.as_deref())
    }
}

/// A hook that runs.
struct Running {
    child: Child,
    group: Pid,
    pidfd: OwnedFd,
    lines: Lines,
    tail: Tail,
    _note: Option<Note>,
}

impl Running {
    fn new(mut child: Child, note: Option<&Path>) -> io::Result<Self> {
        let group = Pid::from_child(&child);
        let ready = (|| {
            for pipe in [
                child.stdout.as_ref().map(AsFd::as_fd),
                child.stderr.as_ref().map(AsFd::as_fd),
            ]
            .into_iter()
            .flatten()
            {
                rustix::io::ioctl_fionbio(pipe, true)?;
            }
            pidfd_open(group, PidfdFlags::empty())
        })();
        match ready {
            Ok(pidfd) => Ok(Self {
                pidfd,
                group,
                lines: Lines::default(),
                tail: Tail::default(),
                _note: note.map(|path| Note::write(path, group)),
                child,
            }),
            Err(error) => {
                signal(group, Signal::KILL);
                child.wait()?;
                Err(error.into())
            }
        }
    }

    fn watch(
        mut self,
        run: &HookRun<'_>,
        on_progress: &mut impl FnMut(&Progress),
    ) -> io::Result<HookOutcome> {
        let deadline = Instant::now() + run.timeout;
        let mut reports = Reports::default();
        loop {
            let ended = self.wait(TICK.min(deadline.saturating_duration_since(Instant::now())))?;
            self.read(&mut reports);
            reports.deliver(on_progress, ended);
            if ended {
                let status = self.child.wait()?;
                self.lines.finish(|line| reports.take(line));
                reports.deliver(on_progress, true);
                return Ok(outcome(status, &self.tail, &reports.last.message));
            }
            let cancelled = run.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed));
            if cancelled || Instant::now() >= deadline {
                self.end()?;
                return Ok(if cancelled {
                    HookOutcome::Cancelled
                } else {
                    HookOutcome::TimedOut
                });
            }
        }
    }

    /// Waits for output, the end or the timeout; true when the hook itself has ended. It is not
    /// reaped yet, so its process group's id cannot be anybody else's.
    fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let stdout = self
            .child
            .stdout
            .as_ref()
            .map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let stderr = self
            .child
            .stderr
            .as_ref()
            .map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        fds.extend(stdout);
        fds.extend(stderr);
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(!fds[0].revents().is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what is there, but never so much that the deadline would be missed.
    fn read(&mut self, reports: &mut Reports) {
        let lines = &mut self.lines;
        read_pipe(&mut self.child.stdout, |bytes| {
            lines.push(bytes, |line| reports.take(line))
        });
        let tail = &mut self.tail;
        read_pipe(&mut self.child.stderr, |bytes| tail.push(bytes));
    }

    /// Ends the whole group: SIGTERM, grace, SIGKILL.
    fn end(mut self) -> io::Result<()> {
        signal(self.group, Signal::TERM);
        self.wait_end(GRACE)?;
        // Also when the hook itself has ended: its children may not have.
        signal(self.group, Signal::KILL);
        if self.wait_end(REAP)? {
            self.child.wait()?;
        } else {
            tracing::warn!(pid = self.child.id(), "a killed hook does not end");
        }
        Ok(())
    }

    fn wait_end(&mut self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wait(left)? {
                return Ok(true);
            }
            // A hook that writes while it cleans up must neither block on it nor die of it.
            self.read(&mut Reports::default());
            if left.is_zero() {
                return Ok(false);
            }
        }
    }
}

/// Reads up to 64 KiB from a pipe that does not block, and drops it at its end.
fn read_pipe<P: Read>(pipe: &mut Option<P>, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    for _ in 0..16 {
        match pipe.as_mut().map(|pipe| pipe.read(&mut buffer)) {
            Some(Ok(0)) => *pipe = None,
            Some(Ok(length)) => each(&buffer[..length]),
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(_)) | None => return,
        }
    }
}

fn signal(group: Pid, signal: Signal) {
    match kill_process_group(group, signal) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!(%error, "cannot signal the hook's process group"),
    }
}

/// Progress on its way to the caller, thinned out.
#[derive(Default)]
struct Reports {
    last: Progress,
    fresh: bool,
    delivered: Option<Instant>,
}

impl Reports {
    fn take(&mut self, line: &[u8]) {
        match Progress::from_line(line) {
            Some(progress) if progress != self.last => {
                self.last = progress;
                self.fresh = true;
            }
            Some(_) => {}
            None => tracing::debug!(line = printable(line), "hook"),
        }
    }

    fn deliver(&mut self, to: &mut impl FnMut(&Progress), now: bool) {
        let due = self
            .delivered
            .is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if self.fresh && (due || now) {
            to(&self.last);
            self.fresh = false;
            self.delivered = Some(Instant::now());
        }
    }
}

/// The reason is the last line on stderr, else the last progress message.
fn outcome(status: ExitStatus, tail: &Tail, last_message: &str) -> HookOutcome {
    let reason = Some(tail.last_line())
        .filter(|line| !line.is_empty())
        .unwrap_or_else(|| last_message.to_owned());
    match (status.code(), status.signal()) {
        (Some(EXIT_DONE), _) => HookOutcome::Done,
        (Some(EXIT_REFUSED), _) => HookOutcome::Refused(reason),
        (Some(EXIT_RETRY_LATER), _) => HookOutcome::RetryLater(reason),
        (Some(code), _) => HookOutcome::Failed(describe(&format!("exit code {code}"), &reason)),
        (None, signal) => HookOutcome::Failed(describe(
            &format!("killed by signal {}", signal.unwrap_or_default()),
            &reason,
        )),
    }
}

fn describe(what: &str, reason: &str) -> String {
    if reason.is_empty() {
        format!("the hook failed: {what}")
    } else {
        printable(format!("the hook failed ({what}): {reason}").as_bytes())
    }
}
