//! Images: ext4 file systems in files, regions of files and partitions, and the guards that hold
//! them attached and mounted.

mod command;
mod error;
mod ext4;
mod file;
mod loop_device;
mod mount;

pub use error::ImageError;
pub use ext4::{Check, Shape, check, grow, make};
pub use file::{FileKind, allocate, copy, open_regular};
pub use loop_device::{LoopDevice, LoopOptions, Region};
pub use mount::{MountGuard, MountOptions};
