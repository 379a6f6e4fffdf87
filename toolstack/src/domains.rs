//! The domUs of the running node, through libxl, `xl create` and xenstore.

use std::thread;
use std::time::{Duration, Instant};

use xen_store::Store;
use xen_xl::{Domain, End, State, Xl};
use xupg_hooks::keys;
use xupg_hooks::{Answer, Flag, RawAnswer};

use crate::error::{Error, OrFailed, Result};
use crate::node::Node;
use crate::ports::{Domains, Running};

/// How long `xl create` may take.
const CREATE: Duration = Duration::from_secs(180);

/// The domUs of a node. Where there is no Xen, as in a folder that stands for a node, there are
/// none.
#[derive(Debug)]
pub struct LiveDomains {
    xen: Option<Xen>,
    began: Instant,
}

#[derive(Debug)]
struct Xen {
    xl: Xl,
    store: Store,
}

impl LiveDomains {
    /// The domUs of `node`.
    ///
    /// # Errors
    /// Where Xen is there and cannot be reached.
    pub fn of(node: &Node) -> Result<Self> {
        let hypervisor = std::fs::read_to_string(node.path("/sys/hypervisor/type"));
        let xen = if hypervisor.is_ok_and(|kind| kind.trim() == "xen") {
            let xl = Xl::open().or_failed(|| "opening libxl".to_owned())?;
            let store = Store::open().or_failed(|| "opening xenstore".to_owned())?;
            Some(Xen { xl, store })
        } else {
            None
        };
        Ok(Self {
            xen,
            began: Instant::now(),
        })
    }

    fn xen(&self) -> Result<&Xen> {
        self.xen
            .as_ref()
            .ok_or_else(|| Error::failed("there is no Xen here"))
    }
}

impl Xen {
    fn find(&self, name: &str) -> Result<Option<Domain>> {
        self.xl
            .find(name)
            .or_failed(|| format!("looking for `{name}`"))
    }

    fn need(&self, name: &str) -> Result<Domain> {
        self.find(name)?
            .ok_or_else(|| Error::failed(format!("`{name}` does not run")))
    }

    /// Writes the flag; `phase` last, as the agent reads it first. The keys inherit the
    /// permissions of the domain's own directory: dom0 writes, the guest reads.
    fn write_flag(&self, domid: u32, flag: &Flag) -> std::result::Result<(), xen_store::Error> {
        self.store
            .remove(&keys::flag_key(domid, keys::flag::PHASE))?;
        for (key, value) in flag.writes() {
            self.store.write(&keys::flag_key(domid, key), value)?;
        }
        Ok(())
    }
}

impl Domains for LiveDomains {
    fn running(&mut self) -> Result<Vec<Running>> {
        let Some(xen) = &self.xen else {
            return Ok(Vec::new());
        };
        let domains = xen.xl.list().or_failed(|| "listing the domUs".to_owned())?;
        domains
            .into_iter()
            .map(|domain| {
                let config = xen
                    .xl
                    .config(&domain)
                    .or_failed(|| format!("reading the configuration of `{}`", domain.name))?;
                Ok(Running {
                    restarts: config.on_poweroff.restarts(),
                    name: domain.name,
                })
            })
            .collect()
    }

    fn raise_flag(&mut self, name: &str, flag: &Flag) -> Result<()> {
        let xen = self.xen()?;
        let domain = xen.need(name)?;
        xen.write_flag(domain.domid, flag)
            .or_failed(|| format!("raising the flag of `{name}`"))
    }

    fn answer(&mut self, name: &str, flag: &Flag) -> Result<Option<Answer>> {
        let xen = self.xen()?;
        let Some(domain) = xen.find(name)? else {
            return Ok(None);
        };
        let doing = || format!("reading the answer of `{name}`");
        let phase = keys::flag_key(domain.domid, keys::flag::PHASE);
        if !xen.store.exists(&phase).or_failed(doing)? {
            xen.write_flag(domain.domid, flag).or_failed(doing)?;
        }
        let raw = RawAnswer::read(|key| {
            xen.store
                .read_optional(&keys::answer_key(domain.domid, key))
        })
        .or_failed(doing)?;
        Ok(raw
            .check(&flag.txn, flag.phase)
            .unwrap_or_else(|malformed| {
                // A guest may write anything. It is no answer, and the deadline stands.
                tracing::warn!("`{name}`: {malformed}");
                None
            }))
    }

    fn shutdown(&mut self, name: &str, timeout: Duration) -> Result<bool> {
        let xen = self.xen()?;
        let Some(domain) = xen.find(name)? else {
            return Ok(true);
        };
        let deadline = Instant::now() + timeout;
        let doing = || format!("shutting `{name}` down");
        // Whether it acknowledges says little: Linux does so before it begins. Its end counts.
        if let Err(error) = xen.xl.shutdown(&domain, timeout) {
            tracing::warn!("`{name}` does not take the shutdown: {error}");
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match xen.xl.wait_end(&domain, left).or_failed(doing)? {
            End::Alive => Ok(false),
            End::Gone(_) => Ok(true),
            // It has stopped, and there is no xl process that would take it down.
            End::Stopped(_) => xen.xl.destroy(&domain).or_failed(doing).map(|()| true),
        }
    }

    fn destroy(&mut self, name: &str) -> Result<()> {
        let xen = self.xen()?;
        match xen.find(name)? {
            None => Ok(()),
            Some(domain) => xen
                .xl
                .destroy(&domain)
                .or_failed(|| format!("destroying `{name}`")),
        }
    }

    fn start(&mut self, name: &str, config: &str, flag: Option<&Flag>) -> Result<()> {
        let xen = self.xen()?;
        let doing = || format!("starting `{name}` from {config}");
        let domain = match xen.find(name)? {
            // A start that was cut short between its two halves left it paused.
            Some(domain) => domain,
            None => xen
                .xl
                .create_paused(config.as_ref(), name, CREATE)
                .or_failed(doing)?,
        };
        let raised = match flag {
            Some(flag) => xen.write_flag(domain.domid, flag).or_failed(doing),
            None => Ok(()),
        };
        let ran = raised.and_then(|()| match domain.state {
            State::Paused => xen.xl.unpause(&domain).or_failed(doing),
            _ => Ok(()),
        });
        if ran.is_err()
            && let Err(error) = xen.xl.destroy(&domain)
        {
            tracing::warn!("`{name}` stays paused: {error}");
        }
        ran
    }

    fn is_alive(&mut self, name: &str) -> Result<bool> {
        match &self.xen {
            None => Ok(false),
            Some(xen) => Ok(xen
                .find(name)?
                .is_some_and(|domain| matches!(domain.state, State::Running | State::Paused))),
        }
    }

    fn wait(&mut self, duration: Duration) {
        thread::sleep(duration);
    }

    fn clock(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}
