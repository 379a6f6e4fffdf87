//! Compiles the shim that is preloaded into xenstored. It is C because it is checked against Xen's
//! own prototypes, and because cargo builds no cdylib for a test that only preloads it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCE: &str = "shim/xenstored-shim.c";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CC");
    let Some(out_dir) = env::var_os("OUT_DIR") else {
        println!("cargo::error=cargo has not set OUT_DIR");
        return ExitCode::FAILURE;
    };
    let shim = PathBuf::from(out_dir).join("xenstored-shim.so");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());

    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"])
        .arg("-o")
        .arg(&shim)
        .arg(SOURCE)
        .args(["-ldl", "-lpthread"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            println!("cargo::rustc-env=XENSTORED_SHIM={}", shim.display());
            ExitCode::SUCCESS
        }
        Ok(output) => {
            println!("cargo::error=cannot compile {SOURCE}; on Debian: apt-get install libxen-dev");
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("cargo::error=cannot run the C compiler `{compiler}`: {error}");
            ExitCode::FAILURE
        }
    }
}
