//! The upgrade over a model of a node that fails, and loses its power, at every single step.
//!
//! [`world`] is what a node is: two slots, an ESP, firmware variables, a journal, domUs with their
//! agents. [`doubles`] and [`domus`] are the ports that change it; each of their steps is counted,
//! and one of them can be made to go wrong. [`operator`] is the person and the boot service.
//! [`sweep`] lets everything go wrong in turn and checks what must hold whatever happens.

mod domus;
mod doubles;
mod failures;
mod operator;
mod release;
mod reports;
mod second_fault;
mod sweep;
mod upgrades;
mod world;
