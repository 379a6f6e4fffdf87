//! Reads the bundle and keeps everybody busy.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use super::closer::{self, Closing, Tree, set_directory};
use super::domain_image::{self, DomainImage};
use super::error::Problem;
use super::fault::Fault;
use super::fresh::Fresh;
use super::plan::Plan;
use super::slot::{Slot, StagedRoot};
use super::store::{self, ListFile};
use super::target::{Mounted, Place, Target};
use super::unpack::links_of;
use super::worker::{self, Shop, Work};
use super::{Event, StageObserver, StageTarget, whiteout};
use crate::bundle::{Bundle, FrameError, PayloadReader, ReadError, UncheckedFrame};
use crate::manifest::{Image, Manifest, Mode, Part, Payload};
use crate::seal::OwnFiles;
use crate::tree::{Links, Root};

/// Frames between conductor and workers: enough that no worker waits while the next one is read.
const QUEUE: usize = 2;
/// Workers at most, however many cores there are: each has some MiB for frames of its own.
const MOST_WORKERS: usize = 4;

/// Writes the whole bundle.
pub(super) fn run<R: Read + Send>(
    mut bundle: Bundle<R>,
    target: &StageTarget,
    plan: &Plan,
    observer: &dyn StageObserver,
) -> Result<StagedRoot, Problem> {
    let manifest = Arc::clone(bundle.manifest());
    let dom0 = manifest.payloads.first().ok_or_else(no_dom0)?;
    let mut slot = Slot::make(target, plan, dom0.entries)?;
    let names = fill(&mut bundle, &manifest, target, &mut slot, observer)?;
    // Last, so that no slot says it holds a release before it does.
    let root = open_root(&slot)?;
    store::put(&root, "manifest.json", bundle.manifest_bytes())?;
    store::put(&root, "manifest.sig", bundle.signature_bytes())?;
    names.restore(&root)?;
    Ok(StagedRoot(slot))
}

fn open_root(slot: &Slot) -> Result<Root, Problem> {
    Root::open(slot.root(), Links::Refuse).map_err(Problem::io("open the slot's root"))
}

/// Unpacks and closes all payloads.
fn fill<'m, R: Read + Send>(
    bundle: &mut Bundle<R>,
    manifest: &'m Manifest,
    target: &StageTarget,
    slot: &mut Slot,
    observer: &dyn StageObserver,
) -> Result<Names<'m>, Problem> {
    // More than there are cores: now and then one waits for the disk.
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let workers = (cores + 2).min(MOST_WORKERS);
    let fault = Fault::default();
    let (queue, frames) = sync_channel(QUEUE);
    let (give_back, buffers) = channel();
    let (close, closings) = sync_channel(1);
    let shop = Shop {
        queue: Mutex::new(frames),
        fault: &fault,
        observer,
    };
    let names = thread::scope(|scope| {
        for number in 0..workers {
            let (shop, give_back) = (&shop, give_back.clone());
            scope.spawn(move || worker::work(number, shop, &give_back));
        }
        scope.spawn(|| closer::run(closings, &fault, target.seal, observer));
        let conductor = Conductor {
            manifest,
            target,
            slot,
            observer,
            fault: &fault,
            workers,
            queue,
            close,
            buffers,
            last: Weak::new(),
        };
        // Its ends of the channels go with the conductor, so the workers end, then the closer.
        conductor.run(bundle).unwrap_or_else(|problem| {
            fault.raise(problem);
            None
        })
    });
    drop(shop);
    fault.into_result()?;
    names.ok_or_else(no_dom0)
}

fn no_dom0() -> Problem {
    ReadError::Malformed("it has no payload for dom0").into()
}

struct Conductor<'a, 'm, 's> {
    manifest: &'m Manifest,
    target: &'s StageTarget,
    slot: &'s mut Slot,
    observer: &'s dyn StageObserver,
    fault: &'a Fault<'m>,
    workers: usize,
    queue: SyncSender<Work<'m>>,
    close: SyncSender<Closing<'m>>,
    buffers: Receiver<Vec<u8>>,
    /// The payload before, if it is still being written.
    last: Weak<Target<'m>>,
}

impl<'m> Conductor<'_, 'm, '_> {
    /// `None` when the stage was stopped.
    fn run<R: Read>(mut self, bundle: &mut Bundle<R>) -> Result<Option<Names<'m>>, Problem> {
        let Some(mut reader) = bundle.next_payload()? else {
            return Ok(None);
        };
        // The slot's own tree is whole before anything else comes into the slot.
        let Some((names, lists)) = self.dom0(&mut reader)? else {
            return Ok(None);
        };
        let mut lists = lists.into_iter();
        let mut asked = false;
        while let Some(mut reader) = bundle.next_payload()? {
            let payload = &self.manifest.payloads[reader.index()];
            if payload.mode == Mode::Overlay && !asked {
                asked = true;
                if !self.may_overlay()? {
                    return Ok(None);
                }
            }
            let (Some(image), Some(list)) = (&payload.image, lists.next()) else {
                return Err(ReadError::Malformed("a domU has no image").into());
            };
            let Some(closing) = self.domain(payload, image, list, &mut reader)? else {
                return Ok(None);
            };
            // It fails only when the closer has panicked, which ends the stage anyway.
            drop(self.close.send(closing));
        }
        Ok(Some(names))
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

    /// Fills the slot's own file system, mounts it and makes all names in it; returns the files for
    /// the lists of the payloads to come.
    fn dom0<R: Read>(
        &mut self,
        reader: &mut PayloadReader<'_, R>,
    ) -> Result<Option<(Names<'m>, Vec<ListFile>)>, Problem> {
        let payload = &self.manifest.payloads[reader.index()];
        self.observer.event(Event::Preparing {
            domain: &payload.domain,
        });
        // Mount points are made beside it, so files can be, too.
        let folder = self.target.mountpoint.parent();
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut list = ListFile::nameless(payload, folder)?;
        let Some(first) = self.read_list(payload, &mut list, reader)? else {
            return Ok(None);
        };
        let place = Place::Fresh(Fresh::begin(payload, &list, self.slot.disk()?)?);
        let target = self.begin(payload, place);
        if !self.hand_out(&target, first, reader)? || target.wait_until_done().is_err() {
            return Ok(None);
        }
        closer::complete(target, &list, self.fault)?;
        self.slot.mount()?;
        let names = Names {
            list: Arc::new(list),
            own: OwnFiles::of(self.manifest),
            dom0: payload,
        };
        let root = open_root(self.slot)?;
        let mut lists = Vec::new();
        for payload in &self.manifest.payloads {
            if payload.image.is_some() {
                domain_image::reserve(payload, self.slot.root())?;
                lists.push(ListFile::create(&root, payload)?);
            }
        }
        names.list.keep(&root)?;
        names.restore(&root)?;
        // It fails only when the closer has panicked, which ends the stage anyway.
        drop(self.close.send(Closing {
            payload,
            list: Arc::clone(&names.list),
            tree: Tree::Slot {
                root: self.slot.root().to_owned(),
                device: self.slot.device().to_owned(),
                own: OwnFiles::of(self.manifest),
            },
        }));
        Ok(Some((names, lists)))
    }

    /// Prepares a domU's file system and hands all its frames out.
    fn domain<R: Read>(
        &mut self,
        payload: &'m Payload,
        wanted: &Image,
        mut list: ListFile,
        reader: &mut PayloadReader<'_, R>,
    ) -> Result<Option<Closing<'m>>, Problem> {
        let domain = payload.domain.as_str();
        self.observer.event(Event::Preparing { domain });
        let Some(first) = self.read_list(payload, &mut list, reader)? else {
            return Ok(None);
        };
        let (slot, at) = (self.slot.root(), &self.target.mountpoint);
        let (image, place) = match payload.mode {
            Mode::Replace => {
                let image = DomainImage::fresh(payload, wanted, slot, at)?;
                let fresh = Fresh::begin(payload, &list, image.disk()?)?;
                (image, Place::Fresh(fresh))
            }
            Mode::Overlay => {
                let active = &self.target.active_root;
                let image = DomainImage::copied(payload, wanted, slot, at, active)?;
                let root = Root::open(image.root(), links_of(true))
                    .map_err(Problem::io(format!("open the root of {domain}")))?;
                delete(payload, &root, &list)?;
                (image, Place::Mounted(Mounted::new(root, self.workers)))
            }
        };
        let target = self.begin(payload, place);
        if !self.hand_out(&target, first, reader)? {
            return Ok(None);
        }
        Ok(Some(Closing {
            payload,
            list: Arc::new(list),
            tree: Tree::Image { target, image },
        }))
    }

    /// Stores a payload's list; returns the first frame behind it, `None` when the stage was stopped.
    fn read_list<R: Read>(
        &self,
        payload: &Payload,
        list: &mut ListFile,
        reader: &mut PayloadReader<'_, R>,
    ) -> Result<Option<UncheckedFrame>, Problem> {
        while let Some(frame) = reader.next_frame(self.buffer())? {
            if self.fault.is_stopped() {
                return Ok(None);
            }
            let index = frame.index();
            if payload.frames[index].part != Part::List {
                return Ok(Some(frame));
            }
            list_frame(list, frame).map_err(|error| match error {
                ListFrame::Problem(problem) => problem,
                ListFrame::Frame(error) => reader.frame_error(index, error).into(),
            })?;
        }
        Ok(None)
    }

    fn begin(&mut self, payload: &'m Payload, place: Place) -> Arc<Target<'m>> {
        let target = Arc::new(Target::new(payload, place));
        self.last = Arc::downgrade(&target);
        self.fault.watch(&target);
        target
    }

    /// Gives all frames from `first` on to the workers; returns whether nothing has stopped it.
    fn hand_out<R: Read>(
        &self,
        target: &Arc<Target<'m>>,
        first: UncheckedFrame,
        reader: &mut PayloadReader<'_, R>,
    ) -> Result<bool, Problem> {
        let mut next = Some(first);
        while let Some(frame) = next {
            let work = Work {
                target: Arc::clone(target),
                frame,
            };
            // It fails only when all workers have panicked.
            if self.fault.is_stopped() || self.queue.send(work).is_err() {
                return Ok(false);
            }
            next = reader.next_frame(self.buffer())?;
        }
        Ok(true)
    }

    fn buffer(&self) -> Vec<u8> {
        self.buffers.try_recv().unwrap_or_default()
    }
}

/// Names in the slot's tree that are not the payload's. Making them changes the times of directories
/// that are.
struct Names<'m> {
    list: Arc<ListFile>,
    own: OwnFiles,
    dom0: &'m Payload,
}

impl Names<'_> {
    /// Gives the directories above the names what is signed about them.
    fn restore(&self, slot: &Root) -> Result<(), Problem> {
        self.list.each(self.dom0, Some(b'd'), |entry| {
            if !self.own.allows(&entry.path) && entry.path != b"." {
                return Ok(());
            }
            set_directory(slot, self.dom0, &entry)
        })
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

/// Applies all whiteouts of an overlay.
fn delete(payload: &Payload, root: &Root, list: &ListFile) -> Result<(), Problem> {
    list.each(payload, None, |entry| {
        whiteout::apply(root, &entry)
            .map_err(|error| Problem::entry(&payload.domain, &entry.path, error))
    })
}
