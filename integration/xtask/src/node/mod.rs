//! A node in QEMU: its disk and variables, the machine that runs them, and how to talk to it.

pub mod booted;
pub mod machine;
pub mod qemu;
pub mod qmp;
pub mod ssh;
pub mod state;
