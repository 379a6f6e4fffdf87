//! The lab: builds, demonstrates and tests xupg on a real, nested Xen. See `integration/README.md`.
#![forbid(unsafe_code)]

pub mod bench;
pub mod bundles;
pub mod cache;
pub mod command;
pub mod consoles;
pub mod demo;
pub mod efi_vars;
pub mod fuzz;
pub mod images;
pub mod keys;
pub mod lab;
pub mod nested;
pub mod node;
pub mod packages;
pub mod paths;
pub mod product;
pub mod progress;
pub mod root;
pub mod scenarios;
pub mod test;
