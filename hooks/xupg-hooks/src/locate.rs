//! Finds the hook in a root, which need not be the running system's.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;

/// What lies at the hook's path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// Nothing: the domain has no hook.
    Missing,
    /// A file that can be executed.
    Executable,
    /// Something that is no hook, and why. It was meant to be one, so this is a failure.
    Unusable(String),
}

/// Looks for `hook` in `root` as a process whose root it is would: absolute links and `..` stay
/// inside. `None` is the running system.
pub(crate) fn locate(root: Option<&Path>, hook: &Path) -> Located {
    match stat(root, hook) {
        Ok(Some((kind, mode))) => match kind {
            FileType::RegularFile if mode & 0o111 != 0 => Located::Executable,
            FileType::RegularFile => Located::Unusable("is not executable".into()),
            FileType::Directory => Located::Unusable("is a directory".into()),
            FileType::Symlink => Located::Unusable("is a link to nothing".into()),
            _ => Located::Unusable("is not a regular file".into()),
        },
        Ok(None) => Located::Missing,
        Err(error) => Located::Unusable(format!("cannot be looked up: {error}")),
    }
}

/// Type and mode of what `hook` leads to; those of the link itself where it leads to nothing.
fn stat(root: Option<&Path>, hook: &Path) -> std::io::Result<Option<(FileType, u32)>> {
    let Some(root) = root else {
        // A domU's kernel may be too old for openat2, and its own root needs no confinement.
        let found = std::fs::metadata(hook).or_else(|_| std::fs::symlink_metadata(hook));
        return match found {
            Ok(found) => {
                let mode = found.permissions().mode();
                Ok(Some((FileType::from_raw_mode(mode), mode)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
    };
    let root = openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let open = |flags| -> Result<OwnedFd, Errno> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(
            &root,
            hook,
            OFlags::PATH | OFlags::CLOEXEC | flags,
            Mode::empty(),
            inside,
        )
    };
    let kind_and_mode = |stat: Stat| (FileType::from_raw_mode(stat.st_mode), stat.st_mode);
    match open(OFlags::empty()).or_else(|_| open(OFlags::NOFOLLOW)) {
        Ok(file) => Ok(Some(kind_and_mode(fstat(&file)?))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/lib/xupg")).unwrap();
        root
    }

    fn unusable(located: Located, why: &str) -> bool {
        matches!(located, Located::Unusable(text) if text.contains(why))
    }

    #[test]
    fn what_is_no_hook_is_told_apart_from_no_hook() {
        let root = root();
        let hook = root.path().join("usr/lib/xupg/hook");
        let in_root = || locate(Some(root.path()), Path::new("/usr/lib/xupg/hook"));
        assert_eq!(
            (in_root(), locate(None, &hook)),
            (Located::Missing, Located::Missing)
        );

        symlink("nowhere", &hook).unwrap();
        assert!(unusable(in_root(), "link to nothing"));
        assert!(unusable(locate(None, &hook), "link to nothing"));
        std::fs::remove_file(&hook).unwrap();

        std::fs::create_dir(&hook).unwrap();
        assert!(unusable(in_root(), "directory"));
        assert!(unusable(locate(None, &hook), "directory"));
        std::fs::remove_dir(&hook).unwrap();

        std::fs::write(&hook, "#!/bin/sh\n").unwrap();
        assert!(unusable(in_root(), "not executable"));
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            (in_root(), locate(None, &hook)),
            (Located::Executable, Located::Executable)
        );
    }

    #[test]
    fn a_link_never_leads_out_of_the_root() {
        let root = root();
        // Executable here, absent there.
        symlink("/bin/sh", root.path().join("usr/lib/xupg/hook")).unwrap();
        let located = locate(Some(root.path()), Path::new("/usr/lib/xupg/hook"));
        assert!(unusable(located, "link to nothing"));
    }
}
