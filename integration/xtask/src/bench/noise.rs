//! Bytes that nothing can store more cheaply than they are.

/// An endless stream of noise, the same each time.
#[derive(Debug)]
pub(super) struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    /// The next `bytes`.
    pub(super) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let mut noise: Vec<u8> = Vec::with_capacity(bytes + 8);
        while noise.len() < bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            noise.extend_from_slice(&self.0.to_le_bytes());
        }
        noise.truncate(bytes);
        noise
    }
}
