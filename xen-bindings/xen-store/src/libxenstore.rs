//! libxenstore itself. All the unsafe code of this crate is in this file.
//!
//! Everything a call returns is copied and freed in the function that made the call. Errors are the
//! errno that libxenstore sets.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::slice;

use rustix::io::Errno;
use xen_sys as sys;

use crate::{Access, Permissions};

/// Where xenstored is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Where `XENSTORED_PATH` or libxenstore's default says.
    Environment,
    /// At a socket of one's own.
    #[cfg_attr(not(feature = "open-at"), allow(dead_code))]
    Socket(PathBuf),
}

/// A transaction's number; [`NO_TRANSACTION`] outside of one.
pub(crate) type TransactionId = sys::xs_transaction_t;
pub(crate) const NO_TRANSACTION: TransactionId = sys::XBT_NULL;

/// An open connection, used by one thread at a time.
pub(crate) struct Handle(NonNull<sys::xs_handle>);

// SAFETY: an xs_handle is not bound to the thread that opened it; it is moved, never shared.
unsafe impl Send for Handle {}

impl Handle {
    pub(crate) fn open(place: &Place) -> Result<Self, Errno> {
        let handle = match place {
            // SAFETY: xs_open takes no pointers. It reads the environment, which this crate never
            // changes unless `open-at` is on, see below.
            Place::Environment => unsafe { sys::xs_open(0) },
            #[cfg(not(feature = "open-at"))]
            Place::Socket(_) => return Err(Errno::NOSYS),
            #[cfg(feature = "open-at")]
            Place::Socket(path) => open_with_environment(path),
        };
        NonNull::new(handle).map(Self).ok_or_else(last_errno)
    }

    /// Asks for something that anyone may know and that always is, to see that somebody answers.
    pub(crate) fn probe(&self) -> Result<(), Errno> {
        // SAFETY: the handle is open.
        let path = unsafe { sys::xs_get_domain_path(self.0.as_ptr(), 0) };
        Allocated::new(path.cast()).map(drop)
    }

    pub(crate) fn read(&self, t: TransactionId, path: &CStr) -> Result<Vec<u8>, Errno> {
        let mut length = 0;
        // SAFETY: the handle is open, the path ends with NUL, `length` outlives the call.
        let value = unsafe { sys::xs_read(self.0.as_ptr(), t, path.as_ptr(), &mut length) };
        let value = Allocated::new(value)?;
        // SAFETY: xs_read returned `length` bytes at `value`.
        let bytes = unsafe { slice::from_raw_parts(value.as_ptr().cast::<u8>(), length as usize) };
        Ok(bytes.to_vec())
    }

    pub(crate) fn write(&self, t: TransactionId, path: &CStr, value: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
        // SAFETY: the handle is open, the path ends with NUL, `value` has `length` bytes.
        succeeded(unsafe {
            sys::xs_write(
                self.0.as_ptr(),
                t,
                path.as_ptr(),
                value.as_ptr().cast(),
                length,
            )
        })
    }

    pub(crate) fn mkdir(&self, t: TransactionId, path: &CStr) -> Result<(), Errno> {
        // SAFETY: the handle is open, the path ends with NUL.
        succeeded(unsafe { sys::xs_mkdir(self.0.as_ptr(), t, path.as_ptr()) })
    }

    pub(crate) fn remove(&self, t: TransactionId, path: &CStr) -> Result<(), Errno> {
        // SAFETY: the handle is open, the path ends with NUL.
        succeeded(unsafe { sys::xs_rm(self.0.as_ptr(), t, path.as_ptr()) })
    }

    pub(crate) fn list(&self, t: TransactionId, path: &CStr) -> Result<Vec<String>, Errno> {
        let mut count = 0;
        // SAFETY: the handle is open, the path ends with NUL, `count` outlives the call.
        let names = unsafe { sys::xs_directory(self.0.as_ptr(), t, path.as_ptr(), &mut count) };
        let names = Allocated::new(names.cast())?;
        // SAFETY: xs_directory returned `count` pointers at `names`.
        let entries = unsafe {
            slice::from_raw_parts(names.as_ptr().cast::<*const c_char>(), count as usize)
        };
        Ok(entries
            .iter()
            // SAFETY: each points to a string within the same allocation, which is still held.
            .map(|&name| unsafe { CStr::from_ptr(name) })
            // xenstored allows only ASCII in names.
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    pub(crate) fn permissions(&self, t: TransactionId, path: &CStr) -> Result<Permissions, Errno> {
        let mut count = 0;
        // SAFETY: the handle is open, the path ends with NUL, `count` outlives the call.
        let list =
            unsafe { sys::xs_get_permissions(self.0.as_ptr(), t, path.as_ptr(), &mut count) };
        let list = Allocated::new(list.cast())?;
        // SAFETY: xs_get_permissions returned `count` entries at `list`.
        let entries = unsafe {
            slice::from_raw_parts(list.as_ptr().cast::<sys::xs_permissions>(), count as usize)
        };
        // The first names the owner and what all others may do.
        let (first, rest) = entries.split_first().ok_or(Errno::INVAL)?;
        Ok(Permissions {
            owner: first.id,
            others: access_of(first.perms),
            granted: rest
                .iter()
                .map(|entry| (entry.id, access_of(entry.perms)))
                .collect(),
        })
    }

    pub(crate) fn set_permissions(
        &self,
        t: TransactionId,
        path: &CStr,
        permissions: &Permissions,
    ) -> Result<(), Errno> {
        let mut entries: Vec<sys::xs_permissions> = [(permissions.owner, permissions.others)]
            .into_iter()
            .chain(permissions.granted.iter().copied())
            .map(|(id, access)| sys::xs_permissions {
                id,
                perms: flags_of(access),
            })
            .collect();
        let count = u32::try_from(entries.len()).map_err(|_| Errno::TOOBIG)?;
        // SAFETY: the handle is open, the path ends with NUL, `entries` has `count` entries.
        succeeded(unsafe {
            sys::xs_set_permissions(
                self.0.as_ptr(),
                t,
                path.as_ptr(),
                entries.as_mut_ptr(),
                count,
            )
        })
    }

    pub(crate) fn start_transaction(&self) -> Result<TransactionId, Errno> {
        // SAFETY: the handle is open.
        let id = unsafe { sys::xs_transaction_start(self.0.as_ptr()) };
        if id == NO_TRANSACTION {
            return Err(last_errno());
        }
        Ok(id)
    }

    pub(crate) fn end_transaction(&self, t: TransactionId, abort: bool) -> Result<(), Errno> {
        // SAFETY: the handle is open; a number that xenstored does not know is an error there.
        succeeded(unsafe { sys::xs_transaction_end(self.0.as_ptr(), t, abort) })
    }

    pub(crate) fn watch(&self, path: &CStr, token: &CStr) -> Result<(), Errno> {
        // SAFETY: the handle is open, both strings end with NUL and are copied by the call.
        succeeded(unsafe { sys::xs_watch(self.0.as_ptr(), path.as_ptr(), token.as_ptr()) })
    }

    pub(crate) fn unwatch(&self, path: &CStr, token: &CStr) -> Result<(), Errno> {
        // SAFETY: the handle is open, both strings end with NUL.
        succeeded(unsafe { sys::xs_unwatch(self.0.as_ptr(), path.as_ptr(), token.as_ptr()) })
    }

    /// Becomes readable when a watch has fired.
    pub(crate) fn watch_fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        // SAFETY: the handle is open.
        let fd = unsafe { sys::xs_fileno(self.0.as_ptr()) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the descriptor belongs to the handle, which is borrowed as long as it is.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// The token of the next event that has come in, `None` when there is none yet.
    pub(crate) fn next_event(&self) -> Result<Option<CString>, Errno> {
        // SAFETY: the handle is open.
        let event = unsafe { sys::xs_check_watch(self.0.as_ptr()) };
        let event = match Allocated::new(event.cast()) {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        // SAFETY: an event is two pointers, to the path and to the token, which are NUL-terminated
        // and within the same allocation.
        let token = unsafe {
            let fields = event.as_ptr().cast::<*const c_char>();
            CStr::from_ptr(*fields.add(sys::xs_watch_type::XS_WATCH_TOKEN as usize))
        };
        Ok(Some(token.to_owned()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is open and used no more.
        unsafe { sys::xs_close(self.0.as_ptr()) }
    }
}

/// Something that libxenstore has allocated with malloc.
struct Allocated(NonNull<c_void>);

impl Allocated {
    /// Reads errno when there is nothing: call it right after the call that failed.
    fn new(pointer: *mut c_void) -> Result<Self, Errno> {
        NonNull::new(pointer).map(Self).ok_or_else(last_errno)
    }

    fn as_ptr(&self) -> *const c_void {
        self.0.as_ptr()
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: made by malloc in libxenstore, owned and freed once.
        unsafe { libc::free(self.0.as_ptr()) }
    }
}

fn succeeded(yes: bool) -> Result<(), Errno> {
    if yes { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn access_of(flags: u32) -> Access {
    use sys::{XS_PERM_READ, XS_PERM_WRITE};
    match (flags & XS_PERM_READ != 0, flags & XS_PERM_WRITE != 0) {
        (false, false) => Access::None,
        (true, false) => Access::Read,
        (false, true) => Access::Write,
        (true, true) => Access::ReadWrite,
    }
}

fn flags_of(access: Access) -> u32 {
    use sys::{XS_PERM_NONE, XS_PERM_READ, XS_PERM_WRITE};
    match access {
        Access::None => XS_PERM_NONE,
        Access::Read => XS_PERM_READ,
        Access::Write => XS_PERM_WRITE,
        Access::ReadWrite => XS_PERM_READ | XS_PERM_WRITE,
    }
}

/// libxenstore knows only `XENSTORED_PATH`, and so it is set while the connection is opened.
#[cfg(feature = "open-at")]
fn open_with_environment(path: &std::path::Path) -> *mut sys::xs_handle {
    use std::sync::{Mutex, PoisonError};

    const VARIABLE: &str = "XENSTORED_PATH";
    static ENVIRONMENT: Mutex<()> = Mutex::new(());

    let _alone = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::env::var_os(VARIABLE);
    // SAFETY: Rust code reads the environment under std's own lock, and this crate's C code under
    // `ENVIRONMENT`. Other C code that calls getenv meanwhile would be a race: that is why this is
    // behind a feature for tests, as `Store::open_at` says.
    unsafe { std::env::set_var(VARIABLE, path) };
    // SAFETY: xs_open takes no pointers.
    let handle = unsafe { sys::xs_open(0) };
    let errno = last_errno();
    // SAFETY: as above.
    unsafe {
        match before {
            Some(value) => std::env::set_var(VARIABLE, value),
            None => std::env::remove_var(VARIABLE),
        }
        // The caller wants xs_open's.
        *libc::__errno_location() = errno.raw_os_error();
    }
    handle
}
