//! What can be asked of a Xen host.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::libxl::{Code, Context, EventId};
use crate::worker::{Engine, NoAnswer, StartError, Worker};
use crate::{Domain, DomainConfig, End, Error, Host, ShutdownAnswer, State, create};

/// How long a call may take that only looks, unless [`Xl::with_deadline`] says otherwise. libxl asks
/// the device model of an HVM guest for up to ten seconds.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// The domains of this host. Threads may share one.
#[derive(Debug)]
pub struct Xl {
    deadline: Duration,
    worker: Mutex<Option<Arc<Worker>>>,
}

impl Xl {
    /// Opens libxl (`libxl_ctx_alloc`).
    ///
    /// # Errors
    /// [`Error::Unavailable`] where there is no Xen.
    pub fn open() -> Result<Self, Error> {
        let this = Self {
            deadline: DEFAULT_DEADLINE,
            worker: Mutex::new(None),
        };
        this.worker("open libxl")?;
        Ok(this)
    }

    /// Sets how long calls may take that have no deadline of their own.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The hypervisor's version and command line (`libxl_get_version_info`).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn host(&self) -> Result<Host, Error> {
        self.look("ask for Xen's version", |engine| engine.libxl.host())
    }

    /// All domUs (`libxl_list_domain`): without dom0, and without a xenstore domain.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list(&self) -> Result<Vec<Domain>, Error> {
        self.look("list the domains", |engine| engine.libxl.list())
    }

    /// The domU of this name, if there is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn find(&self, name: &str) -> Result<Option<Domain>, Error> {
        // Not libxl_name_to_domid: between two calls the domid could change hands.
        Ok(self.list()?.into_iter().find(|domain| domain.name == name))
    }

    /// The same domain as it is now, `None` when it is gone (`libxl_domain_info`).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn refresh(&self, domain: &Domain) -> Result<Option<Domain>, Error> {
        let known = domain.clone();
        self.look(&format!("look at {}", domain.name), move |engine| {
            still_there(&engine.libxl, &known)
        })
    }

    /// What a domain was started with, and its disks now (`libxl_retrieve_domain_configuration`).
    /// Ask while it lives: it is gone with the domain.
    ///
    /// # Errors
    /// [`Error::Gone`], and see [`Error`].
    pub fn config(&self, domain: &Domain) -> Result<DomainConfig, Error> {
        let known = domain.clone();
        let config = self.look(
            &format!("read the configuration of {}", domain.name),
            move |engine| match still_there(&engine.libxl, &known)? {
                Some(_) => engine.libxl.config(known.domid).map(Some),
                None => Ok(None),
            },
        )?;
        config.ok_or_else(|| gone(domain))
    }

    /// Asks a guest to power off and waits at most this long for its answer
    /// (`libxl_domain_shutdown`; libxl itself waits up to a minute).
    ///
    /// Look at [`DomainConfig::on_poweroff`] first: the domain may come back by itself.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn shutdown(&self, domain: &Domain, at_most: Duration) -> Result<ShutdownAnswer, Error> {
        let doing = format!("shut down {}", domain.name);
        // libxl takes the end of a domain that has already stopped for an acknowledgement.
        match self.refresh(domain)?.map(|now| now.state) {
            None | Some(State::Stopped(_) | State::Dying) => return Ok(ShutdownAnswer::Ended),
            Some(State::Running | State::Paused) => {}
        }
        match self.operate(domain, &doing, at_most, Context::start_shutdown)? {
            Outcome::Completed(Ok(())) => Ok(ShutdownAnswer::Acknowledged),
            Outcome::NotThere => Ok(ShutdownAnswer::Ended),
            Outcome::Late => Ok(ShutdownAnswer::NoAnswer),
            Outcome::Completed(Err(code)) if code.is_no_paravirt() => {
                Ok(ShutdownAnswer::Unsupported)
            }
            Outcome::Completed(Err(code)) if code.is_timeout() => Ok(ShutdownAnswer::NoAnswer),
            Outcome::Completed(Err(code)) => match self.refresh(domain)? {
                // Whatever libxl stumbled over, it was the domain's end.
                None => Ok(ShutdownAnswer::Ended),
                Some(_) => Err(libxl(&doing, code)),
            },
        }
    }

    /// Waits at most this long for a domain to be gone, and returns how far it has come.
    ///
    /// A domain that has stopped is destroyed by the `xl` process that started it, a moment later; this
    /// waits for both. [`End::Stopped`] after all the time means that nobody destroys it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn wait_end(&self, domain: &Domain, at_most: Duration) -> Result<End, Error> {
        let doing = format!("wait for the end of {}", domain.name);
        let give_up = Instant::now() + at_most;
        let worker = self.worker(&doing)?;
        let (progress, steps) = mpsc::channel();
        let known = domain.clone();
        let watching = worker
            .call(self.deadline, move |engine| {
                match still_there(&engine.libxl, &known)? {
                    Some(_) => engine.watch_end(known.domid, progress).map(Some),
                    None => Ok(None),
                }
            })
            .map_err(|why| self.no_answer(&doing, why))?;
        let id = match watching {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(End::Gone(None)),
            Err(code) if code.is_no_domain() => return Ok(End::Gone(None)),
            Err(code) => return Err(libxl(&doing, code)),
        };
        let mut end = End::Alive;
        loop {
            match steps.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(step @ End::Gone(_)) => return Ok(step),
                Ok(step) => end = step,
                Err(RecvTimeoutError::Timeout) => {
                    worker.post(Box::new(move |engine| engine.forget(id)));
                    return Ok(end);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Broken { doing }),
            }
        }
    }

    /// Destroys a domain at once, as pulling the plug (`libxl_domain_destroy`). One that is gone
    /// already is as good as destroyed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn destroy(&self, domain: &Domain) -> Result<(), Error> {
        let doing = format!("destroy {}", domain.name);
        match self.operate(domain, &doing, self.deadline, Context::start_destroy)? {
            Outcome::Completed(Ok(())) | Outcome::NotThere => Ok(()),
            Outcome::Completed(Err(code)) => match self.refresh(domain)? {
                // Its `xl` process was faster.
                None => Ok(()),
                Some(_) => Err(libxl(&doing, code)),
            },
            Outcome::Late => Err(self.no_answer(&doing, NoAnswer::Late)),
        }
    }

    /// Lets a paused domain run (`libxl_domain_unpause`).
    ///
    /// # Errors
    /// [`Error::Gone`], and see [`Error`].
    pub fn unpause(&self, domain: &Domain) -> Result<(), Error> {
        let doing = format!("unpause {}", domain.name);
        match self.operate(domain, &doing, self.deadline, Context::start_unpause)? {
            Outcome::Completed(Ok(())) => Ok(()),
            Outcome::NotThere => Err(gone(domain)),
            Outcome::Completed(Err(code)) if code.is_no_domain() => Err(gone(domain)),
            Outcome::Completed(Err(code)) => Err(libxl(&doing, code)),
            Outcome::Late => Err(self.no_answer(&doing, NoAnswer::Late)),
        }
    }

    /// Creates a domain from an xl configuration file, paused, with `xl create -p`: so the domain gets
    /// the process that xl leaves behind to see to its reboots and crashes. `name` is the name in the
    /// file.
    ///
    /// # Errors
    /// [`Error::Create`] with what xl said, [`Error::CreateTimeout`] when it had to be killed (the
    /// domain may be half made then: look for it and destroy it), and see [`Error`].
    pub fn create_paused(
        &self,
        config: &Path,
        name: &str,
        at_most: Duration,
    ) -> Result<Domain, Error> {
        create::create_paused(config, at_most)?;
        self.find(name)?.ok_or_else(|| Error::Gone {
            domain: name.to_owned(),
        })
    }

    /// A call that only looks and never takes long.
    fn look<T: Send + 'static>(
        &self,
        doing: &str,
        call: impl FnOnce(&mut Engine) -> Result<T, Code> + Send + 'static,
    ) -> Result<T, Error> {
        self.worker(doing)?
            .call(self.deadline, call)
            .map_err(|why| self.no_answer(doing, why))?
            .map_err(|code| libxl(doing, code))
    }

    /// Something that libxl starts and completes later.
    fn operate(
        &self,
        domain: &Domain,
        doing: &str,
        at_most: Duration,
        start: fn(&Context, u32, EventId) -> Result<(), Code>,
    ) -> Result<Outcome, Error> {
        let give_up = Instant::now() + at_most;
        let worker = self.worker(doing)?;
        let (reply, completed) = mpsc::sync_channel(1);
        let known = domain.clone();
        let started = worker
            .call(self.deadline, move |engine| {
                let there = still_there(&engine.libxl, &known)?;
                Ok(there.map(|_| engine.start(|libxl, id| start(libxl, known.domid, id), reply)))
            })
            .map_err(|why| self.no_answer(doing, why))?;
        let id = match started {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(Outcome::NotThere),
            Err(code) => return Err(libxl(doing, code)),
        };
        match completed.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
            Ok(result) => Ok(Outcome::Completed(result)),
            Err(RecvTimeoutError::Timeout) => {
                worker.post(Box::new(move |engine| engine.forget(id)));
                Ok(Outcome::Late)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::Broken {
                doing: doing.to_owned(),
            }),
        }
    }

    /// The thread that owns libxl; a new one when the last has ended or does not answer.
    fn worker(&self, doing: &str) -> Result<Arc<Worker>, Error> {
        // Held while libxl is opened, which has a deadline too.
        let mut current = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = &*current
            && !worker.is_broken()
        {
            return Ok(Arc::clone(worker));
        }
        let worker = Worker::start(self.deadline).map_err(|error| match error {
            StartError::Libxl(code) => Error::Unavailable {
                reason: code.name(),
            },
            StartError::Late => self.no_answer(doing, NoAnswer::Late),
            StartError::Ended => self.no_answer(doing, NoAnswer::Ended),
            StartError::Io(source) => Error::Io {
                doing: "start libxl's thread".to_owned(),
                source,
            },
        })?;
        let worker = Arc::new(worker);
        *current = Some(Arc::clone(&worker));
        Ok(worker)
    }

    fn no_answer(&self, doing: &str, why: NoAnswer) -> Error {
        let doing = doing.to_owned();
        match why {
            NoAnswer::Late => Error::Timeout {
                doing,
                deadline: self.deadline,
            },
            NoAnswer::Ended => Error::Broken { doing },
        }
    }
}

/// How an operation went.
enum Outcome {
    /// libxl has done it, or failed to.
    Completed(Result<(), Code>),
    /// The domain was gone before.
    NotThere,
    /// Not by the deadline.
    Late,
}

/// The domain, if its domid is not another's by now.
fn still_there(libxl: &Context, known: &Domain) -> Result<Option<Domain>, Code> {
    match libxl.info(known.domid) {
        Ok(now) if now.uuid == known.uuid => Ok(Some(now)),
        Ok(_) => Ok(None),
        Err(code) if code.is_no_domain() => Ok(None),
        Err(code) => Err(code),
    }
}

fn gone(domain: &Domain) -> Error {
    Error::Gone {
        domain: format!("{} (domid {})", domain.name, domain.domid),
    }
}

fn libxl(doing: &str, code: Code) -> Error {
    Error::Libxl {
        doing: doing.to_owned(),
        reason: code.name(),
    }
}
