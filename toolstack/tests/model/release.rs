//! Releases to test with.

use xupg::journal::Release;
use xupg_images::manifest::{
    Allow, Digest, DomU, FileList, Image, Manifest, Mode, OnTimeout, Payload, SCHEMA,
};

/// What the node and its bundles share.
pub(crate) const COMPATIBLE: &str = "lab";

/// A release of dom0 and two domUs: `db`, mandatory, starts before `web`, which is optional.
pub(crate) fn release(version: &str) -> Manifest {
    Manifest {
        schema: SCHEMA,
        release: version.to_owned(),
        compatible: COMPATIBLE.to_owned(),
        floor: "1".to_owned(),
        description: String::new(),
        payloads: vec![dom0(), domu("db", 10, true), domu("web", 20, false)],
    }
}

/// The same with `web` laid over the copy of its running image.
pub(crate) fn overlay(version: &str) -> Manifest {
    let mut manifest = release(version);
    manifest.payloads[2].mode = Mode::Overlay;
    manifest
}

/// How the journal names it.
pub(crate) fn name(manifest: &Manifest) -> Release {
    Release {
        version: manifest.release.clone(),
        manifest: Digest::of(format!("{manifest:?}").as_bytes()).to_string(),
    }
}

fn dom0() -> Payload {
    Payload {
        domain: "dom0".to_owned(),
        mode: Mode::Replace,
        image: None,
        packed_bytes: 1 << 20,
        unpacked_bytes: 2 << 20,
        data_bytes: 2 << 20,
        entries: 100,
        allow: Allow::default(),
        frames: Vec::new(),
        file_list: FileList {
            sha256: Digest::of(b""),
            bytes: 0,
        },
        preserve: Vec::new(),
        domu: None,
    }
}

/// A domU's payload, with a hook that gets 30 s to quiesce and 60 s to report good.
pub(crate) fn domu(domain: &str, order: u32, mandatory: bool) -> Payload {
    Payload {
        domain: domain.to_owned(),
        image: Some(Image {
            path: format!("/var/lib/xupg/images/{domain}.img"),
            bytes: 16 << 20,
        }),
        domu: Some(DomU {
            config: format!("/etc/xen/{domain}.cfg"),
            order,
            mandatory,
            quiesce_s: 30,
            shutdown_s: 120,
            on_timeout: OnTimeout::Fail,
            health_s: 60,
        }),
        ..dom0()
    }
}
