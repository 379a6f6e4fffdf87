//! libxl itself. All the unsafe code of this crate is in this file.
//!
//! A [`Context`] lives on the one thread that made it (it is not `Send`). Everything a call returns is
//! copied and freed in the function that made the call.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use xen_sys as sys;

use crate::{Action, Disk, Domain, DomainConfig, Host, Reason, State, Uuid};

/// A libxl error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(c_int);

impl Code {
    /// Whether it says that there is no such domain.
    pub(crate) fn is_no_domain(self) -> bool {
        use sys::libxl_error::{ERROR_DOMAIN_DESTROYED, ERROR_DOMAIN_NOTFOUND};
        matches!(self.0, ERROR_DOMAIN_NOTFOUND | ERROR_DOMAIN_DESTROYED)
    }

    /// Whether it says that the guest has no driver to listen to the toolstack.
    pub(crate) fn is_no_paravirt(self) -> bool {
        self.0 == sys::libxl_error::ERROR_NOPARAVIRT
    }

    /// Whether it says that the guest, or something else, took too long.
    pub(crate) fn is_timeout(self) -> bool {
        use sys::libxl_error::{ERROR_ABORTED, ERROR_GUEST_TIMEDOUT, ERROR_TIMEDOUT};
        matches!(
            self.0,
            ERROR_TIMEDOUT | ERROR_GUEST_TIMEDOUT | ERROR_ABORTED
        )
    }

    /// libxl's name for it.
    pub(crate) fn name(self) -> String {
        // SAFETY: takes any number; returns NULL or a string that lives for ever.
        let name = unsafe { sys::libxl_error_to_string(self.0) };
        match copy_text(name) {
            Some(name) => format!("{name} ({})", self.0),
            None => format!("error {}", self.0),
        }
    }
}

fn check(rc: c_int) -> Result<(), Code> {
    if rc == 0 { Ok(()) } else { Err(Code(rc)) }
}

/// Chosen by the caller to recognise the events it asked for.
pub(crate) type EventId = u64;

/// What libxl reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: EventId,
    pub(crate) what: Happened,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Stopped(Reason),
    Gone,
    Completed(Result<(), Code>),
    Other,
}

/// An open libxl, on its thread.
pub(crate) struct Context {
    ctx: NonNull<sys::libxl_ctx>,
    // libxl holds pointers to these as long as `ctx` is open; drop() closes it first.
    logger: *mut sys::xentoollog_logger,
    event_hooks: *mut sys::libxl_event_hooks,
    disaster: *mut AtomicBool,
}

/// A request for the events of a domain's end; belongs to the context that made it.
pub(crate) struct DeathWatch(NonNull<sys::libxl_evgen_domain_death>);

/// libxl reaps its own children only, at all times; ours are waited for by pid.
static CHILDREN: sys::libxl_childproc_hooks = sys::libxl_childproc_hooks {
    chldowner: sys::libxl_sigchld_owner::libxl_sigchld_owner_libxl_always_selective_reap,
    fork_replacement: None,
    reaped_callback: None,
};

impl Context {
    pub(crate) fn open() -> Result<Self, Code> {
        let logger = Box::into_raw(Box::new(sys::xentoollog_logger {
            vmessage: Some(log_message),
            progress: Some(log_progress),
            destroy: None,
        }));
        let mut ctx = ptr::null_mut();
        // SAFETY: `ctx` and `logger` outlive the call, `logger` the context too.
        let rc = unsafe { sys::libxl_ctx_alloc(&mut ctx, sys::LIBXL_VERSION as c_int, 0, logger) };
        let opened =
            check(rc).and_then(|()| NonNull::new(ctx).ok_or(Code(sys::libxl_error::ERROR_FAIL)));
        let ctx = match opened {
            Ok(ctx) => ctx,
            Err(code) => {
                // SAFETY: made by Box above, and no context holds it.
                drop(unsafe { Box::from_raw(logger) });
                return Err(code);
            }
        };
        let event_hooks = Box::into_raw(Box::new(sys::libxl_event_hooks {
            event_occurs_mask: 0,
            event_occurs: None,
            disaster: Some(on_disaster),
        }));
        let disaster = Box::into_raw(Box::new(AtomicBool::new(false)));
        // SAFETY: nothing has been asked of the context yet, as both calls want it; hooks and user
        // data live until the context is closed.
        unsafe {
            sys::libxl_childproc_setmode(ctx.as_ptr(), &CHILDREN, ptr::null_mut());
            sys::libxl_event_register_callbacks(ctx.as_ptr(), event_hooks, disaster.cast());
        }
        Ok(Self {
            ctx,
            logger,
            event_hooks,
            disaster,
        })
    }

    /// Whether libxl has reported that it may lose events.
    pub(crate) fn is_broken(&self) -> bool {
        // SAFETY: made in open(), freed in drop().
        unsafe { &*self.disaster }.load(Ordering::SeqCst)
    }

    /// All domains but dom0 and those that serve Xen itself (`never_stop`).
    pub(crate) fn list(&self) -> Result<Vec<Domain>, Code> {
        let mut count = 0;
        // SAFETY: the context is open, `count` outlives the call.
        let list = unsafe { sys::libxl_list_domain(self.ctx.as_ptr(), &mut count) };
        let list = NonNull::new(list).ok_or(Code(sys::libxl_error::ERROR_FAIL))?;
        // SAFETY: libxl returned `count` entries at `list`.
        let entries =
            unsafe { slice::from_raw_parts(list.as_ptr(), usize::try_from(count).unwrap_or(0)) };
        let domains = entries
            .iter()
            .filter(|info| info.domid != 0 && !info.never_stop)
            .map(|info| self.domain(info))
            .collect();
        // SAFETY: from libxl_list_domain, with its count, freed once.
        unsafe { sys::libxl_dominfo_list_free(list.as_ptr(), count) };
        Ok(domains)
    }

    /// One domain.
    pub(crate) fn info(&self, domid: u32) -> Result<Domain, Code> {
        let mut info = MaybeUninit::uninit();
        // SAFETY: the context is open; init fills in all of `info` before it is used, and dispose
        // frees what it points to, once.
        unsafe {
            sys::libxl_dominfo_init(info.as_mut_ptr());
            let rc = sys::libxl_domain_info(self.ctx.as_ptr(), info.as_mut_ptr(), domid);
            let result = check(rc).map(|()| self.domain(info.assume_init_ref()));
            sys::libxl_dominfo_dispose(info.as_mut_ptr());
            result
        }
    }

    fn domain(&self, info: &sys::libxl_dominfo) -> Domain {
        let state = if info.dying {
            State::Dying
        } else if info.shutdown {
            State::Stopped(reason(info.shutdown_reason))
        } else if info.paused {
            State::Paused
        } else {
            State::Running
        };
        // SAFETY: the context is open; the result is NULL or a string for us to free.
        let name = unsafe { sys::libxl_domid_to_name(self.ctx.as_ptr(), info.domid) };
        Domain {
            domid: info.domid,
            uuid: Uuid(info.uuid.uuid),
            name: take_text(name).unwrap_or_default(),
            state,
        }
    }

    pub(crate) fn config(&self, domid: u32) -> Result<DomainConfig, Code> {
        let mut config = MaybeUninit::<sys::libxl_domain_config>::uninit();
        // SAFETY: the context is open; init fills in all of `config` before it is used, and dispose
        // frees what it points to, once. No ao_how: complete when the call returns.
        unsafe {
            sys::libxl_domain_config_init(config.as_mut_ptr());
            let rc = sys::libxl_retrieve_domain_configuration(
                self.ctx.as_ptr(),
                domid,
                config.as_mut_ptr(),
                ptr::null(),
            );
            let result = check(rc).map(|()| {
                let config = config.assume_init_ref();
                DomainConfig {
                    name: copy_text(config.c_info.name).unwrap_or_default(),
                    on_poweroff: action(config.on_poweroff),
                    on_reboot: action(config.on_reboot),
                    on_crash: action(config.on_crash),
                    on_watchdog: action(config.on_watchdog),
                    disks: disks(config),
                }
            });
            sys::libxl_domain_config_dispose(config.as_mut_ptr());
            result
        }
    }

    pub(crate) fn host(&self) -> Result<Host, Code> {
        // SAFETY: the context is open; the result is NULL or belongs to the context and stays.
        let info = unsafe { sys::libxl_get_version_info(self.ctx.as_ptr()).as_ref() }
            .ok_or(Code(sys::libxl_error::ERROR_FAIL))?;
        Ok(Host {
            version: format!(
                "{}.{}{}",
                info.xen_version_major,
                info.xen_version_minor,
                copy_text(info.xen_version_extra).unwrap_or_default()
            ),
            command_line: copy_text(info.commandline).unwrap_or_default(),
        })
    }

    /// Asks a guest to power off; `Completed` comes when it has taken note, or will not.
    pub(crate) fn start_shutdown(&self, domid: u32, id: EventId) -> Result<(), Code> {
        // SAFETY: the context is open; `ao_how` is copied by the call.
        check(unsafe { sys::libxl_domain_shutdown(self.ctx.as_ptr(), domid, &by_event(id)) })
    }

    /// Starts to destroy a domain; `Completed` comes when all of it is gone.
    pub(crate) fn start_destroy(&self, domid: u32, id: EventId) -> Result<(), Code> {
        // SAFETY: the context is open; `ao_how` is copied by the call.
        check(unsafe { sys::libxl_domain_destroy(self.ctx.as_ptr(), domid, &by_event(id)) })
    }

    /// Lets a paused domain run; `Completed` comes when it does.
    pub(crate) fn start_unpause(&self, domid: u32, id: EventId) -> Result<(), Code> {
        // SAFETY: the context is open; `ao_how` is copied by the call.
        check(unsafe { sys::libxl_domain_unpause(self.ctx.as_ptr(), domid, &by_event(id)) })
    }

    /// Asks libxl to give up an operation; its `Completed` comes sooner then. Not all can be given
    /// up, and one that has completed is not known any more: both do no harm.
    pub(crate) fn abort(&self, id: EventId) {
        // SAFETY: the context is open; the call only compares `ao_how` with those it knows.
        let rc = unsafe { sys::libxl_ao_abort(self.ctx.as_ptr(), &by_event(id)) };
        if let Err(code) = check(rc) {
            tracing::debug!(code = code.0, "libxl does not give up an operation");
        }
    }

    /// From now on `Stopped` and `Gone` are reported for this domain, also if it is so already.
    pub(crate) fn watch_death(&self, domid: u32, id: EventId) -> Result<DeathWatch, Code> {
        let mut watch = ptr::null_mut();
        // SAFETY: the context is open, `watch` outlives the call.
        check(unsafe {
            sys::libxl_evenable_domain_death(self.ctx.as_ptr(), domid, id, &mut watch)
        })?;
        NonNull::new(watch)
            .map(DeathWatch)
            .ok_or(Code(sys::libxl_error::ERROR_FAIL))
    }

    pub(crate) fn unwatch_death(&self, watch: DeathWatch) {
        // SAFETY: made by watch_death of this context (there is one per thread), given back once.
        unsafe { sys::libxl_evdisable_domain_death(self.ctx.as_ptr(), watch.0.as_ptr()) }
    }

    /// Waits until libxl has something to do or `wake` is readable, and lets libxl do it.
    pub(crate) fn poll(&self, wake: BorrowedFd<'_>) -> Result<(), Code> {
        const NOTHING: libc::pollfd = libc::pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        };
        let mut fds = vec![NOTHING; 16];
        let (count, timeout) = loop {
            // The last one is ours.
            let mut count = c_int::try_from(fds.len() - 1).unwrap_or(c_int::MAX);
            let mut timeout = -1;
            // SAFETY: `fds` has room for `count` entries; libc's pollfd is the system's.
            let rc = unsafe {
                sys::libxl_osevent_beforepoll(
                    self.ctx.as_ptr(),
                    &mut count,
                    fds.as_mut_ptr().cast(),
                    &mut timeout,
                    now(),
                )
            };
            if rc != sys::libxl_error::ERROR_BUFFERFULL {
                check(rc)?;
                break (usize::try_from(count).unwrap_or(0), timeout);
            }
            fds.resize(usize::try_from(count).unwrap_or(0) + 1, NOTHING);
        };
        fds.truncate(count);
        fds.push(libc::pollfd {
            fd: wake.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: `fds` has as many entries as are said.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
        if ready < 0 {
            // Interrupted, by SIGCHLD for one: what poll left in `fds` means nothing.
            for fd in &mut fds {
                fd.revents = 0;
            }
        }
        // SAFETY: the first `count` entries are from beforepoll, as poll has left them.
        unsafe {
            sys::libxl_osevent_afterpoll(
                self.ctx.as_ptr(),
                count as c_int,
                fds.as_ptr().cast(),
                now(),
            );
        }
        Ok(())
    }

    /// The next event that has happened.
    pub(crate) fn next_event(&self) -> Result<Option<Event>, Code> {
        let mut event = ptr::null_mut();
        // SAFETY: the context is open, `event` outlives the call; no predicate is used.
        let rc = unsafe {
            sys::libxl_event_check(
                self.ctx.as_ptr(),
                &mut event,
                u64::MAX,
                None,
                ptr::null_mut(),
            )
        };
        if rc == sys::libxl_error::ERROR_NOT_READY {
            return Ok(None);
        }
        check(rc)?;
        let event = NonNull::new(event).ok_or(Code(sys::libxl_error::ERROR_FAIL))?;
        // SAFETY: libxl returned an event, which is ours until it is freed below.
        let raw = unsafe { event.as_ref() };
        use sys::libxl_event_type as kind;
        let what = match raw.type_ {
            kind::LIBXL_EVENT_TYPE_DOMAIN_SHUTDOWN => {
                // SAFETY: this type of event has this member.
                let code = unsafe { raw.u.domain_shutdown.shutdown_reason };
                Happened::Stopped(reason(code.into()))
            }
            kind::LIBXL_EVENT_TYPE_DOMAIN_DEATH => Happened::Gone,
            kind::LIBXL_EVENT_TYPE_OPERATION_COMPLETE => {
                // SAFETY: this type of event has this member.
                Happened::Completed(check(unsafe { raw.u.operation_complete.rc }))
            }
            _ => Happened::Other,
        };
        let copy = Event {
            id: raw.for_user,
            what,
        };
        // SAFETY: from libxl_event_check, freed once, not used after.
        unsafe { sys::libxl_event_free(self.ctx.as_ptr(), event.as_ptr()) };
        Ok(Some(copy))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is open and used no more; what it pointed to was made by Box in open()
        // and is freed after it is closed.
        unsafe {
            sys::libxl_ctx_free(self.ctx.as_ptr());
            drop(Box::from_raw(self.event_hooks));
            drop(Box::from_raw(self.disaster));
            drop(Box::from_raw(self.logger));
        }
    }
}

/// "Report the completion as an event with this number."
fn by_event(id: EventId) -> sys::libxl_asyncop_how {
    sys::libxl_asyncop_how {
        callback: None,
        u: sys::libxl_asyncop_how__bindgen_ty_1 { for_event: id },
    }
}

fn now() -> sys::timeval {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    sys::timeval {
        tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        tv_usec: now.subsec_micros().into(),
    }
}

/// The disks of a configuration that libxl has brought up to date with the live domain. (What
/// libxl_device_disk_list returns has no formats.)
fn disks(config: &sys::libxl_domain_config) -> Vec<Disk> {
    let count = usize::try_from(config.num_disks).unwrap_or(0);
    if config.disks.is_null() {
        return Vec::new();
    }
    // SAFETY: libxl keeps `num_disks` entries at `disks` until the configuration is disposed of.
    let entries = unsafe { slice::from_raw_parts(config.disks, count) };
    entries
        .iter()
        .map(|disk| Disk {
            target: copy_path(disk.pdev_path),
            vdev: copy_text(disk.vdev).unwrap_or_default(),
            format: {
                // SAFETY: takes any number; returns NULL or a string that lives for ever.
                let name = unsafe { sys::libxl_disk_format_to_string(disk.format) };
                copy_text(name).unwrap_or_default()
            },
            writable: disk.readwrite != 0,
            cdrom: disk.is_cdrom != 0,
        })
        .collect()
}

fn reason(code: sys::libxl_shutdown_reason::Type) -> Reason {
    use sys::libxl_shutdown_reason as name;
    match code {
        name::LIBXL_SHUTDOWN_REASON_POWEROFF => Reason::Poweroff,
        name::LIBXL_SHUTDOWN_REASON_REBOOT => Reason::Reboot,
        name::LIBXL_SHUTDOWN_REASON_SUSPEND => Reason::Suspend,
        name::LIBXL_SHUTDOWN_REASON_CRASH => Reason::Crash,
        name::LIBXL_SHUTDOWN_REASON_WATCHDOG => Reason::Watchdog,
        name::LIBXL_SHUTDOWN_REASON_SOFT_RESET => Reason::SoftReset,
        _ => Reason::Unknown,
    }
}

fn action(code: sys::libxl_action_on_shutdown::Type) -> Action {
    use sys::libxl_action_on_shutdown as name;
    match code {
        name::LIBXL_ACTION_ON_SHUTDOWN_DESTROY => Action::Destroy,
        name::LIBXL_ACTION_ON_SHUTDOWN_RESTART => Action::Restart,
        name::LIBXL_ACTION_ON_SHUTDOWN_RESTART_RENAME => Action::RestartRename,
        name::LIBXL_ACTION_ON_SHUTDOWN_PRESERVE => Action::Preserve,
        name::LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_DESTROY => Action::CoredumpDestroy,
        name::LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_RESTART => Action::CoredumpRestart,
        name::LIBXL_ACTION_ON_SHUTDOWN_SOFT_RESET => Action::SoftReset,
        _ => Action::Unknown,
    }
}

/// Copies a string that stays libxl's.
fn copy_text(text: *const c_char) -> Option<String> {
    Some(String::from_utf8_lossy(copy_bytes(text)?.as_slice()).into_owned())
}

/// Copies a path that stays libxl's.
fn copy_path(path: *const c_char) -> Option<PathBuf> {
    let bytes = copy_bytes(path)?;
    (!bytes.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(&bytes)))
}

fn copy_bytes(text: *const c_char) -> Option<Vec<u8>> {
    if text.is_null() {
        return None;
    }
    // SAFETY: libxl's strings end with NUL, and this one is borrowed for the copy only.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes().to_vec())
}

/// Copies a string that libxl made for us, and frees it.
fn take_text(text: *mut c_char) -> Option<String> {
    let copy = copy_text(text);
    // SAFETY: made by malloc in libxl for the caller to free; free(NULL) does nothing.
    unsafe { libc::free(text.cast()) };
    copy
}

/// Called by libxl, on this context's thread, when it can not go on as promised.
unsafe extern "C" fn on_disaster(
    user: *mut c_void,
    _kind: sys::libxl_event_type::Type,
    message: *const c_char,
    errno: c_int,
) {
    let message = copy_text(message).unwrap_or_default();
    tracing::error!(target: "libxl", errno, "disaster: {message}");
    // SAFETY: `user` is the flag that open() registered; it lives until the context is closed.
    unsafe { &*user.cast::<AtomicBool>() }.store(true, Ordering::SeqCst);
}

unsafe extern "C" fn log_message(
    _logger: *mut sys::xentoollog_logger,
    level: sys::xentoollog_level::Type,
    errno: c_int,
    context: *const c_char,
    format: *const c_char,
    arguments: *mut sys::__va_list_tag,
) {
    let mut buffer = [0_u8; 1024];
    // SAFETY: libxl passes a printf format and its arguments; the size is the buffer's, and
    // vsnprintf ends what it writes with NUL.
    unsafe {
        sys::vsnprintf(
            buffer.as_mut_ptr().cast(),
            buffer.len() as _,
            format,
            arguments,
        );
    }
    let message = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    let message = message.to_string_lossy();
    let context = copy_text(context).unwrap_or_default();
    // libxl passes -1 where there is none.
    let errno = (errno >= 0).then(|| std::io::Error::from_raw_os_error(errno).to_string());
    let errno = errno.as_deref();
    use sys::xentoollog_level as at;
    match level {
        at::XTL_ERROR | at::XTL_CRITICAL => {
            tracing::error!(target: "libxl", errno, "{context}: {message}");
        }
        at::XTL_WARN => tracing::warn!(target: "libxl", errno, "{context}: {message}"),
        at::XTL_NOTICE | at::XTL_INFO => {
            tracing::info!(target: "libxl", errno, "{context}: {message}");
        }
        at::XTL_DETAIL | at::XTL_VERBOSE => {
            tracing::debug!(target: "libxl", errno, "{context}: {message}");
        }
        _ => tracing::trace!(target: "libxl", errno, "{context}: {message}"),
    }
}

unsafe extern "C" fn log_progress(
    _logger: *mut sys::xentoollog_logger,
    _context: *const c_char,
    _doing: *const c_char,
    _percent: c_int,
    _done: std::ffi::c_ulong,
    _total: std::ffi::c_ulong,
) {
    // Only domain building and migration report any, and `xl` does those.
}
