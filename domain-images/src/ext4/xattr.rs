//! Extended attributes: in the inode as far as they fit, then in one block.

use super::allocate::Allocator;
use super::bytes::{le16, le32, put16, put32};
use super::disk::Disk;
use super::inode::{ATTRIBUTES, INODE, Type};
use super::{BLOCK, FillError};

const MAGIC: u32 = 0xEA02_0000;
/// Bytes of attributes in an inode, their magic included.
const IN_INODE: usize = INODE - ATTRIBUTES;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Bytes of a block's header.
const HEADER: usize = 32;

/// Attributes that have their place.
pub(super) struct Placed {
    /// The end of the inode.
    pub(super) in_inode: [u8; IN_INODE],
    /// The block of those that it does not hold.
    pub(super) block: Option<u64>,
}

/// One attribute as it is stored.
struct Attribute<'a> {
    namespace: u8,
    name: &'a [u8],
    value: Vec<u8>,
}

impl Attribute<'_> {
    /// Bytes it takes.
    fn size(&self) -> usize {
        self.entry_size() + self.value.len().next_multiple_of(4)
    }

    fn entry_size(&self) -> usize {
        ENTRY + self.name.len().next_multiple_of(4)
    }

    /// `e_hash`: of the name, then of the value.
    fn hash(&self) -> u32 {
        let name = self.name.iter().fold(0_u32, |hash, byte| {
            hash << 5 ^ hash >> 27 ^ u32::from(*byte)
        });
        let mut padded = self.value.clone();
        padded.resize(self.value.len().next_multiple_of(4), 0);
        padded
            .chunks_exact(4)
            .fold(name, |hash, word| hash << 16 ^ hash >> 16 ^ le32(word, 0))
    }
}

/// Gives all attributes of an inode of type `kind` their places.
pub(super) fn place(
    attributes: &[(&[u8], &[u8])],
    kind: Type,
    disk: &Disk,
    allocator: &mut Allocator,
) -> Result<Placed, FillError> {
    let mut placed = Placed {
        in_inode: [0; IN_INODE],
        block: None,
    };
    if attributes.is_empty() {
        return Ok(placed);
    }
    let mut inside = Vec::new();
    let mut outside = Vec::new();
    // Behind the last entry there are four zeros.
    let mut room = IN_INODE - 4 - 4;
    for (name, value) in attributes {
        let attribute = stored(name, value, kind)?;
        if attribute.size() <= room {
            room -= attribute.size();
            inside.push(attribute);
        } else {
            outside.push(attribute);
        }
    }
    if !inside.is_empty() {
        put32(&mut placed.in_inode, 0, MAGIC);
        // Places of values are counted from the first entry.
        fill(&mut placed.in_inode[4..], 0, &inside, false);
    }
    if !outside.is_empty() {
        placed.block = Some(block(&mut outside, disk, allocator)?);
    }
    Ok(placed)
}

fn block(
    attributes: &mut [Attribute<'_>],
    disk: &Disk,
    allocator: &mut Allocator,
) -> Result<u64, FillError> {
    let needed: usize = attributes.iter().map(Attribute::size).sum();
    if needed > BLOCK - HEADER - 4 {
        return Err(FillError::Refused(
            "its extended attributes are more than the file system takes",
        ));
    }
    // The kernel searches a block's entries in this order.
    attributes.sort_by_key(|a| (a.namespace, a.name.len(), a.name));
    let at = allocator.metadata(disk)?;
    let mut bytes = Box::new([0; BLOCK]);
    let block = &mut bytes[..];
    put32(block, 0, MAGIC);
    put32(block, 4, 1);
    put32(block, 8, 1);
    fill(block, HEADER, attributes, true);
    let sum = allocator.geometry.seed.and(&at.to_le_bytes()).sum(block);
    put32(block, 16, sum);
    disk.later(at, bytes)?;
    Ok(at)
}

/// Entries from `first` on, values from the end of `area` downwards.
fn fill(area: &mut [u8], first: usize, attributes: &[Attribute<'_>], hashed: bool) {
    let (mut entry, mut end) = (first, area.len());
    for attribute in attributes {
        let Attribute {
            namespace,
            name,
            value,
        } = attribute;
        area[entry] = name.len() as u8;
        area[entry + 1] = *namespace;
        if !value.is_empty() {
            end -= value.len().next_multiple_of(4);
            area[end..end + value.len()].copy_from_slice(value);
            put16(area, entry + 2, end as u16);
        }
        put32(area, entry + 8, value.len() as u32);
        if hashed {
            put32(area, entry + 12, attribute.hash());
        }
        area[entry + ENTRY..entry + ENTRY + name.len()].copy_from_slice(name);
        entry += attribute.entry_size();
    }
}

/// What the kernel would store for the attribute `name`.
fn stored<'a>(name: &'a [u8], value: &[u8], kind: Type) -> Result<Attribute<'a>, FillError> {
    const NAMESPACES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
    let acl = match name {
        b"system.posix_acl_access" => Some(2),
        b"system.posix_acl_default" => Some(3),
        _ => None,
    };
    if let Some(namespace) = acl {
        let right = match kind {
            Type::Symlink => false,
            Type::Directory => true,
            _ => namespace == 2,
        };
        return match acl_value(value) {
            Some(value) if right => Ok(Attribute {
                namespace,
                name: b"",
                value,
            }),
            _ => Err(FillError::Refused("its access control list is none")),
        };
    }
    let found = NAMESPACES.iter().find_map(|(prefix, namespace)| {
        let rest = name.strip_prefix(*prefix).filter(|rest| !rest.is_empty())?;
        Some((*namespace, rest))
    });
    match found {
        Some((1, _)) if !matches!(kind, Type::File | Type::Directory) => Err(FillError::Refused(
            "it has an extended attribute that only files and directories can have",
        )),
        Some((namespace, name)) => Ok(Attribute {
            namespace,
            name,
            value: value.to_vec(),
        }),
        None => Err(FillError::Refused(
            "it has an extended attribute that ext4 does not keep",
        )),
    }
}

/// An access control list as ext4 stores it: only named users and groups carry a number.
fn acl_value(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x2;
    const GROUP: u16 = 0x8;
    let (version, entries) = value.split_at_checked(4)?;
    if le32(version, 0) != 2 || entries.is_empty() || entries.len() % 8 != 0 {
        return None;
    }
    let mut stored = 1_u32.to_le_bytes().to_vec();
    let mut last = 0;
    for entry in entries.chunks_exact(8) {
        let (tag, rights) = (le16(entry, 0), le16(entry, 2));
        let named = matches!(tag, USER | GROUP);
        let known = named || matches!(tag, 0x1 | 0x4 | 0x10 | 0x20);
        let ascends = tag > last || (named && tag == last);
        if !known || !ascends || rights > 7 {
            return None;
        }
        last = tag;
        stored.extend_from_slice(&entry[..if named { 8 } else { 4 }]);
    }
    let has = |wanted| {
        entries
            .chunks_exact(8)
            .any(|entry| le16(entry, 0) == wanted)
    };
    let complete = [0x1, 0x4, 0x20].into_iter().all(has);
    let masked = has(0x10) || !(has(USER) || has(GROUP));
    (complete && masked).then_some(stored)
}
