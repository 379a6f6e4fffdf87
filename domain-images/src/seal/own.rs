//! What lies in a slot's root beside dom0's payload: images, stored lists, the node's own files.

use crate::manifest::Manifest;
use crate::preserve::Patterns;
use crate::stage::RELEASE_DIR;

/// Paths that a comparison with dom0's list does not judge.
#[derive(Debug, Default)]
pub(crate) struct OwnFiles {
    /// Relative paths of files and folders.
    paths: Vec<Vec<u8>>,
    /// Where the node's own files may be, once they have been carried over.
    preserved: Option<Patterns>,
}

impl OwnFiles {
    /// What a stage itself writes into the slot.
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let images = manifest
            .payloads
            .iter()
            .filter_map(|payload| payload.image.as_ref())
            .map(|image| image.path.trim_start_matches('/').as_bytes().to_vec());
        Self {
            paths: images.chain([RELEASE_DIR.as_bytes().to_vec()]).collect(),
            preserved: None,
        }
    }

    /// Leaves the node's own files out, too.
    pub(crate) fn and_preserved(mut self, patterns: Patterns) -> Self {
        self.preserved = Some(patterns);
        self
    }

    /// Whether `path` is not compared although it is listed.
    pub(crate) fn ignores(&self, path: &[u8]) -> bool {
        let preserved = self.preserved.as_ref();
        preserved.is_some_and(|patterns| patterns.covers(path))
    }

    /// Whether `path` may be there or not: nothing counts it. True for all folders above our own
    /// files, since they are made where the payload does not have them.
    pub(crate) fn allows(&self, path: &[u8]) -> bool {
        path == b"lost+found"
            || self.ignores(path)
            || self
                .paths
                .iter()
                .any(|own| is_within(path, own) || is_within(own, path))
            || self
                .preserved
                .as_ref()
                .is_some_and(|patterns| patterns.leads_to(path))
    }
}

/// Whether `path` is `folder` or lies in it.
fn is_within(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_and_the_way_to_them_are_allowed() {
        let own = OwnFiles {
            paths: vec![b"srv/web.img".to_vec()],
            preserved: None,
        };
        assert!(own.allows(b"srv"));
        assert!(own.allows(b"srv/web.img"));
        assert!(own.allows(b"lost+found"));
        assert!(!own.allows(b"srv/web.img2"));
        assert!(!own.allows(b"srv/lost+found"));
    }
}
