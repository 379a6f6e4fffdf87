use super::*;
use crate::manifest::{Allow, Digest, DomU, FileList, Image, OnTimeout};

fn frame(part: Part, packed: u32, unpacked: u32) -> Frame {
    Frame {
        packed,
        unpacked,
        sha256: Digest([0; 32]),
        part,
        continues: None,
    }
}

fn payload(domain: &str, mode: Mode) -> Payload {
    let is_domu = domain != "dom0";
    Payload {
        domain: domain.into(),
        mode,
        image: is_domu.then(|| Image {
            path: format!("/var/lib/xupg/images/{domain}.img"),
            bytes: 64 << 20,
        }),
        packed_bytes: 310,
        unpacked_bytes: 20_480,
        data_bytes: 8192,
        entries: 4,
        allow: Allow::default(),
        frames: vec![
            frame(Part::List, 10, 0),
            frame(Part::Directories, 100, 1024),
            frame(Part::Files, 100, 18_432),
            frame(Part::Links, 100, 1024),
        ],
        file_list: FileList {
            sha256: Digest([1; 32]),
            bytes: 400,
        },
        preserve: Vec::new(),
        domu: is_domu.then(|| DomU {
            config: format!("/etc/xen/{domain}.cfg"),
            order: 50,
            mandatory: true,
            quiesce_s: 30,
            shutdown_s: 120,
            on_timeout: OnTimeout::Fail,
            health_s: 300,
        }),
    }
}

fn good() -> Manifest {
    Manifest {
        schema: SCHEMA,
        release: "2.0".into(),
        compatible: "xupg-lab".into(),
        floor: "1.0".into(),
        description: "a release".into(),
        payloads: vec![
            payload("dom0", Mode::Replace),
            payload("web", Mode::Replace),
            payload("db", Mode::Overlay),
        ],
    }
}

#[test]
fn a_sound_manifest_survives_a_round_trip() {
    let bytes = serde_json::to_vec(&good()).unwrap();
    assert_eq!(Manifest::parse(&bytes).unwrap(), good());
}

type Break = fn(&mut Manifest);

#[test]
fn contradictions_are_refused() {
    let table: &[(&str, Break)] = &[
        ("schema", |m| m.schema = 2),
        ("release", |m| m.release = "2 0".into()),
        ("floor above", |m| m.floor = "2.0.1".into()),
        ("compatible", |m| m.compatible = String::new()),
        ("description", |m| m.description = "a\u{1b}[31m".into()),
        ("no payload", |m| m.payloads.clear()),
        ("no dom0", |m| drop(m.payloads.remove(0))),
        ("dom0 later", |m| m.payloads.swap(0, 1)),
        ("modes out of order", |m| m.payloads.swap(1, 2)),
        ("twice", |m| m.payloads[2].domain = "web".into()),
        ("too many payloads", |m| {
            let web = m.payloads[1].clone();
            m.payloads.extend(std::iter::repeat_n(web, 300));
        }),
        ("name climbs", |m| m.payloads[1].domain = "../web".into()),
        ("name is a domid", |m| m.payloads[1].domain = "12".into()),
        ("name is an option", |m| m.payloads[1].domain = "-f".into()),
        ("name too long", |m| m.payloads[1].domain = "w".repeat(65)),
        ("image climbs", |m| image(m).path = "/var/../etc/x".into()),
        ("image relative", |m| image(m).path = "var/x.img".into()),
        ("image double slash", |m| {
            image(m).path = "/var//x.img".into()
        }),
        ("image is the root", |m| image(m).path = "/".into()),
        ("image shared", |m| {
            image(m).path = "/var/lib/xupg/images/db.img".into()
        }),
        ("image in an image", |m| {
            image(m).path = "/var/lib/xupg/images/db.img/x".into()
        }),
        ("image size odd", |m| image(m).bytes = (64 << 20) + 512),
        ("image size zero", |m| image(m).bytes = 0),
        ("image too big", |m| image(m).bytes = 17 << 40),
        ("image too small", |m| image(m).bytes = 512 << 10),
        ("no image", |m| m.payloads[1].image = None),
        ("dom0 with an image", |m| {
            m.payloads[0].image = m.payloads[1].image.clone()
        }),
        ("dom0 overlaid", |m| m.payloads[0].mode = Mode::Overlay),
        ("domU without settings", |m| m.payloads[1].domu = None),
        ("domU preserves", |m| {
            m.payloads[1].preserve = vec!["/etc".into()]
        }),
        ("config climbs", |m| domu(m).config = "/etc/xen/../x".into()),
        ("config shared", |m| {
            domu(m).config = "/etc/xen/db.cfg".into()
        }),
        ("deadline", |m| domu(m).health_s = 86_401),
        ("preserve climbs", |m| {
            m.payloads[0].preserve = vec!["/etc/../*".into()]
        }),
        ("preserve relative", |m| {
            m.payloads[0].preserve = vec!["etc/*".into()]
        }),
        ("preserve twice", |m| {
            m.payloads[0].preserve = vec!["/a".into(), "/a".into()]
        }),
        ("packed sum", |m| m.payloads[1].packed_bytes += 1),
        ("unpacked sum", |m| m.payloads[1].unpacked_bytes = 0),
        ("too many entries", |m| m.payloads[1].entries = 10_000_000),
        ("entries overflow", |m| m.payloads[1].entries = u64::MAX),
        ("too much data", |m| m.payloads[1].data_bytes = 20_480),
        ("data overflows", |m| m.payloads[0].data_bytes = u64::MAX),
        ("no frames", |m| m.payloads[1].frames.clear()),
        ("no list", |m| {
            m.payloads[1].frames[0].part = Part::Directories
        }),
        ("list decodes", |m| m.payloads[1].frames[0].unpacked = 512),
        ("only a list", |m| m.payloads[1].frames.truncate(1)),
        ("parts out of order", |m| m.payloads[1].frames.swap(1, 2)),
        ("frame too big", |m| {
            m.payloads[1].frames[2].unpacked = 5 << 20
        }),
        ("frame packed too big", |m| {
            m.payloads[1].frames[2].packed = u32::MAX
        }),
        ("frame of nothing", |m| m.payloads[1].frames[2].unpacked = 0),
        ("frame cuts a block", |m| {
            m.payloads[1].frames[2].unpacked -= 1
        }),
        ("continues nothing", |m| {
            m.payloads[1].frames[1].continues = Some(4096)
        }),
        ("continues oddly", |m| {
            let again = m.payloads[1].frames[2];
            m.payloads[1].frames.insert(
                3,
                Frame {
                    continues: Some(100),
                    ..again
                },
            );
        }),
    ];
    for (what, spoil) in table {
        let mut manifest = good();
        spoil(&mut manifest);
        assert!(manifest.check().is_err(), "{what} was accepted");
    }
}

fn image(manifest: &mut Manifest) -> &mut Image {
    manifest.payloads[1].image.as_mut().unwrap()
}

fn domu(manifest: &mut Manifest) -> &mut DomU {
    manifest.payloads[1].domu.as_mut().unwrap()
}

#[test]
fn json_is_read_strictly() {
    let text = serde_json::to_string(&good()).unwrap();
    for bad in [
        String::new(),
        text[..text.len() - 1].to_owned(),
        format!("{text}x"),
        text.replacen("{\"schema\":1", "{\"schema\":1,\"schema\":1", 1),
        text.replacen("{\"schema\":1", "{\"schema\":1,\"more\":1", 1),
        text.replacen("0000", "000G", 1),
        text.replacen("0000", "000A", 1),
        "[".repeat(100_000),
    ] {
        assert!(Manifest::parse(bad.as_bytes()).is_err());
    }
}
