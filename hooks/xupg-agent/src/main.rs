//! `xupg-agent`: the program in a domU that reads the xenstore flag, runs the hook and answers.
//!
//! It stays: the flag of a new boot is there before the domU's first instruction, but one that
//! announces an upgrade (`quiesce`) comes at any time.

#![forbid(unsafe_code)]

mod attend;
mod link;
mod options;
mod publish;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::attend::Agent;
use crate::options::{Invocation, Options};

fn main() -> ExitCode {
    let options = match options::read() {
        Ok(Invocation::Run(options)) => options,
        Ok(Invocation::Print(text)) => {
            return match std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Err(error) => {
            eprintln!("xupg-agent: {error}\nTry `xupg-agent --help`.");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut agent = Agent::new(&options, stop)?;
    if options.once {
        agent.run_once()?;
    } else {
        agent.run();
    }
    Ok(())
}
