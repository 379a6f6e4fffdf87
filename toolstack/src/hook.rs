//! dom0's own hook, run through the contract of `xupg-hooks`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use xupg_hooks::{DoneLog, Flag, HookOutcome, HookRun};

use crate::error::{Error, OrFailed, Result};
use crate::node::Node;
use crate::ports::Hooks;
use crate::report::Event;
use crate::slot::Slot;

/// Where a root remembers which hooks have completed in it.
const DONE_IN_ROOT: &str = "var/lib/xupg/hook";

/// A hook that says "later" is asked again after this.
const RETRY: Duration = Duration::from_secs(5);

/// Runs dom0's hook: directly in the running system, or confined to a root that is mounted.
#[derive(Debug)]
pub struct HookRunner {
    live: bool,
    root: PathBuf,
}

impl HookRunner {
    /// The hooks of `node`. In a folder that stands for a node, `/` means that folder.
    pub fn of(node: &Node) -> Self {
        Self {
            live: node.is_live(),
            root: node.path("/"),
        }
    }
}

impl Hooks for HookRunner {
    fn run(
        &mut self,
        root: &Path,
        slot: Slot,
        flag: &Flag,
        events: &dyn Fn(Event),
    ) -> Result<&'static str> {
        let here = root == Path::new("/");
        let root = if here { self.root.as_path() } else { root };
        let mut done = DoneLog::open(root.join(DONE_IN_ROOT))
            .or_failed(|| "reading which hooks are done".to_owned())?;
        if done.is_done(&flag.txn, flag.phase) {
            return Ok("done");
        }
        let mut facts = flag.facts("dom0");
        facts.slot = slot.letter().chars().next();
        let deadline = Instant::now() + flag.timeout;
        let confined = !(here && self.live);
        let _kernel = if confined {
            Some(KernelFiles::mount(root)?)
        } else {
            None
        };
        loop {
            let mut run = HookRun::new(&facts, deadline.saturating_duration_since(Instant::now()));
            run.root = confined.then_some(root);
            run.note = Some(root.join(DONE_IN_ROOT).join("running"));
            let outcome = run.run(|progress| {
                events(Event::Domain {
                    domain: "dom0".to_owned(),
                    state: format!("hook {}", flag.phase),
                    percent: Some(progress.percent),
                    message: progress.message.clone(),
                });
            });
            let words = match outcome {
                HookOutcome::Done => {
                    done.record(&flag.txn, flag.phase)
                        .or_failed(|| "remembering that the hook is done".to_owned())?;
                    return Ok("done");
                }
                HookOutcome::NoHook => return Ok("none"),
                HookOutcome::RetryLater(_) if Instant::now() + RETRY < deadline => {
                    thread::sleep(RETRY);
                    continue;
                }
                HookOutcome::RetryLater(words) => {
                    format!("its hook kept asking for later: {words}")
                }
                HookOutcome::Refused(words) => format!("its hook refused: {words}"),
                HookOutcome::Failed(words) => format!("its hook failed: {words}"),
                HookOutcome::TimedOut => {
                    format!("its hook did not end within {} s", flag.timeout.as_secs())
                }
                HookOutcome::Cancelled => "its hook was cancelled".to_owned(),
            };
            return Err(Error::failed(words).hint("the hook is /usr/lib/xupg/hook in the release"));
        }
    }
}

/// `/proc`, `/sys` and `/dev` of the running system, seen inside a root while a hook runs there.
#[derive(Debug)]
struct KernelFiles {
    mounted: Vec<PathBuf>,
}

impl KernelFiles {
    fn mount(root: &Path) -> Result<Self> {
        let mut files = Self {
            mounted: Vec::new(),
        };
        for name in ["proc", "sys", "dev"] {
            let target = root.join(name);
            // A root without the folder has no use for its files; a link is not followed.
            if !target
                .symlink_metadata()
                .is_ok_and(|metadata| metadata.is_dir())
            {
                continue;
            }
            mount_bind(Path::new("/").join(name), &target)
                .or_failed(|| format!("mounting /{name} in {}", root.display()))?;
            files.mounted.push(target);
        }
        Ok(files)
    }
}

impl Drop for KernelFiles {
    fn drop(&mut self) {
        for target in self.mounted.iter().rev() {
            // Lazily: a process that the hook has left behind must not keep the slot mounted.
            if let Err(error) = unmount(target, UnmountFlags::DETACH) {
                tracing::warn!("{} stays mounted: {error}", target.display());
            }
        }
    }
}
