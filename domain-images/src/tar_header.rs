//! What both readers of tar headers ask: that of foreign tarballs, and that of payloads.

/// Whether the header's checksum is that of its bytes, its own field counted as blanks.
pub(crate) fn checksum_holds(header: &tar::Header) -> bool {
    let block = header.as_bytes();
    let sum: u32 = block[..148]
        .iter()
        .chain(&block[156..])
        .map(|b| u32::from(*b))
        .sum();
    header.cksum().ok() == Some(sum + 8 * u32::from(b' '))
}
