//! Signed release bundles and the domain images they are unpacked into.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod filelist;
pub mod format;
pub mod manifest;
pub mod signature;
pub mod version;

pub use bundle::Bundle;
pub use manifest::Manifest;
pub use signature::TrustStore;
