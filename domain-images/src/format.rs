//! The bundle format, layer by layer.
//!
//! ```text
//! release.xupg                            tar -tvf release.xupg
//! +----------------------------------+
//! | manifest.json   (<= 8 MiB)       |    tar -xOf release.xupg manifest.json | jq .
//! | manifest.sig    (<= 64 KiB, CMS) |    openssl cms -verify -binary -inform DER
//! |                                  |        -content manifest.json -in manifest.sig -CAfile ca.pem
//! | dom0.tar.zst                     |    tar -xOf release.xupg dom0.tar.zst | zstd -d | tar -t
//! |  +----------------------------+  |
//! |  | skippable frames: file list|  |    (zstd -d steps over them)
//! |  | frames: directories        |  |
//! |  | frames: files and the like |  |    each frame: <= 4 MiB decoded, about 2 MiB;
//! |  | frames: hard links, end    |  |    SHA-256 and sizes in manifest.json
//! |  +----------------------------+  |
//! | web.tar.zst                      |
//! | ...        overlay payloads last |
//! +----------------------------------+
//! ```
//!
//! # The outer tar
//! Plain ustar headers, regular files only, no folder in a name, members exactly in this order.
//! A size over 8 GiB is binary, as GNU tar writes it. It ends with two blocks of zeros. Nothing in
//! it is signed but what the manifest says about it: names, order, sizes, digests.
//!
//! # A payload
//! A series of zstd frames ([`crate::manifest::Frame`]), each packed without knowledge of the
//! others. Decoded one after the other they are one tar stream (POSIX.1-2001, "pax"). The stream's
//! parts ([`crate::manifest::Part`]) follow each other, and each begins with a new frame:
//!
//! 1. **list**: skippable zstd frames (magic `0x184D2A58`); the contents, one behind the other, are
//!    a zstd stream with the payload's [file list](crate::filelist). `unpacked` is 0.
//! 2. **directories**: all directory entries, parents first. `./` is the root's own entry.
//! 3. **files**: regular files, symbolic links, devices, fifos, sorted by path.
//! 4. **links**: hard links, whose targets are all in part 3: of a file's names, the first in the
//!    order of the list is the file.
//!
//! Each part has its entries in the order of the list, and they say what the list says; only the
//! attributes of a hard link may be left out. So a fresh file system can be made in one walk over the
//! list, in step with the stream.
//!
//! The two zero blocks that end the stream are the last 1024 bytes of the last frame, which has the
//! part of what precedes them.
//!
//! Whoever unpacks in parallel through a mounted file system finishes each part before the next, and
//! within a part takes frames in any order. **Times and modes of directories are set last** there,
//! since creating entries changes a directory's time and a directory may forbid writing; the file
//! list has them all. GNU tar does so with `--delay-directory-restore`: `zstd -dc dom0.tar.zst | tar
//! -xpf - --numeric-owner --xattrs --xattrs-include='*' --delay-directory-restore`.
//!
//! # Where frames begin
//! At a tar entry, whose pax header stays in the same frame; or inside a regular file, when the
//! manifest's `continues` says at which byte of its **stored data** the frame begins: a multiple of
//! 4096. The file is the last one begun in an earlier frame. A frame that continues a file holds the
//! rest of its data, its padding to 512 bytes, and further entries; or nothing but data.
//!
//! A large file's header, with all its pax records, and for a sparse file the whole map, are in the
//! frame in which it begins, so one look at that frame tells where the data of the others belong.
//!
//! # Entries
//! * Paths are relative, in shortest form; directories end with `/`. Names over 100 bytes, link
//!   targets over 100 bytes, sizes over 8 GiB, large ids, negative times and
//!   fractions of seconds are in pax records (`path`, `linkpath`, `size`, `uid`, `gid`, `mtime`).
//! * Extended attributes, capabilities and ACLs are pax records `SCHILY.xattr.<name>`.
//! * Sparse files are GNU format 1.0: pax records `GNU.sparse.major` = 1, `GNU.sparse.minor` = 0,
//!   `GNU.sparse.name`, `GNU.sparse.realsize`; the data begin with the map in decimal lines (count,
//!   then offset and length of each extent), padded to 512 bytes. **The stored data that `continues`
//!   counts begin after the map.** Extents begin at multiples of 4096; at most 16,384 of them; only the
//!   last one may end elsewhere, at the end of the file. A file that ends in a hole has one more, of
//!   length 0, at its end.
//! * Whiteouts (`.wh.name`, `.wh..wh..opq`) of overlay payloads are empty files by that name.
//! * No global pax headers, no GNU long-name entries, no old sparse format, no sockets.
