//! The domUs of the model, their agents included.

use std::time::Duration;

use xupg::error::{Error, Result};
use xupg::ports::{Domains, Running};
use xupg_hooks::{Answer, Flag, Progress, State};

use crate::doubles::seconds;
use crate::world::{DomU, Hook, Shared, World};

/// How long an agent takes to find its flag, and then its hook to end.
const TAKE_UP: f64 = 2.0;
const HOOK: f64 = 4.0;

pub(crate) struct DomUs(pub(crate) Shared);

impl Domains for DomUs {
    fn running(&mut self) -> Result<Vec<Running>> {
        let names: Vec<_> = self.0.borrow().running.keys().cloned().collect();
        Ok(names
            .into_iter()
            .map(|name| Running {
                name,
                restarts: false,
            })
            .collect())
    }

    fn raise_flag(&mut self, name: &str, flag: &Flag) -> Result<()> {
        self.0
            .borrow_mut()
            .step(format!("raise the flag of {name}"), |world| {
                raise(world, name, flag);
            })
    }

    fn answer(&mut self, name: &str, flag: &Flag) -> Result<Option<Answer>> {
        let mut world = self.0.borrow_mut();
        let raised = world.running.get(name).and_then(|domu| domu.flag.clone());
        if raised.as_ref().is_some_and(|raised| raised.txn != flag.txn) {
            world.broken(format!("`{name}` is asked for an answer to another flag"));
        }
        // A poll: an error each time it could fail would say little. Only the first answers count.
        let times = world
            .answered
            .entry(format!("{name} {}", flag.phase))
            .or_default();
        *times += 1;
        if *times > 3 {
            return Ok(agent(&mut world, name));
        }
        world.step(format!("read the answer of {name}"), |world| {
            agent(world, name)
        })
    }

    fn shutdown(&mut self, name: &str, timeout: Duration) -> Result<bool> {
        self.0
            .borrow_mut()
            .step(format!("shut {name} down"), |world| {
                if world.ignores_shutdown.contains(name) && world.running.contains_key(name) {
                    world.clock += seconds(timeout);
                    return false;
                }
                world.clock += 3.0;
                world.running.remove(name);
                true
            })
    }

    fn destroy(&mut self, name: &str) -> Result<()> {
        self.0
            .borrow_mut()
            .step(format!("destroy {name}"), |world| {
                world.running.remove(name);
            })
    }

    fn start(&mut self, name: &str, config: &str, flag: Option<&Flag>) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if config != format!("/etc/xen/{name}.cfg") {
            world.broken(format!("`{name}` is started from {config}"));
        }
        if world.does_not_start.contains(name) {
            return Err(Error::failed("xl create says no"));
        }
        world.step(format!("start {name}"), |world| {
            let (slot, since) = (world.booted, world.clock);
            world.running.entry(name.to_owned()).or_insert(DomU {
                slot,
                flag: None,
                since,
            });
            if let Some(flag) = flag {
                raise(world, name, flag);
            }
        })
    }

    fn is_alive(&mut self, name: &str) -> Result<bool> {
        let mut world = self.0.borrow_mut();
        let times = world.answered.entry(format!("{name} alive")).or_default();
        *times += 1;
        if *times > 6 {
            return Ok(world.running.contains_key(name));
        }
        world.step(format!("look for {name}"), |world| {
            world.running.contains_key(name)
        })
    }

    fn wait(&mut self, duration: Duration) {
        self.0.borrow_mut().clock += seconds(duration);
    }

    fn clock(&self) -> f64 {
        self.0.borrow().clock
    }
}

fn raise(world: &mut World, name: &str, flag: &Flag) {
    let since = world.clock;
    if let Some(domu) = world.running.get_mut(name)
        && domu.flag.as_ref() != Some(flag)
    {
        (domu.flag, domu.since) = (Some(flag.clone()), since);
    }
}

/// What the agent in `name` has said by now.
fn agent(world: &mut World, name: &str) -> Option<Answer> {
    let domu = world.running.get(name)?.clone();
    let flag = domu.flag?;
    let hook = world.hook(name, domu.slot, flag.phase);
    let took = world.clock - domu.since;
    let say = |state, percent, message: &str| {
        Some(Answer {
            state,
            progress: Progress {
                percent,
                message: message.to_owned(),
            },
        })
    };
    if hook == Hook::Silent || took < TAKE_UP {
        return None;
    }
    if world.is_done(domu.slot, name, &flag) && hook != Hook::GoodOnce {
        return say(State::Done, 100, "");
    }
    if took < HOOK {
        return say(State::Running, 50, "half way");
    }
    match hook {
        Hook::Dies => {
            world.running.remove(name);
            world.died.insert(name.to_owned());
            None
        }
        Hook::Missing => say(State::None, 100, ""),
        Hook::Fails => say(State::Failed, 50, "scripted"),
        Hook::Refuses => say(State::Refused, 0, "scripted"),
        Hook::GoodOnce
            if world
                .boots
                .iter()
                .filter(|slot| **slot == domu.slot)
                .count()
                > 1 =>
        {
            say(State::Failed, 50, "the second time")
        }
        Hook::Good | Hook::GoodOnce | Hook::Silent => {
            if !world.is_done(domu.slot, name, &flag) {
                world.complete(domu.slot, name, &flag);
            }
            say(State::Done, 100, "")
        }
    }
}
