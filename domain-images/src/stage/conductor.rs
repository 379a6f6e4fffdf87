//! Reads the bundle and keeps everybody busy.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use super::closer::{self, Closing, WriteBack};
use super::domain_image::DomainImage;
use super::error::Problem;
use super::fault::Fault;
use super::plan::Plan;
use super::slot::{Slot, StagedRoot};
use super::store::{self, ListFile};
use super::target::Target;
use super::unpack::links_of;
use super::worker::{self, Shop, Work};
use super::{Event, StageObserver, StageTarget, whiteout};
use crate::bundle::{Bundle, FrameError, PayloadReader, ReadError, UncheckedFrame};
use crate::manifest::{Manifest, Mode, Part, Payload};
use crate::tree::{Links, Root};

/// Frames between conductor and workers: enough that no worker waits while the next one is read.
const QUEUE: usize = 4;

/// Writes the whole bundle.
pub(super) fn run<R: Read + Send>(
    mut bundle: Bundle<R>,
    target: &StageTarget,
    plan: &Plan,
    observer: &dyn StageObserver,
) -> Result<StagedRoot, Problem> {
    let manifest = Arc::clone(bundle.manifest());
    let entries = manifest.payloads.first().map_or(0, |dom0| dom0.entries);
    let mut slot = Slot::make(target, plan, entries)?;
    let dom0 = fill(&mut bundle, &manifest, target, &slot, observer)?;
    closer::close_dom0(dom0, &bundle, &mut slot, target.seal, observer)?;
    Ok(StagedRoot(slot))
}

/// Unpacks all payloads and closes all but dom0's.
fn fill<'m, R: Read + Send>(
    bundle: &mut Bundle<R>,
    manifest: &'m Manifest,
    target: &StageTarget,
    slot: &Slot,
    observer: &dyn StageObserver,
) -> Result<Closing<'m>, Problem> {
    // One more than there are cores: now and then one waits for the disk.
    let workers = thread::available_parallelism().map_or(2, usize::from) + 1;
    let fault = Fault::default();
    let (queue, frames) = sync_channel(QUEUE);
    let (give_back, buffers) = channel();
    let (close, closings) = sync_channel(1);
    let shop = Shop {
        queue: Mutex::new(frames),
        fault: &fault,
        observer,
    };
    let write_back = WriteBack::default();
    let dom0 = thread::scope(|scope| {
        for number in 0..workers {
            let (shop, give_back) = (&shop, give_back.clone());
            scope.spawn(move || worker::work(number, shop, &give_back));
        }
        scope.spawn(|| write_back.run(&fault));
        let closer = scope.spawn(|| closer::run(closings, &fault, target.seal, observer));
        let conductor = Conductor {
            manifest,
            target,
            slot_root: slot.root(),
            observer,
            fault: &fault,
            workers,
            queue,
            close,
            buffers,
            last: Weak::new(),
            dom0: None,
        };
        let dom0 = conductor.run(bundle).unwrap_or_else(|problem| {
            fault.raise(problem);
            None
        });
        // The conductor and with it its ends of the channels are gone, so the workers end, then the
        // closer, whose panic would be a bug that the scope passes on.
        drop(closer.join());
        if let Some(closing) = &dom0 {
            // Stopped: the fault has the reason.
            let _ = closing.target.wait_until_done();
        }
        write_back.end();
        dom0
    });
    drop(shop);
    fault.into_result()?;
    dom0.ok_or_else(|| Problem::Bundle(ReadError::Malformed("it has no payload for dom0")))
}

struct Conductor<'a, 'm, 's> {
    manifest: &'m Manifest,
    target: &'s StageTarget,
    slot_root: &'s Path,
    observer: &'s dyn StageObserver,
    fault: &'a Fault<'m>,
    workers: usize,
    queue: SyncSender<Work<'m>>,
    close: SyncSender<Closing<'m>>,
    buffers: Receiver<Vec<u8>>,
    /// The payload before, if it is still being written.
    last: Weak<Target<'m>>,
    dom0: Option<Closing<'m>>,
}

impl<'m> Conductor<'_, 'm, '_> {
    /// Returns what is left to do for dom0; `None` when the stage was stopped.
    fn run<R: Read>(mut self, bundle: &mut Bundle<R>) -> Result<Option<Closing<'m>>, Problem> {
        let slot_root = Root::open(self.slot_root, Links::Refuse)
            .map_err(Problem::io("open the slot's root"))?;
        let mut asked = false;
        while let Some(mut reader) = bundle.next_payload()? {
            let payload = &self.manifest.payloads[reader.index()];
            if payload.mode == Mode::Overlay && !asked {
                asked = true;
                if !self.may_overlay()? {
                    return Ok(None);
                }
            }
            let Some(closing) = self.payload(&slot_root, payload, &mut reader)? else {
                return Ok(None);
            };
            self.last = Arc::downgrade(&closing.target);
            match closing.image {
                None => self.dom0 = Some(closing),
                // It fails only when the closer has panicked, which ends the stage anyway.
                Some(_) => drop(self.close.send(closing)),
            }
        }
        Ok(self.dom0)
    }

    fn may_overlay(&self) -> Result<bool, Problem> {
        if let Some(last) = self.last.upgrade()
            && last.wait_until_done().is_err()
        {
            return Ok(false);
        }
        self.observer.before_overlay().map_err(Problem::NotAtRest)?;
        Ok(!self.fault.is_stopped())
    }

    /// Prepares a payload's file system and hands all its frames out.
    fn payload<R: Read>(
        &self,
        slot_root: &Root,
        payload: &'m Payload,
        reader: &mut PayloadReader<'_, R>,
    ) -> Result<Option<Closing<'m>>, Problem> {
        let domain = payload.domain.as_str();
        self.observer.event(Event::Preparing { domain });
        let image = match &payload.image {
            None => None,
            Some(_) => Some(DomainImage::make(
                payload,
                self.slot_root,
                &self.target.active_root,
                &self.target.mountpoint,
            )?),
        };
        let path = image.as_ref().map_or(self.slot_root, DomainImage::root);
        let root = Root::open(path, links_of(payload.mode == Mode::Overlay))
            .map_err(Problem::io(format!("open the root of {domain}")))?;
        let target = Arc::new(Target::new(payload, root, self.workers));
        let mut list = ListFile::create(slot_root, payload)?;
        self.fault.watch(&target);
        let mut listing = true;
        while let Some(frame) = reader.next_frame(self.buffer())? {
            if self.fault.is_stopped() {
                return Ok(None);
            }
            let index = frame.index();
            if payload.frames[index].part == Part::List {
                list_frame(&mut list, frame).map_err(|error| match error {
                    ListFrame::Problem(problem) => problem,
                    ListFrame::Frame(error) => reader.frame_error(index, error).into(),
                })?;
                target.progress.done(index);
                continue;
            }
            if listing {
                listing = false;
                delete(&target, &list)?;
            }
            let work = Work {
                target: Arc::clone(&target),
                frame,
            };
            // It fails only when all workers have panicked.
            if self.queue.send(work).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(Closing {
            target,
            image,
            list,
        }))
    }

    fn buffer(&self) -> Vec<u8> {
        self.buffers.try_recv().unwrap_or_default()
    }
}

enum ListFrame {
    Problem(Problem),
    Frame(FrameError),
}

/// Stores a piece of the list once it is known to be the signed one.
fn list_frame(list: &mut ListFile, frame: UncheckedFrame) -> Result<(), ListFrame> {
    let checked = frame.check().map_err(ListFrame::Frame)?;
    let piece = checked.list_piece().map_err(ListFrame::Frame)?;
    list.append(piece).map_err(ListFrame::Problem)
}

/// In an overlay, applies all whiteouts; in any case, the list is whole and well-formed after this.
fn delete(target: &Target<'_>, list: &ListFile) -> Result<(), Problem> {
    if !target.is_overlay() {
        return Ok(());
    }
    list.each(target.payload, |entry| {
        whiteout::apply(&target.root, &entry)
            .map_err(|error| Problem::entry(target.domain(), &entry.path, error))
    })
}

/// Stores the signed manifest beside the lists.
pub(super) fn store_release<R: Read>(bundle: &Bundle<R>, slot: &Root) -> Result<(), Problem> {
    store::put(slot, "manifest.json", bundle.manifest_bytes())?;
    store::put(slot, "manifest.sig", bundle.signature_bytes())
}
