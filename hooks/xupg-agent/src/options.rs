//! The command line.

use std::path::PathBuf;

use xupg_hooks::HOOK_PATH;
use xupg_hooks::done::AGENT_DIR;

const HELP: &str = "\
Usage: xupg-agent [options]

Waits for the flag that xupg sets in xenstore, runs this domU's upgrade hook and answers.
xenstore is reached through /dev/xen/xenbus, or the socket that XENSTORED_PATH names.

  --hook PATH       the hook (default /usr/lib/xupg/hook)
  --state-dir DIR   where it is remembered what is done (default /var/lib/xupg-agent)
  --once            attend to the flag that is there, if any, then exit
  -h, --help        print this text
  -V, --version     print the version
";

/// How the agent is to run.
#[derive(Debug)]
pub(crate) struct Options {
    /// The hook.
    pub(crate) hook: PathBuf,
    /// Where it is remembered what is done.
    pub(crate) state_dir: PathBuf,
    /// Attend to the flag that is there, then exit.
    pub(crate) once: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// To run.
    Run(Options),
    /// To print this and exit.
    Print(String),
}

/// Reads the process's command line.
pub(crate) fn read() -> Result<Invocation, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        hook: HOOK_PATH.into(),
        state_dir: AGENT_DIR.into(),
        once: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("hook") => options.hook = parser.value()?.into(),
            Long("state-dir") => options.state_dir = parser.value()?.into(),
            Long("once") => options.once = true,
            Short('h') | Long("help") => return Ok(Invocation::Print(HELP.to_owned())),
            Short('V') | Long("version") => {
                let version = concat!("xupg-agent ", env!("CARGO_PKG_VERSION"), "\n");
                return Ok(Invocation::Print(version.to_owned()));
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Invocation::Run(options))
}
