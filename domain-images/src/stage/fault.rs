//! The first failure of a stage, and the bell that tells everybody to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Problem;
use super::target::Target;

#[derive(Default)]
pub(super) struct Fault<'a> {
    stopped: AtomicBool,
    inner: Mutex<Inner<'a>>,
}

#[derive(Default)]
struct Inner<'a> {
    first: Option<Problem>,
    /// Whoever waits for a frame waits at one of these.
    targets: Vec<Arc<Target<'a>>>,
}

impl<'a> Fault<'a> {
    /// Has the workers of `target` woken up when something fails.
    pub(super) fn watch(&self, target: &Arc<Target<'a>>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopped() {
            target.stop();
        } else {
            inner.targets.push(Arc::clone(target));
        }
    }

    /// Forgets a target that is done, so that its file system can be unmounted.
    pub(super) fn forget(&self, target: &Arc<Target<'a>>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.targets.retain(|known| !Arc::ptr_eq(known, target));
    }

    /// Stops the stage; the first problem is the one that is told.
    pub(super) fn raise(&self, problem: Problem) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.first.is_none() {
            inner.first = Some(problem);
        } else {
            tracing::debug!(%problem, "after the first problem");
        }
        self.stopped.store(true, Ordering::SeqCst);
        for target in inner.targets.drain(..) {
            target.stop();
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// After everybody has stopped.
    pub(super) fn into_result(self) -> Result<(), Problem> {
        let inner = self
            .inner
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        inner.first.map_or(Ok(()), Err)
    }
}
