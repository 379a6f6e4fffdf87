//! Upgrades a whole Xen node as one signed release, with a way back that is one reboot long.
fn main() {}
