//! Makes the bindings from the Xen headers of the build machine.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

/// pkg-config names, all of them in Debian's libxen-dev.
const LIBRARIES: [&str; 4] = ["xenlight", "xlutil", "xenstore", "xentoollog"];

/// The oldest API the headers are asked to present. Below 0x041300 they replace
/// functions by inline wrappers, which bindgen does not bind; when unset they
/// present whatever is newest.
const API_VERSION: &str = "-DLIBXL_API_VERSION=0x041400";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=wrapper.h");
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Each line becomes a line of cargo's error report.
            for line in reason.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), String> {
    let mut include_paths = Vec::new();
    for name in LIBRARIES {
        let library = pkg_config::Config::new()
            .probe(name)
            .map_err(|error| missing(name, &error))?;
        include_paths.extend(library.include_paths);
    }
    include_paths.sort();
    include_paths.dedup();

    let bindings = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_arg(API_VERSION)
        .clang_args(
            include_paths
                .iter()
                .map(|path| format!("-I{}", path.display())),
        )
        .allowlist_function("(libxl|xlu|xs|xtl)_.*")
        .allowlist_type("(libxl|xlu|xs|xtl|xentoollog)_.*")
        .allowlist_var("(LIBXL|XS|XBT|XTL|INVALID_DOMID|RANDOM_DOMID)_?.*")
        // The logger's callback takes a va_list, and this is how it is printed.
        .allowlist_function("vsnprintf")
        // A Rust enum would be unsound: the library may be a newer one than the headers.
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .derive_default(false)
        .derive_debug(false)
        .layout_tests(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .generate()
        .map_err(|error| {
            format!(
                "the Xen headers were found, but bindgen cannot read them: {error}\n\
                 on Debian: apt-get install libxen-dev libclang-dev clang"
            )
        })?;

    let out_dir = env::var_os("OUT_DIR").ok_or("cargo has not set OUT_DIR")?;
    let path = PathBuf::from(out_dir).join("bindings.rs");
    bindings
        .write_to_file(&path)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn missing(name: &str, error: &pkg_config::Error) -> String {
    match error {
        pkg_config::Error::Command { cause, .. } => format!(
            "pkg-config does not run: {cause}\n\
             on Debian: apt-get install pkg-config"
        ),
        _ => format!(
            "the Xen development files are missing (pkg-config does not know `{name}`)\n\
             on Debian: apt-get install libxen-dev libclang-dev clang pkg-config"
        ),
    }
}
