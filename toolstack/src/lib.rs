//! Upgrades a whole Xen node, hypervisor, dom0 and every domU, as one signed release.
//!
//! Data goes one way: what is asked for and what is [observed](observe) become a
//! [plan](plan::Plan), a plain value; [apply] carries it out, the only loop that changes the world,
//! emitting [events](report::Event); the node reboots, and [trial] judges what has come up. What
//! must outlive a reboot is in the [journal], and changes only through the [life cycle](state).
//!
//! Side effects stand behind the [ports].

#![forbid(unsafe_code)]

pub mod apply;
pub mod boot;
pub mod cli;
pub mod disk;
pub mod domains;
pub mod error;
pub mod flash;
pub mod hook;
pub mod install;
pub mod journal;
pub mod node;
pub mod observe;
pub mod plan;
pub mod ports;
pub mod power;
pub mod report;
pub mod slot;
pub mod state;
pub mod trial;
pub mod view;
