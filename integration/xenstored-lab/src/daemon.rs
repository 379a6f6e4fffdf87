//! The xenstored process.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::{Error, Guest};

/// How long xenstored may take to answer first. Only a broken one needs it all.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A running xenstored; it ends when this is dropped, or when the test process ends.
#[derive(Debug)]
pub struct XenStored {
    process: Option<Process>,
    run_dir: TempDir,
}

/// The child, and the pipe whose other end tells it that we live.
#[derive(Debug)]
struct Process {
    child: Child,
    _lifeline: Option<ChildStdin>,
}

impl XenStored {
    /// Starts a xenstored with an empty store and waits until it answers.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] without the Xen tools; the others say what went wrong.
    pub fn start() -> Result<Self, Error> {
        // A short path: the name of a unix socket has at most 107 bytes.
        let run_dir = tempfile::Builder::new()
            .prefix("xs-")
            .tempdir_in("/tmp")
            .map_err(Error::io("make a directory for xenstored"))?;
        make_fifo(&run_dir.path().join("events"))?;
        let mut this = Self {
            process: None,
            run_dir,
        };
        this.launch()?;
        Ok(this)
    }

    /// dom0's socket: the value for `XENSTORED_PATH`.
    pub fn socket_path(&self) -> PathBuf {
        self.run_dir.path().join("socket")
    }

    /// Gives a command this xenstored instead of the machine's.
    pub fn apply_to<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("XENSTORED_PATH", self.socket_path())
    }

    /// Brings a guest to life: its ring is there, xenstored has been told, and
    /// `/local/domain/<domid>` (dom0's, the guest reads) and `.../data` (the guest's) exist, as libxl
    /// makes them.
    ///
    /// # Errors
    /// See [`Error`]; a domid that is already in use is refused.
    pub fn guest(&self, domid: u16) -> Result<Guest, Error> {
        Guest::introduce(self.run_dir.path(), &self.socket_path(), domid)
    }

    /// Kills xenstored with SIGKILL, as a crash would end it. Its socket is left behind.
    ///
    /// # Errors
    /// When it can not be signalled or waited for.
    pub fn kill(&mut self) -> Result<(), Error> {
        if let Some(mut process) = self.process.take() {
            process.child.kill().map_err(Error::io("kill xenstored"))?;
            process
                .child
                .wait()
                .map_err(Error::io("wait for xenstored"))?;
        }
        Ok(())
    }

    /// Kills xenstored if it runs and starts it with an empty store on the same socket.
    ///
    /// # Errors
    /// As [`XenStored::start`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.kill()?;
        self.launch()
    }

    /// Stops xenstored with SIGSTOP: it accepts connections and never answers.
    ///
    /// # Errors
    /// When it can not be signalled.
    pub fn freeze(&self) -> Result<(), Error> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen xenstored go on.
    ///
    /// # Errors
    /// When it can not be signalled.
    pub fn thaw(&self) -> Result<(), Error> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        let Some(process) = &self.process else {
            return Ok(());
        };
        rustix::process::kill_process(Pid::from_child(&process.child), signal)
            .map_err(|errno| Error::io("signal xenstored")(errno.into()))
    }

    fn launch(&mut self) -> Result<(), Error> {
        let program = installed()?;
        let output_path = self.run_dir.path().join("output");
        let output = File::create(&output_path).map_err(Error::io("make xenstored's log"))?;
        let errors = output
            .try_clone()
            .map_err(Error::io("make xenstored's log"))?;
        let mut child = Command::new(&program)
            .arg("--no-fork")
            .env("LD_PRELOAD", env!("XENSTORED_SHIM"))
            .env("XENSTORED_LAB", self.run_dir.path())
            .env("XENSTORED_RUNDIR", self.run_dir.path())
            .env_remove("XENSTORED_PATH")
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(Error::io(format!("run {}", program.display())))?;
        let lifeline = child.stdin.take();
        self.process = Some(Process {
            child,
            _lifeline: lifeline,
        });

        let give_up = Instant::now() + START_DEADLINE;
        loop {
            // The socket of a killed predecessor is there too, but refuses.
            if UnixStream::connect(self.socket_path()).is_ok() {
                return Ok(());
            }
            let ended = match &mut self.process {
                Some(process) => process
                    .child
                    .try_wait()
                    .map_err(Error::io("wait for xenstored"))?,
                None => None,
            };
            if ended.is_some() || Instant::now() > give_up {
                let mut output = String::new();
                File::open(&output_path)
                    .and_then(|mut file| file.read_to_string(&mut output))
                    .map_err(Error::io("read xenstored's log"))?;
                if let Some(status) = ended {
                    output.push_str(&format!(" ({status})"));
                }
                return Err(Error::NoAnswer { output });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for XenStored {
    fn drop(&mut self) {
        // Should this fail, the closed pipe still ends it.
        let _ = self.kill();
    }
}

/// The C xenstored of the newest installed Xen. (oxenstored, Debian's default daemon, can not be
/// preloaded: it calls the hypervisor through OCaml bindings.)
fn installed() -> Result<PathBuf, Error> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib")
        .map_err(Error::io("read /usr/lib"))?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("xen-"))
        .map(|entry| entry.path().join("bin/xenstored"))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().ok_or(Error::NotInstalled)
}

pub(crate) fn make_fifo(path: &Path) -> Result<(), Error> {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .map_err(|errno| Error::io(format!("make the FIFO {}", path.display()))(io::Error::from(errno)))
}
