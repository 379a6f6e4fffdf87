//! Which frames of a payload are done, so that whoever depends on earlier ones can wait for them.
//!
//! Frames are handed out in order, so a worker only ever waits for frames that other workers are
//! busy with already: there is no circle to get stuck in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::partial::PartialFile;

/// What the frame before leaves to a frame that continues a file.
pub(super) type Tail = Option<Arc<PartialFile>>;

/// Somebody else failed; there is nothing more to do and nothing to say.
#[derive(Debug)]
pub(super) struct Stopped;

pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// All frames before this one are done.
    done_before: usize,
    /// Those after it that are done.
    ahead: BTreeSet<usize>,
    /// The file that is unfinished at the end of a frame.
    tails: BTreeMap<usize, Tail>,
    stopped: bool,
}

impl Progress {
    /// All frames before `first` are done already.
    pub(super) fn after(first: usize) -> Self {
        let state = State {
            done_before: first,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere ends the stage; the state itself is never half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T, Stopped> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Err(Stopped);
            }
            if let Some(value) = ready(&mut state) {
                return Ok(value);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until every frame before `frame` is done.
    pub(super) fn wait_before(&self, frame: usize) -> Result<(), Stopped> {
        self.wait(|state| (state.done_before >= frame).then_some(()))
    }

    /// Marks `frame` as done.
    pub(super) fn done(&self, frame: usize) {
        let mut state = self.lock();
        state.ahead.insert(frame);
        while state.ahead.first() == Some(&state.done_before) {
            state.ahead.pop_first();
            state.done_before += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Says which file is unfinished at the end of `frame`, for the frame that follows it.
    pub(super) fn leave(&self, frame: usize, tail: Tail) {
        self.lock().tails.insert(frame, tail);
        self.changed.notify_all();
    }

    /// Waits for what [`Progress::leave`] says about `frame`.
    pub(super) fn take(&self, frame: usize) -> Result<Tail, Stopped> {
        self.wait(|state| state.tails.remove(&frame))
    }

    /// Wakes everybody up to give up.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}
