//! Cuts the tar stream into frames and packs them side by side. Which thread packs a frame, and
//! when, has no influence on its bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::bundle::frame::SKIPPABLE_MAGIC;
use crate::manifest::{Digest, Frame, Part};

/// Bytes of the tar stream after which a frame is full.
const TARGET: usize = 2 << 20;
/// Bytes of list text in one list frame.
const LIST_TARGET: usize = 1 << 20;

/// A full frame on its way to be packed.
struct Job {
    index: usize,
    part: Part,
    continues: Option<u64>,
    raw: Vec<u8>,
}

/// A packed frame, with the buffer it came from.
struct Done {
    job: Job,
    packed: io::Result<Vec<u8>>,
}

/// Takes the tar stream piece by piece; what is full goes to the packers.
pub(super) struct Cutter {
    raw: Vec<u8>,
    part: Part,
    continues: Option<u64>,
    index: usize,
    jobs: Sender<Job>,
    /// Empty buffers. There are only so many, which bounds memory whatever thread is slow.
    free: Receiver<Vec<u8>>,
    /// Bytes of file content so far.
    pub(super) data_bytes: u64,
}

impl Cutter {
    /// Goes on to the next part, in a frame of its own.
    pub(super) fn begin_part(&mut self, part: Part) -> io::Result<()> {
        if !self.raw.is_empty() && part != self.part {
            self.cut(None)?;
        }
        self.part = part;
        Ok(())
    }

    /// Begins an entry. `data` bytes will follow.
    pub(super) fn begin_entry(&mut self, header: &[u8], data: u64) -> io::Result<()> {
        let whole = header.len() as u64 + data.next_multiple_of(512);
        if !self.raw.is_empty() && self.raw.len() as u64 + whole > TARGET as u64 {
            self.cut(None)?;
        }
        self.raw.extend_from_slice(header);
        Ok(())
    }

    /// How much of a file that has given `done` bytes fits into the frame; at least 4096, since a
    /// full frame is cut here. The bytes are appended to the buffer that is returned.
    pub(super) fn room(&mut self, done: u64) -> io::Result<(&mut Vec<u8>, usize)> {
        if self.raw.len() >= TARGET {
            self.cut(Some(done))?;
        }
        let room = (TARGET - self.raw.len()).next_multiple_of(4096);
        Ok((&mut self.raw, room))
    }

    /// Ends a file's data.
    pub(super) fn end_data(&mut self, bytes: u64) {
        self.raw.resize(self.raw.len().next_multiple_of(512), 0);
        self.data_bytes += bytes;
    }

    fn cut(&mut self, continues: Option<u64>) -> io::Result<()> {
        let empty = self.free.recv().map_err(|_| stopped())?;
        let job = Job {
            index: self.index,
            part: self.part,
            continues: std::mem::replace(&mut self.continues, continues),
            raw: std::mem::replace(&mut self.raw, empty),
        };
        self.index += 1;
        self.jobs.send(job).map_err(|_| stopped())
    }
}

/// Packs whatever `produce` gives to the [`Cutter`] into `out`, with `threads` packers, and ends the
/// stream. Returns the frames and the bytes of file content.
pub(super) fn pack<E: From<io::Error> + Send>(
    out: &mut File,
    threads: usize,
    level: i32,
    produce: impl FnOnce(&mut Cutter) -> Result<(), E>,
) -> Result<(Vec<Frame>, u64), E> {
    let (jobs, queue) = channel::<Job>();
    let (done, results) = channel::<Done>();
    let (give_back, free) = channel();
    for _ in 0..threads + 2 {
        // The receiver lives right here.
        let _ = give_back.send(Vec::with_capacity(TARGET + TARGET / 4));
    }
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..threads {
            let done = done.clone();
            let queue = &queue;
            scope.spawn(move || run_packer(queue, &done, level));
        }
        drop(done);
        let writer = scope.spawn(move || write_in_order(out, results, give_back));
        let mut cutter = Cutter {
            raw: Vec::with_capacity(TARGET + TARGET / 4),
            part: Part::Directories,
            continues: None,
            index: 0,
            jobs,
            free,
            data_bytes: 0,
        };
        let produced = produce(&mut cutter).and_then(|()| {
            cutter.raw.resize(cutter.raw.len() + 1024, 0);
            Ok(cutter.cut(None)?)
        });
        let data_bytes = cutter.data_bytes;
        drop(cutter);
        // A writer that failed is the reason why the producer found everybody gone.
        let frames = writer.join().map_err(|_| stopped())??;
        produced.map(|()| (frames, data_bytes))
    })
}

fn stopped() -> io::Error {
    io::Error::other("packing has stopped")
}

fn run_packer(queue: &Mutex<Receiver<Job>>, done: &Sender<Done>, level: i32) {
    let mut packer = zstd::bulk::Compressor::new(level);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let packed = match &mut packer {
            Ok(packer) => packer.compress(&job.raw),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if done.send(Done { job, packed }).is_err() {
            return;
        }
    }
}

// Owns its ends of the channels: when it fails and drops them, nobody waits for it.
#[allow(clippy::needless_pass_by_value)]
fn write_in_order(
    out: &mut File,
    results: Receiver<Done>,
    give_back: Sender<Vec<u8>>,
) -> io::Result<Vec<Frame>> {
    let mut early = BTreeMap::new();
    let mut frames = Vec::new();
    for done in results {
        early.insert(done.job.index, done);
        while let Some(Done { job, packed }) = early.remove(&frames.len()) {
            let packed = packed?;
            out.write_all(&packed)?;
            frames.push(frame(&packed, job.raw.len(), job.part, job.continues)?);
            let mut raw = job.raw;
            raw.clear();
            // Nobody waits for a buffer any more once the stream has ended.
            let _ = give_back.send(raw);
        }
    }
    Ok(frames)
}

fn frame(packed: &[u8], unpacked: usize, part: Part, continues: Option<u64>) -> io::Result<Frame> {
    let size = |length: usize| u32::try_from(length).map_err(io::Error::other);
    Ok(Frame {
        packed: size(packed.len())?,
        unpacked: size(unpacked)?,
        sha256: Digest::of(packed),
        part,
        continues,
    })
}

/// Packs the text of a file list into list frames.
pub(super) struct ListPacker {
    out: File,
    text: Vec<u8>,
    level: i32,
    frames: Vec<Frame>,
}

impl ListPacker {
    pub(super) fn new(out: File, level: i32) -> Self {
        Self {
            out,
            text: Vec::with_capacity(LIST_TARGET),
            level,
            frames: Vec::new(),
        }
    }

    fn cut(&mut self) -> io::Result<()> {
        let content = zstd::bulk::compress(&self.text, self.level)?;
        self.text.clear();
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        let magic = SKIPPABLE_MAGIC.to_le_bytes();
        let packed = [&magic[..], &length.to_le_bytes()[..], &content[..]].concat();
        self.out.write_all(&packed)?;
        self.frames.push(frame(&packed, 0, Part::List, None)?);
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<(Vec<Frame>, File)> {
        self.cut()?;
        Ok((self.frames, self.out))
    }
}

impl Write for ListPacker {
    /// Takes a line at a time, so that frames end with lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.text.is_empty() && self.text.len() + line.len() > LIST_TARGET {
            self.cut()?;
        }
        self.text.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
