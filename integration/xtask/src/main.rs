//! The lab: builds, demonstrates and tests xupg on a real, nested Xen.
fn main() {}
