//! Where events go: the terminal, `--progress-fd`, and the xenstore view.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{OrFailed, Result};
use crate::report::{Event, SCHEMA};
use crate::view::View;

/// Life-cycle events are never dropped; progress of one domain comes at most this often.
const PACE: Duration = Duration::from_millis(200);

/// Everyone who watches a run.
pub(super) struct Watchers {
    inner: RefCell<Inner>,
}

struct Inner {
    lines: Option<BufWriter<File>>,
    view: View,
    terminal: bool,
    shown: BTreeMap<String, (Instant, String)>,
}

#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    #[serde(flatten)]
    event: &'a Event,
}

impl Watchers {
    /// The terminal, the file descriptor if one is given, and the xenstore of this node.
    pub(super) fn new(progress_fd: Option<i32>, view: View) -> Result<Self> {
        let lines = progress_fd
            .map(|fd| {
                // Opening by name makes a descriptor of our own, which we may close.
                let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
                File::options()
                    .append(true)
                    .open(path)
                    .or_failed(|| format!("writing progress to file descriptor {fd}"))
            })
            .transpose()?
            .map(BufWriter::new);
        let terminal = std::io::stderr().is_terminal();
        let inner = Inner {
            lines,
            view,
            terminal,
            shown: BTreeMap::new(),
        };
        Ok(Self {
            inner: RefCell::new(inner),
        })
    }

    /// Shows one event to everyone. A watcher that cannot be reached does not stop an upgrade.
    pub(super) fn show(&self, event: Event) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_too_much(&event) {
            return;
        }
        inner.view.show(&event);
        if let Some(lines) = &mut inner.lines {
            let line = Line {
                schema: SCHEMA,
                event: &event,
            };
            let written = serde_json::to_writer(&mut *lines, &line)
                .map_err(std::io::Error::from)
                .and_then(|()| writeln!(lines))
                .and_then(|()| lines.flush());
            if let Err(error) = written {
                tracing::warn!("progress cannot be written any more: {error}");
                inner.lines = None;
            }
        }
        inner.print(&event);
    }
}

impl Inner {
    /// The same domain in the same state, again, and too soon.
    fn is_too_much(&mut self, event: &Event) -> bool {
        let (key, state) = match event {
            Event::Domain {
                domain,
                state,
                message,
                percent,
            } => {
                let state = match percent {
                    Some(100) | None => format!("{state} {message}"),
                    Some(_) => state.clone(),
                };
                (domain.clone(), state)
            }
            Event::Progress { .. } => (String::new(), String::new()),
            _ => return false,
        };
        let now = Instant::now();
        match self.shown.get(&key) {
            Some((at, before)) if *before == state && now - *at < PACE => true,
            _ => {
                self.shown.insert(key, (now, state));
                false
            }
        }
    }

    fn print(&self, event: &Event) {
        let line = match event {
            Event::StepBegan { text, .. } => text.clone(),
            Event::StepEnded { seconds, .. } => format!("  done in {seconds:.1} s"),
            Event::Domain {
                percent: Some(_), ..
            }
            | Event::Progress { .. }
                if !self.terminal =>
            {
                return;
            }
            Event::Domain {
                domain,
                state,
                percent,
                message,
            } => {
                let percent = percent.map(|p| format!(" {p}%")).unwrap_or_default();
                let message = if message.is_empty() {
                    String::new()
                } else {
                    format!(": {message}")
                };
                format!("  {domain}: {state}{percent}{message}")
            }
            Event::Progress { percent, eta_s } => {
                let eta = eta_s.map(|s| format!(", {s} s to go")).unwrap_or_default();
                format!("  {percent}%{eta}")
            }
            Event::Recorded { .. } => return,
        };
        // A terminal that has gone away does not stop an upgrade.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
