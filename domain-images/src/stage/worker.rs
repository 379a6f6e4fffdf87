//! A worker: takes the next frame, checks it, decodes it and makes what is in it. Nothing is handed
//! on, so all cores do the same kind of work and none waits for another's speciality.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Problem;
use super::fault::Fault;
use super::target::{Place, Target};
use super::unpack::{Halt, Unpacker};
use super::{Event, StageObserver};
use crate::aligned::Aligned;
use crate::bundle::{Decoder, FrameError, ReadError, UncheckedFrame};
use crate::ext4::Content;
use crate::manifest::limits;

/// Bytes of a buffer that is read into again: most frames are packed into less.
const KEPT: usize = 1 << 20;

/// A frame as it was read, and where it belongs.
pub(super) struct Work<'a> {
    pub(super) target: Arc<Target<'a>>,
    pub(super) frame: UncheckedFrame,
}

/// What all workers share.
pub(super) struct Shop<'a, 's> {
    pub(super) queue: Mutex<Receiver<Work<'a>>>,
    pub(super) fault: &'s Fault<'a>,
    pub(super) observer: &'s dyn StageObserver,
}

/// Works until the queue ends. Buffers go back through `buffers` to be read into again.
pub(super) fn work(number: usize, shop: &Shop<'_, '_>, buffers: &Sender<Vec<u8>>) {
    let mut worker = match Decoder::new() {
        Ok(decoder) => Worker {
            decoder,
            decoded: Aligned::new(limits::FRAME_UNPACKED as usize),
            content: Content::new(),
            number,
            shop,
        },
        Err(error) => return shop.fault.raise(Problem::io("set a decoder up")(error)),
    };
    loop {
        let next = {
            let queue = shop.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.recv()
        };
        let Ok(work) = next else {
            return;
        };
        if shop.fault.is_stopped() {
            // Goes on taking frames away, so that nobody waits at the queue.
            continue;
        }
        match worker.frame(work) {
            // The conductor may have no more use for it. Large ones are rare, and not kept.
            Ok(buffer) if buffer.capacity() <= KEPT => drop(buffers.send(buffer)),
            Ok(_) => {}
            Err(Halt::Problem(problem)) => shop.fault.raise(problem),
            Err(Halt::Stopped) => {}
        }
    }
}

struct Worker<'a, 'w, 's> {
    decoder: Decoder,
    /// Aligned, so that content can go from here to the disk.
    decoded: Aligned,
    content: Content,
    /// Which of the workers this is.
    number: usize,
    shop: &'w Shop<'a, 's>,
}

impl<'a> Worker<'a, '_, '_> {
    fn frame(&mut self, work: Work<'a>) -> Result<Vec<u8>, Halt> {
        let target = &work.target;
        let index = work.frame.index();
        let fail = |error: FrameError| {
            Problem::Bundle(ReadError::Frame {
                domain: target.domain().to_owned(),
                index,
                error,
            })
        };
        let checked = work.frame.check().map_err(fail)?;
        let decoded = self.decoded.bytes();
        self.decoder.decode_into(&checked, decoded).map_err(fail)?;
        let decoded = &decoded[..checked.frame().unpacked as usize];
        let frame = *checked.frame();
        match &target.place {
            Place::Fresh(fresh) => {
                fresh.frame(target, &mut self.content, index, frame, decoded)?;
            }
            Place::Mounted(mounted) => {
                let mut unpacker = Unpacker {
                    target,
                    root: &mounted.root,
                    parents: &mut mounted.parents(self.number),
                };
                unpacker.frame(index, frame, decoded)?;
            }
        }
        let bytes = decoded.len() as u64;
        let done = target.unpacked.fetch_add(bytes, Ordering::Relaxed) + bytes;
        target.progress.done(index);
        self.shop.observer.event(Event::Unpacked {
            domain: target.domain(),
            done,
            total: target.payload.unpacked_bytes,
        });
        Ok(checked.into_buffer())
    }
}
