//! What a node's disk is filled with: the roots of dom0 and of the two domUs, boot images, and releases made of them.

pub mod boot_image;
pub mod initramfs;
pub mod kernels;
pub mod release;
pub mod roots;
