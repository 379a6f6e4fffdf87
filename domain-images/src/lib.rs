//! Signed release bundles and the domain images they are unpacked into.

#![forbid(unsafe_code)]

mod aligned;
pub mod bundle;
mod ext4;
pub mod filelist;
pub mod format;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod image;
pub mod manifest;
mod pax;
pub mod preserve;
pub mod seal;
pub mod signature;
pub mod stage;
mod tar_header;
mod tree;
pub mod verify;
pub mod version;

pub use bundle::Bundle;
pub use manifest::Manifest;
pub use signature::TrustStore;
