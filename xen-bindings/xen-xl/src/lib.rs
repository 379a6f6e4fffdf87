//! Domains of a Xen host, safely: list, configuration, shutdown, death, creation.
//!
//! A layer over libxl for programs in dom0.
//!
//! * **One thread owns libxl** and runs its event loop. Callers ask it and wait, each with a deadline.
//! * **A domain is its domid and its uuid together.** Xen gives domids again, so every operation on a
//!   [`Domain`] first sees that the domid still means that domain.
//! * **Acknowledging a shutdown is not dying.** [`Xl::shutdown`] and [`Xl::wait_end`] tell them apart.
//! * **libxl never ends the process**, and it reaps its own children only. The program must not install
//!   a SIGCHLD handler of its own (as `tokio::signal` and some runtimes' child processes do); plain
//!   `std::process` is fine.
//! * What libxl logs goes to `tracing`, target `libxl`.
//!
//! libxl must be of the very Xen version that runs: it is loaded as `libxenlight.so.X.Y`.

mod create;
mod domain;
mod error;
mod libxl;
mod worker;
mod xl;

pub use domain::{
    Action, Disk, Domain, DomainConfig, End, Host, Reason, ShutdownAnswer, State, Uuid,
};
pub use error::Error;
pub use xl::{DEFAULT_DEADLINE, Xl};
