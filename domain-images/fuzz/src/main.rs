//! All targets in one program, so that one link is enough; `XUPG_FUZZ_TARGET` names the one to run.
//! `cargo xtask fuzz` builds and runs it.
#![no_main]

mod mutate;

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use xupg_images::fuzzing;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

static NAME: OnceLock<String> = OnceLock::new();

fn name() -> String {
    std::env::var("XUPG_FUZZ_TARGET").unwrap_or_default()
}

fn chosen() -> fn(&[u8]) {
    match name().as_str() {
        "manifest" => fuzzing::manifest,
        "bundle" => fuzzing::bundle,
        "signature" => fuzzing::signature,
        "frame" => fuzzing::frame,
        "file_list" => fuzzing::file_list,
        "tar" => fuzzing::tar,
        "unpack" => fuzzing::unpack,
        "trap" => trap,
        name => {
            eprintln!("XUPG_FUZZ_TARGET names no target: `{name}`");
            std::process::exit(2);
        }
    }
}

/// A bug to be found, by which the engine shows that coverage guides it. Letter after letter is a
/// branch of its own, so each one that is right is a step that guessing blindly does not take.
///
/// # Panics
/// For bytes that begin with `trap`.
fn trap(bytes: &[u8]) {
    let letter = |at: usize, right: u8| bytes.get(at) == Some(&right);
    if letter(0, b't') && letter(1, b'r') && letter(2, b'a') && letter(3, b'p') {
        panic!("the trap is found");
    }
}

fuzz_target!(|bytes: &[u8]| {
    TARGET.get_or_init(chosen)(bytes);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    // By turns: as libFuzzer does it, and as the reader would notice it.
    let name = NAME.get_or_init(name);
    let changed = match (seed % 2, name.as_str()) {
        (1, "tar" | "unpack" | "bundle") => mutate::field(data, size, seed as usize / 2),
        (1, "manifest" | "file_list") => mutate::word(data, size, seed as usize / 2),
        _ => None,
    };
    changed.unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
