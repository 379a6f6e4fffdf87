//! Memory from which and into which direct I/O goes.

/// Direct I/O is in units of this: the largest block that a device here has.
pub(crate) const BLOCK: usize = 4096;

/// A buffer that begins where direct I/O may begin.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// A buffer of `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, start }
    }

    /// All of it from its beginning on.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}
