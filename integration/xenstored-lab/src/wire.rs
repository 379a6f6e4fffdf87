//! xenstore's messages, as far as setting up and relaying a guest needs them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::Error;

// The message types of xen/io/xs_wire.h that are named here.
pub(crate) const WATCH: u32 = 4;
pub(crate) const UNWATCH: u32 = 5;
pub(crate) const TRANSACTION_START: u32 = 6;
pub(crate) const TRANSACTION_END: u32 = 7;
pub(crate) const INTRODUCE: u32 = 8;
pub(crate) const RELEASE: u32 = 9;
pub(crate) const MKDIR: u32 = 12;
pub(crate) const SET_PERMS: u32 = 14;
pub(crate) const WATCH_EVENT: u32 = 15;
pub(crate) const ERROR: u32 = 16;

/// The longest payload that xenstored takes or gives.
const PAYLOAD_MAX: usize = 4096;

/// One message in either direction.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u32,
    pub(crate) request: u32,
    pub(crate) transaction: u32,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [[0_u8; 4]; 4];
        from.read_exact(header.as_flattened_mut())?;
        let [kind, request, transaction, length] = header.map(u32::from_ne_bytes);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a xenstore message of {length} bytes"),
            ));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Self {
            kind,
            request,
            transaction,
            payload,
        })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut bytes: Vec<u8> = [self.kind, self.request, self.transaction, length]
            .iter()
            .flat_map(|field| field.to_ne_bytes())
            .collect();
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// Asks for one thing over a connection of its own to dom0's socket.
pub(crate) fn ask(socket: &Path, kind: u32, payload: &str, words: &str) -> Result<(), Error> {
    let mut stream = UnixStream::connect(socket).map_err(Error::io("connect to xenstored"))?;
    let message = Message {
        kind,
        request: 1,
        transaction: 0,
        payload: payload.as_bytes().to_vec(),
    };
    stream
        .write_all(&message.to_bytes())
        .map_err(Error::io(format!("ask xenstored to {words}")))?;
    let answer =
        Message::read(&mut stream).map_err(Error::io(format!("hear xenstored on {words}")))?;
    if answer.kind == ERROR {
        return Err(Error::Refused {
            request: words.to_owned(),
            answer: String::from_utf8_lossy(&answer.payload)
                .trim_end_matches('\0')
                .to_owned(),
        });
    }
    Ok(())
}
