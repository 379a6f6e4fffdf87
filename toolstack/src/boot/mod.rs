//! Which slot the firmware boots: UEFI boot entries, and the signed boot images on the ESP.

pub mod efi;
pub mod esp;
mod variables;
