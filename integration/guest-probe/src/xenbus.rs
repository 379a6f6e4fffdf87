//! xenstore's protocol over the kernel's device, one request at a time.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

/// The message types of xen/io/xs_wire.h that are tried.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Request {
    Read = 2,
    Write = 11,
    Remove = 13,
    SetPerms = 14,
}

const ERROR: u32 = 16;

/// What xenstored says.
#[derive(Debug)]
pub(crate) enum Answer {
    Value(Vec<u8>),
    /// `EACCES` and the like.
    Error(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(bytes) => {
                f.write_str(String::from_utf8_lossy(bytes).trim_end_matches('\0'))
            }
            Self::Error(name) => f.write_str(name),
        }
    }
}

/// The guest's own connection.
#[derive(Debug)]
pub(crate) struct Xenbus(File);

impl Xenbus {
    /// Waits for the device: it may come a moment after init.
    pub(crate) fn open(patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            match OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/xen/xenbus")
            {
                Ok(device) => return Ok(Self(device)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// `payload` as the protocol wants it, NULs included.
    pub(crate) fn ask(&mut self, request: Request, payload: &[u8]) -> io::Result<Answer> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(16 + payload.len());
        for field in [request as u32, 1, 0, length] {
            message.extend_from_slice(&field.to_ne_bytes());
        }
        message.extend_from_slice(payload);
        self.0.write_all(&message)?;

        let mut header = [[0_u8; 4]; 4];
        self.0.read_exact(header.as_flattened_mut())?;
        let [kind, _, _, length] = header.map(u32::from_ne_bytes);
        let mut said = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.0.read_exact(&mut said)?;
        Ok(if kind == ERROR {
            Answer::Error(
                String::from_utf8_lossy(&said)
                    .trim_end_matches('\0')
                    .to_owned(),
            )
        } else {
            Answer::Value(said)
        })
    }
}
