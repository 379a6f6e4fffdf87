//! What went wrong, who must act, where the node stands and what to do next.

use std::error::Error as StdError;
use std::fmt;

/// Whose turn it is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The node, a domain or the environment failed after work had begun.
    Failed,
    /// The command line asks for something that makes no sense.
    Usage,
    /// Bundle, policy or state say no, and nothing was changed.
    Refused,
    /// Another upgrade holds the node's lock.
    Busy,
}

impl Kind {
    /// The process exit code of design section 8.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Busy => 4,
        }
    }
}

/// A failure with everything an operator needs at 3 a.m.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    cause: Box<dyn StdError + Send + Sync>,
    /// What was being done, innermost first.
    doing: Vec<String>,
    node: Option<String>,
    hint: Option<String>,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` because of `cause` (an error or a message).
    pub fn new(kind: Kind, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind,
            cause: cause.into(),
            doing: Vec::new(),
            node: None,
            hint: None,
        }
    }

    /// Work had begun, or could not be ended.
    pub fn failed(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Failed, cause)
    }

    /// Nothing was changed, and nothing will be.
    pub fn refused(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Refused, cause)
    }

    /// The request itself is wrong.
    pub fn usage(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Usage, cause)
    }

    /// Adds what was being done, a gerund in lower case; callers add outwards.
    #[must_use]
    pub fn doing(mut self, what: impl Into<String>) -> Self {
        self.doing.push(what.into());
        self
    }

    /// Adds advice, unless an inner place, which knows more, has given some.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert(hint.into());
        self
    }

    /// Adds where the node stands.
    #[must_use]
    pub fn node(mut self, standing: impl Into<String>) -> Self {
        self.node = Some(standing.into());
        self
    }

    /// The same failure, once something has been changed: it can no longer be a refusal.
    #[must_use]
    pub fn after_changes(mut self) -> Self {
        if self.kind == Kind::Refused {
            self.kind = Kind::Failed;
        }
        self
    }

    /// Who must act.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The cause and its sources in one line.
    pub fn because(&self) -> String {
        let mut text = self.cause.to_string();
        let mut source = self.cause.source();
        while let Some(cause) = source {
            let inner = cause.to_string();
            if !text.ends_with(&inner) {
                text.push_str(": ");
                text.push_str(&inner);
            }
            source = cause.source();
        }
        text
    }

    /// The JSON form of `--json`, schema 1.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "schema": 1,
            "error": {
                "kind": self.kind,
                "doing": self.doing.iter().rev().collect::<Vec<_>>(),
                "because": self.because(),
                "node": self.node,
                "hint": self.hint,
            }
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut doing = self.doing.iter().rev();
        match doing.next() {
            None => return write!(f, "{}", self.because()).and_then(|()| self.write_tail(f)),
            Some(outermost) => f.write_str(outermost)?,
        }
        for inner in doing {
            write!(f, "\n  while {inner}")?;
        }
        write!(f, "\n  because {}", self.because())?;
        self.write_tail(f)
    }
}

impl Error {
    fn write_tail(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "\n  node: {node}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.cause.as_ref())
    }
}

/// Adds what was being done to a result of this or any other error type.
pub trait Doing<T> {
    /// See [`Error::doing`]; a foreign error becomes [`Kind::Failed`].
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Self {
        self.map_err(|error| error.doing(what()))
    }
}

/// Turns a foreign error into ours.
pub trait OrFailed<T> {
    /// [`Kind::Failed`], with what was being done.
    fn or_failed(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> OrFailed<T> for std::result::Result<T, E> {
    fn or_failed(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::failed(error).doing(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_outermost_first_and_ends_with_where_the_node_stands() {
        let error = Error::failed(std::io::Error::from_raw_os_error(28))
            .doing("unpacking payload `web` into slot B")
            .doing("upgrading to 4.3.1")
            .node("active A (4.2.0), next boot A; standby B is not bootable; a reboot is safe")
            .hint("`web` needs 2.1 GiB in slot B, 1.4 GiB are free");
        assert_eq!(
            error.to_string(),
            "upgrading to 4.3.1\n  while unpacking payload `web` into slot B\n  because No space \
             left on device (os error 28)\n  node: active A (4.2.0), next boot A; standby B is not \
             bootable; a reboot is safe\n  hint: `web` needs 2.1 GiB in slot B, 1.4 GiB are free"
        );
    }

    #[test]
    fn a_refusal_after_changes_is_a_failure() {
        assert_eq!(Error::refused("no").after_changes().kind().exit_code(), 1);
        assert_eq!(Error::refused("no").kind().exit_code(), 3);
    }
}
