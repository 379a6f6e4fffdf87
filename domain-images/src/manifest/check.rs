//! What a manifest must satisfy before anybody acts on it. A signature proves who wrote a manifest,
//! not that it makes sense: a vendor's broken tool must not cost a node either.

use std::collections::HashSet;

use thiserror::Error;

use super::{Frame, Manifest, Mode, Part, Payload, SCHEMA};
use crate::version;

/// The largest numbers a manifest may state. They bound memory and arithmetic, not ambition.
pub mod limits {
    /// Payloads of a release.
    pub const PAYLOADS: usize = 256;
    /// Bytes of a frame in the bundle.
    pub const FRAME_PACKED: u32 = 5 << 20;
    /// Bytes of a frame once decoded.
    pub const FRAME_UNPACKED: u32 = 4 << 20;
    /// Bytes of a payload, packed, unpacked, or of an image: 16 TiB, ext4's limit with 4 KiB blocks.
    pub const PAYLOAD_BYTES: u64 = 16 << 40;
    /// Bytes of a domain's name.
    pub const NAME: usize = 64;
    /// Bytes of a path.
    pub const PATH: usize = 4095;
    /// Bytes of the release's description.
    pub const DESCRIPTION: usize = 4096;
    /// Bytes of `release`, `floor` and `compatible`.
    pub const WORD: usize = 128;
    /// Patterns in `preserve`.
    pub const PRESERVE: usize = 1024;
    /// Seconds of any of a domU's deadlines.
    pub const SECONDS: u32 = 24 * 60 * 60;
}

/// Why a manifest is not acceptable.
#[derive(Debug, Error)]
pub enum Invalid {
    /// Not JSON, or not the JSON of a manifest.
    #[error("not a manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// A schema of another time.
    #[error("schema {0} is not known here")]
    Schema(u32),
    /// A statement about the release as a whole.
    #[error("{0}")]
    Release(String),
    /// A statement about one payload.
    #[error("payload `{domain}`: {reason}")]
    Payload {
        /// Which payload, quoted safely.
        domain: String,
        /// What is wrong with it.
        reason: String,
    },
}

type Reason = Result<(), String>;

impl Manifest {
    /// Checks everything that can be known from the manifest alone.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.schema != SCHEMA {
            return Err(Invalid::Schema(self.schema));
        }
        self.check_release().map_err(Invalid::Release)?;
        for payload in &self.payloads {
            check_payload(payload).map_err(|reason| Invalid::Payload {
                domain: payload.domain.escape_debug().to_string(),
                reason,
            })?;
        }
        Ok(())
    }

    fn check_release(&self) -> Reason {
        check_version("release", &self.release)?;
        check_version("floor", &self.floor)?;
        if version::compare(&self.floor, &self.release).is_gt() {
            return Err(format!(
                "the floor {} is newer than the release {} itself",
                self.floor, self.release
            ));
        }
        if !is_word(&self.compatible) {
            return Err("`compatible` is not a short word of letters, digits and ._+:~-".into());
        }
        if self.description.len() > limits::DESCRIPTION
            || self.description.chars().any(char::is_control)
        {
            return Err("the description is too long or holds control characters".into());
        }
        if self.payloads.len() > limits::PAYLOADS {
            return Err(format!("more than {} payloads", limits::PAYLOADS));
        }
        match self.payloads.first() {
            Some(first) if first.domain == "dom0" => {}
            _ => return Err("the first payload is not dom0".into()),
        }
        let replaced_after_overlay = self
            .payloads
            .windows(2)
            .any(|pair| pair[0].mode == Mode::Overlay && pair[1].mode == Mode::Replace);
        if replaced_after_overlay {
            return Err("a replace payload follows an overlay payload".into());
        }
        self.check_distinct()
    }

    fn check_distinct(&self) -> Reason {
        let mut names = HashSet::new();
        let mut images: Vec<&str> = Vec::new();
        let mut configs = HashSet::new();
        for payload in &self.payloads {
            if !names.insert(payload.domain.as_str()) {
                let name = payload.domain.escape_debug();
                return Err(format!("domain `{name}` has two payloads"));
            }
            if let Some(image) = &payload.image {
                images.push(&image.path);
            }
            if let Some(domu) = &payload.domu
                && !configs.insert(domu.config.as_str())
            {
                return Err(format!("two domUs share the configuration {}", domu.config));
            }
        }
        images.sort_unstable();
        let inside = |outer: &str, inner: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for (at, outer) in images.iter().enumerate() {
            let clash = images[at + 1..]
                .iter()
                .take_while(|inner| inner.starts_with(outer))
                .find(|inner| inside(outer, inner));
            if let Some(inner) = clash {
                return Err(format!(
                    "images {outer} and {inner} are in each other's way"
                ));
            }
        }
        Ok(())
    }
}

fn check_payload(payload: &Payload) -> Reason {
    check_domain(&payload.domain)?;
    let is_dom0 = payload.domain == "dom0";
    if is_dom0 {
        if payload.mode != Mode::Replace {
            return Err("dom0 can only be replaced".into());
        }
        if payload.image.is_some() || payload.domu.is_some() {
            return Err("dom0 has neither an image nor a domU's settings".into());
        }
    } else {
        if !payload.preserve.is_empty() {
            return Err("only dom0 has files to preserve".into());
        }
        let image = payload.image.as_ref().ok_or("a domU needs an image")?;
        check_path(&image.path)?;
        if image.bytes % 4096 != 0 || !(1 << 20..=limits::PAYLOAD_BYTES).contains(&image.bytes) {
            return Err("the image's size is not a multiple of 4096 from 1 MiB to 16 TiB".into());
        }
        if payload.data_bytes > image.bytes {
            return Err("more data than the image has bytes".into());
        }
        let domu = payload.domu.as_ref().ok_or("a domU needs its settings")?;
        check_path(&domu.config)?;
        if [domu.quiesce_s, domu.shutdown_s, domu.health_s]
            .iter()
            .any(|seconds| *seconds > limits::SECONDS)
        {
            return Err("a deadline of more than a day".into());
        }
    }
    check_preserve(&payload.preserve)?;
    check_frames(payload)
}

fn check_frames(payload: &Payload) -> Reason {
    let mut packed = 0_u64;
    let mut unpacked = 0_u64;
    let mut before: Option<&Frame> = None;
    for (index, frame) in payload.frames.iter().enumerate() {
        check_frame(frame, before).map_err(|reason| format!("frame {index}: {reason}"))?;
        packed += u64::from(frame.packed);
        unpacked += u64::from(frame.unpacked);
        before = Some(frame);
    }
    if payload.frames.first().is_none_or(|f| f.part != Part::List) {
        return Err("the file list does not come first".into());
    }
    if before.is_none_or(|last| last.part == Part::List) {
        return Err("there is no tar stream".into());
    }
    if packed != payload.packed_bytes {
        return Err("packed_bytes is not the sum of the frames".into());
    }
    if unpacked != payload.unpacked_bytes {
        return Err("unpacked_bytes is not the sum of the frames".into());
    }
    if packed.max(unpacked).max(payload.file_list.bytes) > limits::PAYLOAD_BYTES {
        return Err("larger than 16 TiB".into());
    }
    // Every entry takes a header of 512 bytes, the end of the stream two.
    let headers = payload
        .entries
        .checked_add(2)
        .and_then(|n| n.checked_mul(512));
    if headers
        .and_then(|bytes| bytes.checked_add(payload.data_bytes))
        .is_none_or(|bytes| bytes > unpacked)
    {
        return Err("more entries and data than the tar stream can hold".into());
    }
    Ok(())
}

fn check_frame(frame: &Frame, before: Option<&Frame>) -> Reason {
    if before.is_some_and(|before| before.part > frame.part) {
        return Err("its part comes after a later one".into());
    }
    if frame.packed == 0 || frame.packed > limits::FRAME_PACKED {
        return Err("its packed size is out of bounds".into());
    }
    if frame.part == Part::List {
        if frame.unpacked != 0 || frame.packed < 8 {
            return Err("it is not a skippable frame".into());
        }
    } else if frame.unpacked == 0
        || frame.unpacked > limits::FRAME_UNPACKED
        || !frame.unpacked.is_multiple_of(512)
    {
        return Err("its unpacked size is out of bounds".into());
    }
    if let Some(offset) = frame.continues {
        let goes_on = frame.part == Part::Files
            && before.is_some_and(|before| before.part == Part::Files)
            && offset > 0
            && offset % 4096 == 0
            && offset < limits::PAYLOAD_BYTES;
        if !goes_on {
            return Err("it cannot continue a file there".into());
        }
    }
    Ok(())
}

/// A name is a file name, an argument of xl and a key of xenstore: all three stay harmless.
fn check_domain(name: &str) -> Reason {
    let mut bytes = name.bytes();
    let sane = bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && name.len() <= limits::NAME
        && name.bytes().any(|b| !b.is_ascii_digit());
    // A name of digits only would be taken for a domid.
    if sane && name != "Domain-0" {
        Ok(())
    } else {
        Err("not a usable domain name".into())
    }
}

fn check_path(path: &str) -> Reason {
    let normal = path.len() <= limits::PATH
        && !path.chars().any(char::is_control)
        && path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
        });
    if normal {
        Ok(())
    } else {
        Err(format!(
            "{} is not an absolute path in its shortest form",
            path.escape_debug()
        ))
    }
}

fn check_preserve(patterns: &[String]) -> Reason {
    if patterns.len() > limits::PRESERVE {
        return Err(format!(
            "more than {} patterns to preserve",
            limits::PRESERVE
        ));
    }
    let mut seen = HashSet::new();
    for pattern in patterns {
        check_path(pattern.strip_suffix('/').unwrap_or(pattern))?;
        if !seen.insert(pattern) {
            return Err(format!("pattern {pattern} is there twice"));
        }
    }
    Ok(())
}

fn check_version(what: &str, version: &str) -> Reason {
    if version::is_valid(version) {
        Ok(())
    } else {
        Err(format!(
            "{what} `{}` is not a version",
            version.escape_debug()
        ))
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= limits::WORD
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._+:~-".contains(&b))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
