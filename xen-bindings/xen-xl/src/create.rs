//! Domain creation, by `xl`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Error;

/// How much of what xl said is kept: the end, where the reason is.
const OUTPUT_MAX: u64 = 4096;

/// How often to look whether xl has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs `xl create -p` to its end, or kills it at the deadline.
pub(crate) fn create_paused(config: &Path, at_most: Duration) -> Result<(), Error> {
    run(
        Command::new("xl").args(["create", "-p"]).arg(config),
        config,
        at_most,
    )
}

fn run(command: &mut Command, config: &Path, at_most: Duration) -> Result<(), Error> {
    let mut output = tempfile::tempfile().map_err(io_error("make a file for what xl says"))?;
    let (stdout, stderr) = (share(&output)?, share(&output)?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        // Its own group, so that it can be ended with what it has started.
        .process_group(0)
        .spawn()
        .map_err(io_error("run xl"))?;
    let ended = wait(&mut child, Instant::now() + at_most).map_err(io_error("wait for xl"))?;
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::Create {
            config: config.to_owned(),
            status,
            output: tail(&mut output)?,
        }),
        None => Err(Error::CreateTimeout {
            config: config.to_owned(),
            deadline: at_most,
            output: tail(&mut output)?,
        }),
    }
}

/// Waits for the end; `None` when it had to be killed.
fn wait(child: &mut Child, give_up: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= give_up {
            kill_process_group(Pid::from_child(child), Signal::KILL)?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn share(output: &File) -> Result<File, Error> {
    output
        .try_clone()
        .map_err(io_error("make a file for what xl says"))
}

fn tail(output: &mut File) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let length = output
        .seek(SeekFrom::End(0))
        .map_err(io_error("read what xl said"))?;
    output
        .seek(SeekFrom::Start(length.saturating_sub(OUTPUT_MAX)))
        .and_then(|_| output.take(OUTPUT_MAX).read_to_end(&mut bytes))
        .map_err(io_error("read what xl said"))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn io_error(doing: &str) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.to_owned();
    move |source| Error::Io { doing, source }
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::Error;
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn shell(script: &str, at_most: Duration) -> Result<(), Error> {
        run(
            Command::new("sh").args(["-c", script]),
            Path::new("web.cfg"),
            at_most,
        )
    }

    #[test]
    fn success_is_quiet() {
        shell("echo noise; echo noise >&2", PATIENCE).expect("success");
    }

    #[test]
    fn a_failure_says_what_xl_said() {
        let error = shell("echo out; echo why >&2; exit 3", PATIENCE).expect_err("failure");
        let Error::Create { output, status, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(status.code(), Some(3));
        assert_eq!(output, "out\nwhy");
        assert!(error.to_string().contains("web.cfg"), "{error}");
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let error = shell("seq 100000; echo the reason; exit 1", PATIENCE).expect_err("failure");
        let Error::Create { output, .. } = error else {
            panic!("{error:?}");
        };
        assert!(output.len() <= 4096);
        assert!(output.ends_with("the reason"));
    }

    #[test]
    fn what_does_not_end_is_killed_with_what_it_started() {
        let error = shell(
            "echo begun; sleep 1000 & sleep 1000",
            Duration::from_millis(200),
        )
        .expect_err("too long");
        let Error::CreateTimeout { output, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(output, "begun");
    }
}
