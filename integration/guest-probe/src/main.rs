//! What a hostile domU would try in xenstore, for the lab's drills.
//!
//! * `guest-probe rights`: tries to read and to change keys, its own and dom0's; one line for each
//!   attempt, `probe: WHAT -> ANSWER`, and `probe: over`.
//! * `guest-probe garbage N`: writes `N` values that no agent writes to its answer keys, and ends.

#![forbid(unsafe_code)]

mod xenbus;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use xenbus::{Request, Xenbus};

/// The keys that dom0 reads (hooks, `keys::answer`).
const ANSWERS: [&str; 5] = [
    "data/xupg/txn",
    "data/xupg/phase",
    "data/xupg/state",
    "data/xupg/progress",
    "data/xupg/message",
];

/// The longest value that Debian's xenstored takes, path included or not.
const LONG: usize = 2000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["rights"] => rights(),
        ["garbage", count] => match count.parse() {
            Ok(count) => garbage(count),
            Err(_) => Err(io::Error::other("how many?")),
        },
        _ => Err(io::Error::other("rights, or garbage N")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rights() -> io::Result<()> {
    let mut bus = Xenbus::open(Duration::from_secs(30))?;
    let mut out = io::stdout().lock();
    let mut attempt = |what: &str, request: Request, payload: &[u8]| -> io::Result<()> {
        let answer = bus.ask(request, payload)?;
        writeln!(out, "probe: {what} -> {answer}")
    };
    attempt("read own flag", Request::Read, b"xupg/phase\0")?;
    attempt("write own flag", Request::Write, b"xupg/phase\0boot")?;
    attempt("add to own flag", Request::Write, b"xupg/more\0x")?;
    attempt("remove own flag", Request::Remove, b"xupg\0")?;
    attempt("open own flag to all", Request::SetPerms, b"xupg\0b0\0")?;
    attempt("read ops view", Request::Read, b"/tool/xupg/state\0")?;
    attempt("write ops view", Request::Write, b"/tool/xupg/state\0idle")?;
    attempt(
        "write dom0's keys",
        Request::Write,
        b"/local/domain/0/probe\0x",
    )?;
    attempt("write own answer", Request::Write, b"data/xupg/probe\0x")?;
    writeln!(out, "probe: over")
}

fn garbage(count: u32) -> io::Result<()> {
    let mut bus = Xenbus::open(Duration::from_secs(30))?;
    // With the right transaction and phase dom0 looks at the rest.
    let txn = bus.ask(Request::Read, b"xupg/txn\0")?.to_string();
    let long = [b'a'; LONG];
    let values: [&[u8]; 9] = [
        b"\xff\xfe\x80 not UTF-8 \xc3\x28",
        &long,
        b"",
        b"done\n",
        b"DONE",
        b"\0\0\0",
        b"-1",
        b"1000000000000000000000",
        b"\x1b[2J../../../../tool/xupg",
    ];
    for turn in 0..count {
        let turn = usize::try_from(turn).unwrap_or_default();
        let key = ANSWERS[turn % ANSWERS.len()];
        let round = turn / ANSWERS.len();
        // Every third round the first two keys are in order, so that the rest is read.
        let value = match (round % 3, key) {
            (0, "data/xupg/txn") => txn.as_bytes(),
            (0, "data/xupg/phase") => b"boot",
            _ => values[(turn + round) % values.len()],
        };
        let mut payload = key.as_bytes().to_vec();
        payload.push(0);
        payload.extend_from_slice(value);
        // A refusal (a value too long, a quota) is xenstored's business, not ours.
        bus.ask(Request::Write, &payload)?;
    }
    writeln!(io::stdout(), "probe: {count} garbage writes")
}
