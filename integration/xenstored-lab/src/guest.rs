//! A guest as xenstored knows one: a shared ring, an event channel, a domid.

mod relay;
mod ring;

use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use self::relay::Relay;
use self::ring::{Ring, RingReader};
use crate::daemon::make_fifo;
use crate::{Error, wire};

/// The size of a ring's page; the shim maps as much.
const PAGE: u64 = 4096;

/// A guest that xenstored believes to be alive. Dropping it is the domain's death: its ring goes,
/// `@releaseDomain` fires, its clients are disconnected. `/local/domain/<domid>` stays, since its
/// removal is the toolstack's work.
#[derive(Debug)]
pub struct Guest {
    domid: u16,
    dir: PathBuf,
    dom0_socket: PathBuf,
    relay: Arc<Relay>,
}

impl Guest {
    pub(crate) fn introduce(dir: &Path, dom0_socket: &Path, domid: u16) -> Result<Self, Error> {
        let ring_path = dir.join(format!("ring-{domid}"));
        let kick_path = dir.join(format!("kick-{domid}"));
        let socket = socket_of(dir, domid);
        let ring_file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&ring_path)
            .map_err(Error::io(format!("make the ring of domain {domid}")))?;
        ring_file
            .set_len(PAGE)
            .map_err(Error::io(format!("make the ring of domain {domid}")))?;
        make_fifo(&kick_path)?;
        // Open for both, so that neither end is ever "the last".
        let kicks = read_write(&kick_path)?;
        let events = read_write(&dir.join("events"))?;

        let home = format!("/local/domain/{domid}");
        let data = format!("{home}/data");
        for (path, perms) in [
            (&home, format!("n0\0r{domid}\0")),
            (&data, format!("n{domid}\0")),
        ] {
            let words = format!("make {path}");
            wire::ask(dom0_socket, wire::MKDIR, &format!("{path}\0"), &words)?;
            wire::ask(
                dom0_socket,
                wire::SET_PERMS,
                &format!("{path}\0{perms}"),
                &words,
            )?;
        }
        wire::ask(
            dom0_socket,
            wire::INTRODUCE,
            &format!("{domid}\x000\x001\0"),
            &format!("introduce domain {domid}"),
        )?;

        let listener = UnixListener::bind(&socket).map_err(Error::io("bind the guest's socket"))?;
        let ring = Ring::new(ring_file, events, domid);
        let reader = RingReader::new(ring.clone(), kicks);
        let relay = Arc::new(Relay::new(ring));
        let accepting = Arc::clone(&relay);
        thread::spawn(move || Relay::accept(&accepting, &listener));
        let answering = Arc::clone(&relay);
        thread::spawn(move || answering.deliver(reader));
        Ok(Self {
            domid,
            dir: dir.to_owned(),
            dom0_socket: dom0_socket.to_owned(),
            relay,
        })
    }

    /// This guest's socket: the value for the `XENSTORED_PATH` of a program that is to believe it
    /// runs in the guest. As `/dev/xen/xenbus` does, it serves several programs.
    pub fn socket_path(&self) -> PathBuf {
        socket_of(&self.dir, self.domid)
    }

    /// Its domain id.
    pub fn domid(&self) -> u16 {
        self.domid
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing here may panic, and a xenstored that was killed has nothing to be told.
        let _ = fs::remove_file(self.dir.join(format!("ring-{}", self.domid)));
        let _ = wire::ask(
            &self.dom0_socket,
            wire::RELEASE,
            &format!("{}\0", self.domid),
            "release the guest",
        );
        self.relay.stop();
        if let Ok(mut kick) = read_write(&self.dir.join(format!("kick-{}", self.domid))) {
            let _ = std::io::Write::write_all(&mut kick, b"k");
        }
        // Wakes the thread that accepts.
        let _ = std::os::unix::net::UnixStream::connect(self.socket_path());
        let _ = fs::remove_file(self.socket_path());
        let _ = fs::remove_file(self.dir.join(format!("kick-{}", self.domid)));
    }
}

fn socket_of(dir: &Path, domid: u16) -> PathBuf {
    dir.join(format!("guest-{domid}"))
}

fn read_write(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::io(format!("open {}", path.display())))
}
