//! CRC-32C as ext4 uses it (`metadata_csum`): without the inversions at both ends.

/// Continues the checksum `from` over `bytes`.
pub(super) fn crc32c(from: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!from, bytes)
}

/// A checksum that others begin with: the file system's, or an inode's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(u32);

impl Seed {
    /// A file system's.
    pub(super) fn of(uuid: [u8; 16]) -> Self {
        Self(crc32c(!0, &uuid))
    }

    /// With more behind it.
    pub(super) fn and(self, bytes: &[u8]) -> Self {
        Self(crc32c(self.0, bytes))
    }

    /// An inode's, under the file system's.
    pub(super) fn inode(self, inode: u32, generation: u32) -> Self {
        self.and(&inode.to_le_bytes())
            .and(&generation.to_le_bytes())
    }

    pub(super) fn sum(self, bytes: &[u8]) -> u32 {
        crc32c(self.0, bytes)
    }
}
