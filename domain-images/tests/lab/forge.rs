//! Bundles that no tool of ours would make, rightly signed: what is wrong with them is found behind
//! the signature.

use std::io::Write;

use xupg_images::filelist::{Entry, Kind, Mtime, Writer};
use xupg_images::manifest::{Allow, Digest, DomU, Frame, Image, Manifest, Mode, Part, Payload};
use xupg_images::signature::sign;

use super::{Lab, honest};

/// A piece of tar stream.
#[derive(Clone)]
pub struct Piece {
    pub part: Part,
    pub continues: Option<u64>,
    pub tar: Vec<u8>,
}

/// One payload, made of anything.
#[derive(Clone)]
pub struct Forged {
    pub pieces: Vec<Piece>,
    /// What is signed about the entries; what they are, if nothing is said.
    pub list: Option<Vec<Entry>>,
    pub entries: u64,
    pub data: u64,
    pub allow: Allow,
    /// Without it the stream's two zero blocks follow the last piece.
    pub endless: bool,
    pub preserve: Vec<String>,
    /// The last frame comes so many times more.
    pub repeats: usize,
    /// Changes a frame, by index, before it is signed.
    pub packed: fn(usize, Vec<u8>) -> Vec<u8>,
}

impl Forged {
    /// Pieces in the part `files`, counted honestly as one entry each.
    pub fn files(entries: &[Vec<u8>]) -> Self {
        Self::parts(&[], entries, &[])
    }

    pub fn parts(dirs: &[Vec<u8>], files: &[Vec<u8>], links: &[Vec<u8>]) -> Self {
        let parts = [
            (Part::Directories, dirs),
            (Part::Files, files),
            (Part::Links, links),
        ];
        let pieces: Vec<Piece> = parts
            .iter()
            .filter(|(_, entries)| !entries.is_empty())
            .map(|(part, entries)| Piece {
                part: *part,
                continues: None,
                tar: entries.concat(),
            })
            .collect();
        Self {
            pieces,
            list: None,
            entries: (dirs.len() + files.len() + links.len()) as u64,
            data: 0,
            allow: Allow::default(),
            endless: false,
            preserve: Vec::new(),
            repeats: 0,
            packed: |_, bytes| bytes,
        }
    }

    /// Many entries of one part, so many to a frame, counted honestly.
    pub fn in_frames(part: Part, entries: &[Vec<u8>], to_a_frame: usize) -> Self {
        let pieces = entries.chunks(to_a_frame).map(|entries| Piece {
            part,
            continues: None,
            tar: entries.concat(),
        });
        Self::parts(&[], &[], &[]).with(|f| {
            f.pieces = pieces.collect();
            f.entries = entries.len() as u64;
        })
    }

    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn payload(&self, domain: &str, mode: Mode) -> (Payload, Vec<u8>) {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let honest = || honest::list(&self.pieces);
        for entry in &self.list.clone().unwrap_or_else(honest) {
            writer.add(entry).unwrap();
        }
        let (file_list, text) = writer.finish();
        let list = zstd::bulk::compress(&text, 1).unwrap();
        let mut skippable = 0x184D_2A58_u32.to_le_bytes().to_vec();
        skippable.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
        skippable.extend(list);
        let mut member = Vec::new();
        let mut frames = Vec::new();
        let mut push = |bytes: Vec<u8>, unpacked: usize, part, continues| {
            let bytes = (self.packed)(frames.len(), bytes);
            frames.push(Frame {
                packed: u32::try_from(bytes.len()).unwrap(),
                unpacked: u32::try_from(unpacked).unwrap(),
                sha256: Digest::of(&bytes),
                part,
                continues,
            });
            member.extend(bytes);
        };
        push(skippable, 0, Part::List, None);
        for (index, piece) in self.pieces.iter().enumerate() {
            let mut tar = piece.tar.clone();
            if index + 1 == self.pieces.len() && !self.endless {
                tar.extend([0; 1024]);
            }
            let packed = zstd::bulk::compress(&tar, 1).unwrap();
            push(packed, tar.len(), piece.part, piece.continues);
        }
        if let Some(last) = frames.last().cloned() {
            let packed = member[member.len() - last.packed as usize..].to_vec();
            frames.resize(frames.len() + self.repeats, last);
            member.extend(packed.repeat(self.repeats));
        }
        let is_dom0 = domain == "dom0";
        let payload = Payload {
            domain: domain.to_owned(),
            mode,
            image: (!is_dom0).then(|| Image {
                path: format!("/var/lib/xupg/images/{domain}.img"),
                bytes: 8 << 20,
            }),
            packed_bytes: member.len() as u64,
            unpacked_bytes: frames.iter().map(|f| u64::from(f.unpacked)).sum(),
            data_bytes: self.data,
            entries: self.entries,
            allow: self.allow,
            frames,
            file_list,
            preserve: self.preserve.clone(),
            domu: (!is_dom0).then(|| DomU::for_domain(domain)),
        };
        (payload, member)
    }
}

impl Lab {
    /// A bundle whose dom0 is `dom0`, and whose `web` is an overlay or a replacement.
    pub fn forge(&self, dom0: &Forged, web: Option<(&Forged, Mode)>) -> Vec<u8> {
        let mut all = vec![dom0.payload("dom0", Mode::Replace)];
        all.extend(web.map(|(web, mode)| web.payload("web", mode)));
        let manifest = Manifest {
            schema: 1,
            release: "2.0".to_owned(),
            compatible: "test".to_owned(),
            floor: "1.0".to_owned(),
            description: String::new(),
            payloads: all.iter().map(|(payload, _)| payload.clone()).collect(),
        };
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let signature = sign(&manifest, &self.keys.key("vendor")).unwrap();
        let mut out = tar::Builder::new(Vec::new());
        let mut add = |name: &str, data: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            out.append(&header, data).unwrap();
        };
        add("manifest.json", &manifest);
        add("manifest.sig", &signature);
        for (payload, member) in &all {
            add(&payload.member(), member);
        }
        out.into_inner().unwrap()
    }
}

/// A tar header, field by field.
pub fn header(name: &[u8], kind: u8, size: u64, mode: u32, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    let mut put =
        |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, format!("{mode:07o}\0"));
    for at in [108, 116, 329, 337] {
        put(at, "0000000\0".to_owned());
    }
    put(124, format!("{size:011o}\0"));
    put(136, "00000000001\0".to_owned());
    put(257, "ustar\x0000".to_owned());
    block[156] = kind;
    block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    sum(&mut block);
    block
}

/// Sets a header's checksum.
pub fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
    let mut text = Vec::new();
    write!(text, "{sum:06o}\0 ").unwrap();
    block[148..156].copy_from_slice(&text);
}

/// A header and its data, padded.
pub fn entry(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let mut tar = header(name, kind, data.len() as u64, 0o644, b"");
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar
}

/// A link, hard (`1`) or symbolic (`2`).
pub fn link(name: &[u8], kind: u8, target: &[u8]) -> Vec<u8> {
    header(name, kind, 0, 0o777, target)
}

/// An entry behind a pax header with these records.
pub fn pax(records: &[(&[u8], &[u8])], entry: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        text.extend(length.to_string().into_bytes());
        text.extend([b" ", *key, b"=", *value, b"\n"].concat());
    }
    [self::entry(b"PaxHeaders/x", b'x', &text), entry.to_vec()].concat()
}

/// An entry for a directory.
pub fn dir(name: &[u8]) -> Vec<u8> {
    header(name, b'5', 0, 0o755, b"")
}

/// An entry for an empty file.
pub fn file(name: &[u8]) -> Vec<u8> {
    header(name, b'0', 0, 0o644, b"")
}

/// A file `s` with holes: its map, how many bytes are stored, and what size it says it has.
pub fn sparse(map: &str, size: u64, real: &[u8]) -> Vec<u8> {
    sparse_named(b"s", map, size, real)
}

/// The same by another name.
pub fn sparse_named(name: &[u8], map: &str, size: u64, real: &[u8]) -> Vec<u8> {
    let mut data = map.as_bytes().to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    let stored = data.len() as u64 + size;
    let mut tar = header(name, b'0', stored, 0o644, b"");
    tar.extend(data);
    tar.extend(vec![7; size as usize]);
    tar.resize(tar.len().next_multiple_of(512), 0);
    let records: [(&[u8], &[u8]); 4] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name),
        (b"GNU.sparse.realsize", real),
    ];
    pax(&records, &tar)
}

/// A line of the file list.
pub fn listed(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime {
            seconds: 1,
            nanos: 0,
        },
        kind,
        xattrs: Vec::new(),
    }
}

pub fn empty_file() -> Kind {
    Kind::File {
        size: 0,
        sha256: Digest::of(b""),
    }
}
