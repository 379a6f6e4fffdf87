//! What the agent does about a flag.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use xupg_hooks::keys::{FLAG_DIR, NAME};
use xupg_hooks::{Answer, DoneLog, Flag, HookOutcome, HookRun, Progress, State};

use crate::link::{Link, LinkError};
use crate::options::Options;
use crate::publish::{Addressed, Publisher};

/// How often the flag is looked at.
const POLL: Duration = Duration::from_secs(1);
/// After "retry later", so long until the hook is called again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// At the end, so long for the last answer to reach xenstore.
const FAREWELL: Duration = Duration::from_secs(10);

/// The agent: everything it needs to follow flags.
pub(crate) struct Agent {
    hook: PathBuf,
    done: DoneLog,
    link: Link,
    publisher: Publisher,
    stop: Arc<AtomicBool>,
    attending: Option<Attention>,
    /// The last trouble told, so that it is told once and not every second.
    trouble: Option<String>,
}

/// A flag that has been taken up.
struct Attention {
    flag: Flag,
    /// The end of the flag's time.
    until: Instant,
    /// When the hook, which asked for it, is to be called again.
    again: Option<Instant>,
}

impl Agent {
    /// # Errors
    /// The memory of what is done cannot be read, or a thread cannot be started.
    pub(crate) fn new(
        options: &Options,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Self {
            hook: options.hook.clone(),
            done: DoneLog::open(&options.state_dir)?,
            link: Link::default(),
            publisher: Publisher::start()?,
            stop,
            attending: None,
            trouble: None,
        })
    }

    /// Follows flags until it is told to stop.
    pub(crate) fn run(&mut self) {
        while !self.stopped() {
            if let Err(error) = self.look() {
                self.tell(error.to_string());
            }
            self.pause(POLL);
        }
    }

    /// Follows the flag that is there, if any, to its end.
    ///
    /// # Errors
    /// xenstore cannot be reached, or does not take the answer.
    pub(crate) fn run_once(&mut self) -> Result<(), LinkError> {
        self.look()?;
        while self
            .attending
            .as_ref()
            .is_some_and(|taken| taken.again.is_some())
            && !self.stopped()
        {
            self.pause(POLL);
            self.look()?;
        }
        if self.publisher.settle(FAREWELL) {
            Ok(())
        } else {
            Err(LinkError::Silent)
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps, but not through a SIGTERM.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stopped() && Instant::now() < until {
            std::thread::sleep(POLL / 10);
        }
    }

    fn tell(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
            self.trouble = Some(trouble);
        }
    }

    /// Looks at the flag once, and does what it asks for.
    fn look(&mut self) -> Result<(), LinkError> {
        let made = self.link.made();
        let read = Flag::read(|key| self.link.read(&format!("{FLAG_DIR}/{key}")))?;
        if made != 0 && self.link.made() != made {
            tracing::info!("connected to xenstore again");
            self.publisher.afresh();
        }
        let flag = match read {
            Ok(Some(flag)) => flag,
            Ok(None) => {
                self.attending = None;
                self.trouble = None;
                return Ok(());
            }
            Err(error) => {
                self.attending = None;
                self.tell(error.to_string());
                return Ok(());
            }
        };
        self.trouble = None;
        let now = Instant::now();
        let until = match &self.attending {
            Some(taken) if taken.flag == flag => match taken.again {
                Some(again) if again <= now => taken.until,
                _ => return Ok(()),
            },
            _ => now + flag.timeout,
        };
        let domain = self.link.read(NAME)?.unwrap_or_default();
        let again = self.attend(&flag, &domain, until);
        self.attending = Some(Attention { flag, until, again });
        Ok(())
    }

    /// Calls the hook, unless that is done already, and answers. Returns when to call it again.
    fn attend(&mut self, flag: &Flag, domain: &str, until: Instant) -> Option<Instant> {
        if self.done.is_done(&flag.txn, flag.phase) {
            tracing::info!(txn = %flag.txn, phase = %flag.phase, "done earlier");
            self.answer(flag, State::Done, 100, "done earlier");
            return None;
        }
        tracing::info!(txn = %flag.txn, phase = %flag.phase, release = %flag.release, "running the hook");
        self.answer(flag, State::Running, 0, "");
        let facts = flag.facts(domain);
        let run = HookRun {
            hook: &self.hook,
            cancel: Some(&self.stop),
            note: Some(self.done.dir().join("running")),
            ..HookRun::new(&facts, until.saturating_duration_since(Instant::now()))
        };
        let mut last = Progress::default();
        let outcome = run.run(|progress| {
            last = progress.clone();
            self.answer(flag, State::Running, progress.percent, &progress.message);
        });
        tracing::info!(txn = %flag.txn, phase = %flag.phase, ?outcome, "the hook has ended");
        match outcome {
            HookOutcome::Done => {
                // Before dom0 hears of it: what is reported done must not be done again.
                if let Err(error) = self.done.record(&flag.txn, flag.phase) {
                    tracing::error!("after a restart the hook would run again: {error}");
                }
                self.answer(flag, State::Done, 100, &last.message);
            }
            HookOutcome::NoHook => self.answer(flag, State::None, 100, "no hook"),
            HookOutcome::Refused(why) => self.answer(flag, State::Refused, last.percent, &why),
            HookOutcome::RetryLater(why) => {
                let again = Instant::now() + RETRY_AFTER;
                if again < until {
                    self.answer(flag, State::Retry, last.percent, &why);
                    return Some(again);
                }
                let why = format!("out of time, and the hook still wants to retry: {why}");
                self.answer(flag, State::Failed, last.percent, &why);
            }
            HookOutcome::Failed(why) => self.answer(flag, State::Failed, last.percent, &why),
            HookOutcome::TimedOut => {
                let why = format!("the hook did not end within {} s", flag.timeout.as_secs());
                self.answer(flag, State::Failed, last.percent, &why);
            }
            // The agent is told to stop. Whoever starts it again starts the hook again.
            HookOutcome::Cancelled => {}
        }
        None
    }

    fn answer(&self, flag: &Flag, state: State, percent: u8, message: &str) {
        let message = xupg_hooks::text::printable(message.as_bytes());
        self.publisher.set(Addressed {
            txn: flag.txn.clone(),
            phase: flag.phase,
            answer: Answer {
                state,
                progress: Progress { percent, message },
            },
        });
    }
}
