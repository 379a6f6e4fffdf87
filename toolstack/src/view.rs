//! What ops see: `/tool/xupg` in xenstore, for `xenstore-ls` and `xenstore-watch`.
//!
//! A projection of the journal and the events, written anew after every boot. Nothing is ever
//! read back from it, and a xenstore that cannot be written does not stop an upgrade.

use xen_store::Store;
use xupg_hooks::keys::{OPS, ops};

use crate::journal::{Journal, Outcome};
use crate::node::Node;
use crate::report::{self, Event};
use crate::slot::Slot;

/// The longest value written; xenstored takes 2048 bytes.
const VALUE_MAX: usize = 1024;

/// The xenstore view of this node, or nothing where there is no xenstore.
#[derive(Debug)]
pub struct View {
    store: Option<Store>,
    booted: Slot,
}

impl View {
    /// The view of `node`. A folder that stands for a node has one only where `XENSTORED_PATH`
    /// names a xenstored for it.
    pub fn of(node: &Node, booted: Slot) -> Self {
        if !node.is_live() && std::env::var_os("XENSTORED_PATH").is_none() {
            return Self {
                store: None,
                booted,
            };
        }
        match Store::open() {
            Ok(store) => Self {
                store: Some(store),
                booted,
            },
            Err(error) => {
                tracing::warn!("nothing can be shown under {OPS}: {error}");
                Self {
                    store: None,
                    booted,
                }
            }
        }
    }

    /// Shows an event.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Recorded { journal } => self.show_journal(journal),
            Event::StepBegan { text, .. } => self.write(ops::PHASE, text),
            Event::StepEnded { .. } => {}
            Event::Domain {
                domain,
                state,
                percent,
                message,
            } => {
                self.write(&ops::domain_state(domain), state);
                let percent = percent
                    .map(|percent| percent.to_string())
                    .unwrap_or_default();
                self.write(&ops::domain_progress(domain), &percent);
                self.write(&ops::domain_message(domain), message);
            }
            Event::Progress { percent, eta_s } => {
                self.write(ops::PROGRESS, &percent.to_string());
                self.write(
                    ops::ETA,
                    &eta_s.map(|eta| eta.to_string()).unwrap_or_default(),
                );
            }
        }
    }

    fn show_journal(&mut self, journal: &Journal) {
        let version = |slot| {
            journal
                .release(slot)
                .map_or("", |release| release.version.as_str())
        };
        self.write(ops::RELEASE, version(self.booted));
        self.write(ops::SLOT, self.booted.letter());
        let upgrade = journal.upgrade.as_ref();
        self.write(
            ops::TO,
            upgrade.map_or("", |upgrade| upgrade.to.version.as_str()),
        );
        let (last, error) = match &journal.last {
            None => (String::new(), String::new()),
            Some(ended) => {
                let error = match &ended.outcome {
                    Outcome::FellBack(reason) | Outcome::Abandoned(reason) => reason.to_string(),
                    Outcome::Confirmed | Outcome::RolledBack => String::new(),
                };
                (report::ending(ended), error)
            }
        };
        let error = match upgrade.and_then(|upgrade| upgrade.giving_up.as_ref()) {
            Some(reason) => reason.to_string(),
            None => error,
        };
        self.write(ops::LAST, &last);
        self.write(ops::ERROR, &error);
        // The state comes last: who watches it finds the rest in place.
        self.write(ops::STATE, report::state_word(journal));
    }

    fn write(&mut self, path: &str, value: &str) {
        let Some(store) = &self.store else { return };
        let mut end = value.len().min(VALUE_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        if let Err(error) = store.write(path, &value[..end]) {
            tracing::warn!("nothing more can be shown under {OPS}: {error}");
            self.store = None;
        }
    }
}
