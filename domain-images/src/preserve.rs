//! The node's own files: carried from the active dom0 to the staged one, so that host keys, network
//! and node configuration survive an upgrade.
//!
//! A pattern is an absolute path whose components may hold `*`, `?` and `[...]`, which stand for
//! anything within the component. What matches is carried with everything in it, with owner, mode,
//! times, extended attributes and ACLs; it replaces what the release has at the same place. A pattern
//! that matches nothing is no error. Both sides are confined to their root, and no path goes through
//! a symbolic link. Names of one file by hard links come out as separate files; sockets are left to
//! those who make them.

mod carry;

use std::io;

use thiserror::Error;

pub use carry::carry;

/// Why a node's own file could not be carried over.
#[derive(Debug, Error)]
pub enum PreserveError {
    /// A pattern is malformed.
    #[error("pattern `{pattern}`: {reason}")]
    Pattern {
        /// As it is in the manifest.
        pattern: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// One of the files.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// A verb.
        doing: &'static str,
        /// Which file, escaped.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Something of another type is in the way in the new root.
    #[error("cannot carry {path} over: {reason}")]
    InTheWay {
        /// Which file, escaped.
        path: String,
        /// What is in the way.
        reason: &'static str,
    },
}

/// Parsed patterns.
#[derive(Debug, Default)]
pub(crate) struct Patterns(Vec<Vec<glob::Pattern>>);

impl Patterns {
    pub(crate) fn parse(patterns: &[String]) -> Result<Self, PreserveError> {
        patterns
            .iter()
            .map(|pattern| parse(pattern))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether `path` (relative) matches, or lies in something that does.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        self.0.iter().any(|pattern| {
            let mut parts = path.split(|b| *b == b'/');
            pattern
                .iter()
                .all(|component| parts.next().is_some_and(|part| matches(component, part)))
        })
    }

    /// Whether something that matches may lie in `path`: such folders are made where they are missing.
    pub(crate) fn leads_to(&self, path: &[u8]) -> bool {
        self.0.iter().any(|pattern| {
            let mut components = pattern.iter();
            path.split(|b| *b == b'/')
                .all(|part| components.next().is_some_and(|glob| matches(glob, part)))
        })
    }
}

fn parse(pattern: &str) -> Result<Vec<glob::Pattern>, PreserveError> {
    let bad = |reason| PreserveError::Pattern {
        pattern: pattern.escape_debug().to_string(),
        reason,
    };
    let path = pattern
        .strip_prefix('/')
        .ok_or_else(|| bad("it is not absolute"))?;
    path.strip_suffix('/')
        .unwrap_or(path)
        .split('/')
        .map(|component| match component {
            "" | "." | ".." | "**" => Err(bad("a component of it is not a name")),
            _ => glob::Pattern::new(component).map_err(|_| bad("it is malformed")),
        })
        .collect()
}

/// As a shell does it, but hidden files match like others: a pattern in a manifest is about all of
/// them. A name that is not UTF-8 matches only `*`.
fn matches(component: &glob::Pattern, name: &[u8]) -> bool {
    match std::str::from_utf8(name) {
        Ok(name) => component.matches(name),
        Err(_) => component.as_str() == "*",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Patterns {
        let list: Vec<String> = list.iter().map(|p| (*p).to_owned()).collect();
        Patterns::parse(&list).unwrap()
    }

    #[test]
    fn a_match_covers_what_is_in_it() {
        let own = patterns(&["/etc/ssh/ssh_host_*", "/etc/xupg/"]);
        assert!(own.covers(b"etc/ssh/ssh_host_rsa_key"));
        assert!(own.covers(b"etc/xupg/trust/ca.pem"));
        assert!(!own.covers(b"etc/ssh/sshd_config"));
        assert!(!own.covers(b"etc/ssh"));
        assert!(own.leads_to(b"etc/ssh"));
        assert!(!own.leads_to(b"etc/network"));
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["etc/x", "/etc/../x", "/etc//x", "/etc/[", "/", "/**/x"] {
            assert!(Patterns::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
