//! One line per step on stderr, with the time since the start. Results go to stdout, this does not.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Time since the program first said anything.
pub fn elapsed() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Prints `[  12.3s] text`.
pub fn say(text: impl std::fmt::Display) {
    eprintln!("[{:7.1}s] {text}", elapsed().as_secs_f64());
}

/// Says what begins, runs it, and says how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    say(format_args!("{what} ..."));
    let begin = Instant::now();
    let result = work()?;
    say(format_args!(
        "{what}: {:.1}s",
        begin.elapsed().as_secs_f64()
    ));
    Ok(result)
}
