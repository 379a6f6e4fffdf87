//! The page that guest and xenstored share (`struct xenstore_domain_interface` of xs_wire.h).
//!
//! The guest's side reads and writes the page's file; xenstored has it mapped. Linux keeps the two
//! coherent, and so no unsafe code is needed here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Bytes in each direction.
const SIZE: u32 = 1024;
const REQUESTS_AT: u64 = 0;
const ANSWERS_AT: u64 = 1024;
const REQUEST_CONSUMER_AT: u64 = 2048;
const REQUEST_PRODUCER_AT: u64 = 2052;
const ANSWER_CONSUMER_AT: u64 = 2056;
const ANSWER_PRODUCER_AT: u64 = 2060;

/// The shim's port number of domid 0, had it one.
const FIRST_GUEST_PORT: u32 = 100;

/// The guest's end of its ring.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    page: Arc<File>,
    events: Arc<File>,
    port: u32,
    stopped: Arc<AtomicBool>,
}

impl Ring {
    pub(super) fn new(page: File, events: File, domid: u16) -> Self {
        Self {
            page: Arc::new(page),
            events: Arc::new(events),
            port: FIRST_GUEST_PORT + u32::from(domid),
            stopped: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Makes every wait on this ring end with an error.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Writes all bytes, waiting for room.
    pub(super) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.is_stopped() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let producer = self.index(REQUEST_PRODUCER_AT)?;
            let used = producer.wrapping_sub(self.index(REQUEST_CONSUMER_AT)?);
            let until_wrap = SIZE - producer % SIZE;
            let room = until_wrap.min(SIZE.saturating_sub(used));
            if room == 0 {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let now = bytes.len().min(room as usize);
            self.page
                .write_all_at(&bytes[..now], REQUESTS_AT + u64::from(producer % SIZE))?;
            self.set_index(REQUEST_PRODUCER_AT, producer.wrapping_add(now as u32))?;
            bytes = &bytes[now..];
            self.notify()?;
        }
        Ok(())
    }

    fn notify(&self) -> io::Result<()> {
        (&*self.events).write_all(&self.port.to_ne_bytes())
    }

    fn index(&self, at: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.page.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn set_index(&self, at: u64, value: u32) -> io::Result<()> {
        self.page.write_all_at(&value.to_ne_bytes(), at)
    }
}

/// What xenstored answers, as a stream of bytes.
#[derive(Debug)]
pub(super) struct RingReader {
    ring: Ring,
    kicks: File,
}

impl RingReader {
    pub(super) fn new(ring: Ring, kicks: File) -> Self {
        Self { ring, kicks }
    }
}

impl Read for RingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ring = &self.ring;
        loop {
            if ring.is_stopped() {
                return Ok(0);
            }
            let consumer = ring.index(ANSWER_CONSUMER_AT)?;
            let waiting = ring.index(ANSWER_PRODUCER_AT)?.wrapping_sub(consumer);
            let until_wrap = SIZE - consumer % SIZE;
            let now = buffer.len().min(waiting.min(until_wrap) as usize);
            if now == 0 {
                // xenstored kicks after it has written, so none is missed.
                self.kicks.read_exact(&mut [0])?;
                continue;
            }
            ring.page
                .read_exact_at(&mut buffer[..now], ANSWERS_AT + u64::from(consumer % SIZE))?;
            ring.set_index(ANSWER_CONSUMER_AT, consumer.wrapping_add(now as u32))?;
            ring.notify()?;
            return Ok(now);
        }
    }
}
