//! Several operations as one.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use crate::connection::Connection;
use crate::libxenstore::{Handle, TransactionId};
use crate::store::{checked_value, none_if_missing};
use crate::{Error, ErrorKind, Permissions, Store, path};

/// How often a transaction is tried before others have interfered too often.
const ATTEMPTS: u32 = 32;

/// An open transaction, see [`Store::transaction`].
#[derive(Debug)]
pub struct Transaction {
    /// The number means something on this connection only.
    connection: Arc<Connection>,
    id: TransactionId,
    deadline: Instant,
    ended: bool,
}

pub(crate) fn run<T, E: From<Error>>(
    store: &Store,
    mut body: impl FnMut(&Transaction) -> Result<T, E>,
) -> Result<T, E> {
    let deadline = store.deadline_from_now();
    for _ in 0..ATTEMPTS {
        let transaction = Transaction::start(store, deadline)?;
        // When this returns, `transaction` is dropped, and so aborted.
        let result = body(&transaction)?;
        match transaction.end() {
            Ok(()) => return Ok(result),
            Err(ErrorKind::Conflict) => {}
            Err(kind) => return Err(Error::new("end a transaction", "", kind).into()),
        }
    }
    Err(Error::new("end a transaction", "", ErrorKind::Conflict).into())
}

impl Transaction {
    fn start(store: &Store, deadline: Instant) -> Result<Self, Error> {
        let started = store.connection().and_then(|connection| {
            let id = connection.call(deadline, Handle::start_transaction)?;
            Ok((connection, id))
        });
        let (connection, id) =
            started.map_err(|kind| Error::new("start a transaction", "", kind))?;
        Ok(Self {
            connection,
            id,
            deadline,
            ended: false,
        })
    }

    fn end(mut self) -> Result<(), ErrorKind> {
        self.ended = true;
        let id = self.id;
        self.connection.call(self.deadline, move |handle| {
            handle.end_transaction(id, false)
        })
    }

    /// As [`Store::read`].
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.on_node("read", path, Handle::read)
    }

    /// As [`Store::read_optional`].
    ///
    /// # Errors
    /// As [`Store::read_optional`].
    pub fn read_optional(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        none_if_missing(self.read(path))
    }

    /// As [`Store::write`].
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let value = checked_value(path, value.as_ref())?;
        self.on_node("write", path, move |handle, id, path| {
            handle.write(id, path, &value)
        })
    }

    /// As [`Store::make`].
    ///
    /// # Errors
    /// As [`Store::make`].
    pub fn make(&self, path: &str) -> Result<(), Error> {
        self.on_node("make", path, Handle::mkdir)
    }

    /// As [`Store::remove`].
    ///
    /// # Errors
    /// As [`Store::remove`].
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        none_if_missing(self.on_node("remove", path, Handle::remove)).map(|_| ())
    }

    /// As [`Store::list`].
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        self.on_node("list", path, Handle::list)
    }

    /// As [`Store::permissions`].
    ///
    /// # Errors
    /// As [`Store::permissions`].
    pub fn permissions(&self, path: &str) -> Result<Permissions, Error> {
        self.on_node("get the permissions of", path, Handle::permissions)
    }

    /// As [`Store::set_permissions`].
    ///
    /// # Errors
    /// As [`Store::set_permissions`].
    pub fn set_permissions(&self, path: &str, permissions: &Permissions) -> Result<(), Error> {
        let permissions = permissions.clone();
        self.on_node("set the permissions of", path, move |handle, id, path| {
            handle.set_permissions(id, path, &permissions)
        })
    }

    fn on_node<T, F>(&self, operation: &'static str, path: &str, call: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Handle, TransactionId, &CStr) -> Result<T, Errno> + Send + 'static,
    {
        let node = path::node(operation, path)?;
        let id = self.id;
        self.connection
            .call(self.deadline, move |handle| call(handle, id, &node))
            .map_err(|kind| Error::new(operation, path, kind))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.ended || self.connection.is_broken() {
            // xenstored forgets it with the connection.
            return;
        }
        let id = self.id;
        let aborted = self.connection.call(self.deadline, move |handle| {
            handle.end_transaction(id, true)
        });
        if let Err(kind) = aborted {
            tracing::debug!(%kind, "cannot abort a xenstore transaction");
        }
    }
}
