//! Changes inputs where their readers look: a field of a tar header, a word of a text. Bytes changed
//! anywhere seldom leave the rest as it must be for a reader to come that far.

use libfuzzer_sys::fuzzer_mutate;

/// Fields of a tar header that are read: name, mode, ids, size, time, type, link, magic, devices.
const FIELDS: [(usize, usize); 11] = [
    (0, 100),
    (100, 108),
    (108, 116),
    (116, 124),
    (124, 136),
    (136, 148),
    (156, 157),
    (157, 257),
    (257, 265),
    (329, 337),
    (337, 345),
];

/// Words at the edges of what a reader may be told.
const EDGES: [&[u8]; 8] = [
    b"",
    b"0",
    b"-1",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"..",
    b"dom0",
];

/// Changes one field of one header of `data[..size]`; `None` when there is no header.
pub(crate) fn field(data: &mut [u8], size: usize, seed: usize) -> Option<usize> {
    let headers: Vec<usize> = (0..size / 512)
        .map(|block| block * 512)
        .filter(|at| &data[at + 257..at + 262] == b"ustar")
        .collect();
    let at = *headers.get(seed % headers.len().max(1))?;
    let (from, to) = FIELDS[seed / 64 % FIELDS.len()];
    let field = &mut data[at + from..at + to];
    let used = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let now = fuzzer_mutate(field, used, field.len());
    field[now..].fill(0);
    Some(size)
}

/// Changes one run of letters, digits and what stands in names, or puts an edge in its place; `None` when there is none, or no
/// room for what it becomes.
pub(crate) fn word(data: &mut [u8], size: usize, seed: usize) -> Option<usize> {
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-/\\".contains(byte);
    let starts: Vec<usize> = (0..size)
        .filter(|at| inside(&data[*at]) && (*at == 0 || !inside(&data[at - 1])))
        .collect();
    let start = *starts.get(seed % starts.len().max(1))?;
    let rest = &data[start..size];
    let end = start + rest.iter().position(|b| !inside(b)).unwrap_or(rest.len());
    let mut word = data[start..end].to_vec();
    let length = if seed / 64 % 4 == 0 {
        word = EDGES[seed / 256 % EDGES.len()].to_vec();
        word.len()
    } else {
        word.resize(word.len() + 32, 0);
        let room = word.len();
        fuzzer_mutate(&mut word, end - start, room)
    };
    let total = start + length + (size - end);
    if total > data.len() {
        return None;
    }
    data.copy_within(end..size, start + length);
    data[start..start + length].copy_from_slice(&word[..length]);
    Some(total)
}
