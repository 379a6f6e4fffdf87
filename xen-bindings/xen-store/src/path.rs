//! Which paths xenstore allows.

use std::ffi::CString;

use crate::{Error, ErrorKind};

/// The longest absolute path, in bytes; oxenstored takes 1024, the C xenstored 3072.
const PATH_MAX: usize = 1024;

/// Checks an absolute path: letters, digits and `-/_@`, no empty part, no trailing slash.
pub(crate) fn node(operation: &'static str, path: &str) -> Result<CString, Error> {
    let well_formed = path == "/"
        || path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(is_part));
    checked(operation, path, well_formed)
}

/// As [`node`], or one of the special paths `@introduceDomain` and `@releaseDomain`.
pub(crate) fn watchable(operation: &'static str, path: &str) -> Result<CString, Error> {
    match path.strip_prefix('@') {
        Some(name) => checked(operation, path, is_part(name)),
        None => node(operation, path),
    }
}

fn is_part(part: &str) -> bool {
    !part.is_empty()
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_@".contains(&byte))
}

fn checked(operation: &'static str, path: &str, well_formed: bool) -> Result<CString, Error> {
    if !well_formed || path.len() > PATH_MAX {
        return Err(Error::new(operation, path, ErrorKind::BadPath));
    }
    CString::new(path).map_err(|_| Error::new(operation, path, ErrorKind::BadPath))
}

#[cfg(test)]
mod tests {
    use super::{PATH_MAX, node, watchable};

    #[test]
    fn what_xenstore_allows() {
        for path in ["/", "/tool", "/local/domain/7/data", "/a-b/c_d/e@f/0"] {
            assert!(node("read", path).is_ok(), "{path}");
        }
        assert!(watchable("watch", "@releaseDomain").is_ok());
    }

    #[test]
    fn what_it_does_not() {
        let long = format!("/{}", "x".repeat(PATH_MAX));
        for path in [
            "",
            "tool",
            "//",
            "/a//b",
            "/a/",
            "/a b",
            "/a.b",
            "/ä",
            "/a\0b",
            "@releaseDomain",
            &long,
        ] {
            assert!(node("read", path).is_err(), "{path:?}");
        }
        assert!(watchable("watch", "@").is_err());
        assert!(watchable("watch", "@a/b").is_err());
    }
}
