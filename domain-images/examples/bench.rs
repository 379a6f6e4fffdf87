//! What `cargo xtask bench stage` measures and what it measures with: the library alone, as `xupg
//! bundle create` and `xupg stage` call it, without a node around it.
//!
//! ```text
//! bench create SPEC CERT KEY OUT
//! bench stage BUNDLE TRUST SLOT MOUNTPOINT sealed|unsealed
//! ```

use std::error::Error;
use std::fs::File;
use std::path::Path;

use xupg_images::bundle::create::Options;
use xupg_images::bundle::{Bundle, BundleSpec, create};
use xupg_images::signature::{SigningKey, TrustStore};
use xupg_images::stage::{Event, StageObserver, StageTarget, write_release};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["create", spec, cert, key, out] => {
            let spec = BundleSpec::load(Path::new(spec))?;
            let key = SigningKey::load(Path::new(cert), Path::new(key))?;
            create(
                &spec,
                &key,
                Path::new(out),
                &Options::default(),
                &mut |_| {},
            )?;
            Ok(())
        }
        ["stage", bundle, trust, slot, mountpoint, seal] => {
            let trust = TrustStore::load(Path::new(trust))?;
            let bundle = Bundle::open(File::open(bundle)?, &trust)?;
            let target = StageTarget {
                slot: slot.into(),
                region: None,
                mountpoint: mountpoint.into(),
                // Only overlay payloads copy from the active root, and no measured bundle has one.
                active_root: "/".into(),
                seal: seal == "sealed",
            };
            write_release(bundle, &target, &Seals)?.finish()?;
            Ok(())
        }
        _ => Err("see the head of examples/bench.rs".into()),
    }
}

/// Says only what the seal has cost.
struct Seals;

impl StageObserver for Seals {
    fn event(&self, event: Event<'_>) {
        if let Event::Sealed { domain, sealed } = event {
            let seconds = sealed.duration.as_secs_f64();
            eprintln!("{domain}: {} bytes sealed in {seconds:.2} s", sealed.bytes);
        }
    }

    fn before_overlay(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("a measured bundle has no overlay payload".into())
    }
}
