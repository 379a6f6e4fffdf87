//! What is known of a domain, as plain values.

use std::fmt;
use std::path::PathBuf;

/// A domain at the moment it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Xen's number for it: new after every start, and given again some time after its death.
    pub domid: u32,
    /// What tells it from an earlier or later domain of the same number.
    pub uuid: Uuid,
    /// Its name; empty while it is being made or taken down.
    pub name: String,
    /// What it was doing.
    pub state: State,
}

/// A domain's uuid.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

/// What a domain is doing (`libxl_dominfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs, or would if it had something to do.
    Running,
    /// It is paused by the toolstack, as every domain is that was just created.
    Paused,
    /// It has stopped by itself and waits to be destroyed.
    Stopped(Reason),
    /// It is being destroyed.
    Dying,
}

/// Why a domain has stopped (`libxl_shutdown_reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It has powered itself off.
    Poweroff,
    /// It wants to be started again.
    Reboot,
    /// It was suspended, to be saved or moved.
    Suspend,
    /// Its kernel has crashed.
    Crash,
    /// Its watchdog has expired.
    Watchdog,
    /// It wants its memory kept and all else reset.
    SoftReset,
    /// None of these.
    Unknown,
}

/// How a guest answered to the request to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownAnswer {
    /// It has taken note. It may still take its time, or never do it: see [`crate::Xl::wait_end`].
    Acknowledged,
    /// It can not be asked: an HVM guest without a paravirtualised driver.
    Unsupported,
    /// It said nothing in time. The request is withdrawn if libxl can.
    NoAnswer,
    /// It had ended before it could be asked, or while it was.
    Ended,
}

/// How far a domain's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not at all.
    Alive,
    /// It has stopped but not been destroyed: nobody watches over it (`xl create` leaves a process
    /// that does), or its configuration says `preserve`.
    Stopped(Reason),
    /// It is gone, with the reason if it was seen to stop before.
    Gone(Option<Reason>),
}

/// What a running domain was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainConfig {
    /// Its name.
    pub name: String,
    /// What its `xl` process does when it powers off.
    pub on_poweroff: Action,
    /// ... when it reboots.
    pub on_reboot: Action,
    /// ... when it crashes.
    pub on_crash: Action,
    /// ... when its watchdog expires.
    pub on_watchdog: Action,
    /// The disks it has now.
    pub disks: Vec<Disk>,
}

/// What is done with a domain that has stopped (`libxl_action_on_shutdown`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Destroy it.
    Destroy,
    /// Start it again at once, as a new domain.
    Restart,
    /// Start it again and keep the old one under another name.
    RestartRename,
    /// Keep it as it is.
    Preserve,
    /// Write its memory to a file, then destroy it.
    CoredumpDestroy,
    /// Write its memory to a file, then start it again.
    CoredumpRestart,
    /// Reset it in place.
    SoftReset,
    /// None of these.
    Unknown,
}

impl Action {
    /// Whether a domain that stops comes back by itself.
    pub fn restarts(self) -> bool {
        matches!(
            self,
            Self::Restart | Self::RestartRename | Self::CoredumpRestart | Self::SoftReset
        )
    }
}

/// A disk of a running domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file or device in dom0; `None` for an empty drive.
    pub target: Option<PathBuf>,
    /// What the guest sees, such as `xvda`.
    pub vdev: String,
    /// The format, such as `raw`.
    pub format: String,
    /// Whether the guest may write to it.
    pub writable: bool,
    /// Whether it is a CD drive.
    pub cdrom: bool,
}

/// The hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its version, such as `4.17.6`.
    pub version: String,
    /// The command line it was booted with.
    pub command_line: String,
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poweroff => "poweroff",
            Self::Reboot => "reboot",
            Self::Suspend => "suspend",
            Self::Crash => "crash",
            Self::Watchdog => "watchdog",
            Self::SoftReset => "soft reset",
            Self::Unknown => "unknown reason",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Uuid;

    #[test]
    fn a_uuid_reads_as_usual() {
        let bytes = std::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(
            Uuid(bytes).to_string(),
            "00010203-0405-0607-0809-0a0b0c0d0e0f"
        );
    }
}
