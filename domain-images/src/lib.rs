//! Signed release bundles and the domain images they are unpacked into.

#![forbid(unsafe_code)]

pub mod manifest;
