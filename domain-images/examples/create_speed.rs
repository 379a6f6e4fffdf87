//! Times `create` on one directory: `cargo run --release --example create_speed -- ROOT CERT KEY OUT LEVEL`.

use std::path::Path;
use std::time::Instant;

use xupg_images::bundle::create::Options;
use xupg_images::bundle::{BundleSpec, create};
use xupg_images::signature::SigningKey;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, root, certificate, key, out, level] = &arguments[..] else {
        return Err("ROOT CERT KEY OUT LEVEL".into());
    };
    let spec: BundleSpec = serde_json::from_str(&format!(
        r#"{{"schema":1,"release":"1.0","compatible":"speed","floor":"1.0",
        "payloads":[{{"domain":"dom0","source":{root:?},
        "allow":{{"devices":true,"fifos":true,"setuid":true}}}}]}}"#
    ))?;
    let key = SigningKey::load(Path::new(certificate), Path::new(key))?;
    let options = Options {
        level: level.parse()?,
        ..Options::default()
    };
    let start = Instant::now();
    let manifest = create(&spec, &key, Path::new(out), &options, &mut |_| {})?;
    let seconds = start.elapsed().as_secs_f64();
    let payload = &manifest.payloads[0];
    eprintln!(
        "{} entries, {} bytes, packed {} in {} frames: {seconds:.1} s",
        payload.entries,
        payload.unpacked_bytes,
        payload.packed_bytes,
        payload.frames.len()
    );
    Ok(())
}
