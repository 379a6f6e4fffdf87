//! The hash by which an indexed directory finds a name: "half MD4", seeded by the file system.

use super::bytes::le32;

/// How a file system hashes names, as its superblock says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashing {
    seed: [u32; 4],
    /// Whether bytes count as numbers with a sign: as on the machine that made the file system.
    signed: bool,
}

/// `s_def_hash_version`, and the version in a directory's root.
pub(super) const HALF_MD4: u8 = 1;

impl Hashing {
    /// Reads it from a superblock.
    pub(super) fn of(superblock: &[u8; 1024]) -> Option<Self> {
        let seed = [0, 4, 8, 12].map(|at| le32(superblock, 0xEC + at));
        let flags = le32(superblock, 0x160);
        let usual = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];
        (superblock[0xFC] == HALF_MD4 && flags & 3 != 0).then_some(Self {
            seed: if seed == [0; 4] { usual } else { seed },
            signed: flags & 1 != 0,
        })
    }

    /// The hash, whose lowest bit is always clear, and the minor hash.
    pub(super) fn of_name(self, name: &[u8]) -> (u32, u32) {
        let mut state = self.seed;
        let mut rest = name;
        while !rest.is_empty() {
            transform(&mut state, &self.words(rest));
            rest = rest.get(32..).unwrap_or_default();
        }
        let hash = state[1] & !1;
        // The highest one means: the end of the directory.
        (hash.min(0xFFFF_FFFC), state[2])
    }

    /// The first 32 bytes as words, filled up with how long the rest is.
    fn words(self, rest: &[u8]) -> [u32; 8] {
        let length = rest.len() as u32;
        let pad = length | length << 8;
        let pad = pad | pad << 16;
        let mut words = [pad; 8];
        for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
            for byte in bytes {
                let number = if self.signed {
                    i32::from(byte.cast_signed()).cast_unsigned()
                } else {
                    u32::from(*byte)
                };
                *word = (*word << 8).wrapping_add(number);
            }
        }
        words
    }
}

fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const CHOOSE: Mix = |x, y, z| z ^ (x & (y ^ z));
    const MOST: Mix = |x, y, z| (x & y).wrapping_add((x ^ y) & z);
    const ODD: Mix = |x, y, z| x ^ y ^ z;
    /// What is mixed in, in which order, and how far each is rotated.
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (CHOOSE, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (MOST, 0x5A82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (ODD, 0x6ED9_EBA1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, turns) in ROUNDS {
        for (step, word) in order.into_iter().enumerate() {
            let sum = mix(b, c, d)
                .wrapping_add(a)
                .wrapping_add(words[word])
                .wrapping_add(constant);
            (a, b, c, d) = (d, sum.rotate_left(turns[step % 4]), b, c);
        }
    }
    for (word, more) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_debugfs_says() {
        // debugfs -R 'dx_hash -h half_md4 NAME', which seeds with nothing and signs.
        let hashing = Hashing {
            seed: [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476],
            signed: true,
        };
        for (name, hashes) in [
            ("a", (0xD5FA_7D7A, 0xACB4_8187)),
            ("lost+found", (0x591D_E422, 0x6FFC_56E0)),
            (
                "abcdefghijklmnopqrstuvwxyz012345",
                (0x1964_3B1A, 0xDDE3_A0BF),
            ),
            (
                "abcdefghijklmnopqrstuvwxyz0123456",
                (0x16ED_9A9C, 0x2FB8_454F),
            ),
            ("caf\u{e9}", (0xFB9C_5E5C, 0x0573_E8B8)),
        ] {
            assert_eq!(hashing.of_name(name.as_bytes()), hashes, "{name}");
        }
    }
}
