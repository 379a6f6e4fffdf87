//! Single operations, each atomic by itself.

use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::connection::Connection;
use crate::libxenstore::{Handle, NO_TRANSACTION, Place};
use crate::{Error, ErrorKind, Permissions, Transaction, Watcher, path, transaction};

/// The longest value, in bytes. The C xenstored takes more from dom0; oxenstored does not.
pub const VALUE_MAX: usize = 2048;

/// How long an operation may take unless [`Store::with_deadline`] says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// xenstore, as dom0 sees it. Threads may share one.
///
/// Paths are absolute. Every operation ends within the deadline; after [`ErrorKind::Timeout`] and
/// [`ErrorKind::Disconnected`] the next one tries a new connection.
#[derive(Debug)]
pub struct Store {
    place: Place,
    deadline: Duration,
    /// The current one; replaced when it is broken.
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Store {
    /// Connects to the xenstored that `XENSTORED_PATH` names, else to the system's.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] where no xenstored runs, [`ErrorKind::Timeout`] when it does not
    /// answer.
    pub fn open() -> Result<Self, Error> {
        Self::at(Place::Environment)
    }

    /// Connects to the xenstored at a socket. For tests: libxenstore takes the path only from the
    /// environment, which is changed for a moment, so no other C code may read it meanwhile.
    ///
    /// # Errors
    /// As [`Store::open`].
    #[cfg(feature = "open-at")]
    pub fn open_at(socket: impl Into<std::path::PathBuf>) -> Result<Self, Error> {
        Self::at(Place::Socket(socket.into()))
    }

    fn at(place: Place) -> Result<Self, Error> {
        let this = Self {
            place,
            deadline: DEFAULT_DEADLINE,
            connection: Mutex::new(None),
        };
        this.connection()
            .and_then(|connection| connection.call(this.deadline_from_now(), Handle::probe))
            .map_err(|kind| Error::new("connect", "", kind))?;
        Ok(this)
    }

    /// Sets how long each operation, and each transaction as a whole, may take.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A node's value.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and those of the connection.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.on_node("read", path, |handle, path| {
            handle.read(NO_TRANSACTION, path)
        })
    }

    /// A node's value, `None` when there is no such node.
    ///
    /// # Errors
    /// Those of [`Store::read`] but for [`ErrorKind::NotFound`].
    pub fn read_optional(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        none_if_missing(self.read(path))
    }

    /// Sets a node's value, making it and its parents where they are missing.
    ///
    /// # Errors
    /// [`ErrorKind::TooBig`] above [`VALUE_MAX`], [`ErrorKind::Quota`], and those of the connection.
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let value = checked_value(path, value.as_ref())?;
        self.on_node("write", path, move |handle, path| {
            handle.write(NO_TRANSACTION, path, &value)
        })
    }

    /// Makes a node with an empty value, unless it is there already.
    ///
    /// # Errors
    /// [`ErrorKind::Quota`], and those of the connection.
    pub fn make(&self, path: &str) -> Result<(), Error> {
        self.on_node("make", path, |handle, path| {
            handle.mkdir(NO_TRANSACTION, path)
        })
    }

    /// Removes a node and all below it. A node that is not there is as good as removed.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], and those of the connection.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        let removed = self.on_node("remove", path, |handle, path| {
            handle.remove(NO_TRANSACTION, path)
        });
        none_if_missing(removed).map(|_| ())
    }

    /// The names of a node's children, without their paths. Not for directories that a guest owns:
    /// it may put a thousand names there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and those of the connection.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        self.on_node("list", path, |handle, path| {
            handle.list(NO_TRANSACTION, path)
        })
    }

    /// Whether there is such a node.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.read_optional(path)?.is_some())
    }

    /// Who may do what with a node.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and those of the connection.
    pub fn permissions(&self, path: &str) -> Result<Permissions, Error> {
        self.on_node("get the permissions of", path, |handle, path| {
            handle.permissions(NO_TRANSACTION, path)
        })
    }

    /// Sets who may do what with a node. Its children keep theirs.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and those of the connection.
    pub fn set_permissions(&self, path: &str, permissions: &Permissions) -> Result<(), Error> {
        let permissions = permissions.clone();
        self.on_node("set the permissions of", path, move |handle, path| {
            handle.set_permissions(NO_TRANSACTION, path, &permissions)
        })
    }

    /// Makes several operations one: all of them happen, or none, and nobody sees half of them.
    ///
    /// When another writer interferes, the closure runs again, a bounded number of times: it should
    /// have no effect but through its argument. An error it returns aborts the transaction. All
    /// attempts together have one deadline.
    ///
    /// # Errors
    /// What the closure returns; [`ErrorKind::Conflict`] when others interfered each time; those of
    /// the connection. After [`ErrorKind::Timeout`] and [`ErrorKind::Disconnected`] from the end of
    /// the transaction it may have happened or not.
    pub fn transaction<T, E: From<Error>>(
        &self,
        body: impl FnMut(&Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        transaction::run(self, body)
    }

    /// A new watcher, with a connection of its own.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn watcher(&self) -> Result<Watcher, Error> {
        Watcher::start(self.place.clone(), self.deadline)
    }

    pub(crate) fn deadline_from_now(&self) -> Instant {
        Instant::now() + self.deadline
    }

    fn on_node<T, F>(&self, operation: &'static str, path: &str, call: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Handle, &CStr) -> Result<T, Errno> + Send + 'static,
    {
        let node = path::node(operation, path)?;
        let deadline = self.deadline_from_now();
        self.connection()
            .and_then(|connection| connection.call(deadline, move |handle| call(handle, &node)))
            .map_err(|kind| Error::new(operation, path, kind))
    }

    pub(crate) fn connection(&self) -> Result<Arc<Connection>, ErrorKind> {
        // Held for assignments only, which can not be left half done.
        let mut current = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &*current
            && !connection.is_broken()
        {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(Connection::start(self.place.clone())?);
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

pub(crate) fn none_if_missing<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn checked_value(path: &str, value: &[u8]) -> Result<Vec<u8>, Error> {
    if value.len() > VALUE_MAX {
        return Err(Error::new("write", path, ErrorKind::TooBig));
    }
    Ok(value.to_vec())
}
