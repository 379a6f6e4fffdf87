//! The lab: builds, demonstrates and tests xupg on a real, nested Xen. See `integration/README.md`.
#![forbid(unsafe_code)]

pub mod cache;
pub mod command;
pub mod efi_vars;
pub mod images;
pub mod keys;
pub mod lab;
pub mod node;
pub mod packages;
pub mod paths;
pub mod product;
pub mod progress;
