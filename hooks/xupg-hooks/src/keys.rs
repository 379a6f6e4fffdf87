//! Every xenstore path that xupg uses.
//!
//! Three places, each with one writer:
//!
//! | place | writer | reader |
//! |---|---|---|
//! | [`OPS`] | `xupg` in dom0 | people in dom0, with plain `xenstore-ls` |
//! | [`flag_dir`] | dom0 | that guest, which cannot write it: nodes made there inherit the permissions of `/local/domain/<domid>` |
//! | [`answer_dir`] | the agent | dom0, as hostile input |
//!
//! xenstore has no value that holds several facts at once for a reader without transactions, so
//! both directions have an order that makes a torn reading visible:
//!
//! * **Flag**: dom0 removes `phase`, writes all the rest with `txn` last among it, then `phase`
//!   ([`crate::Flag::writes`]). The agent reads `txn`, the rest, `phase`, then `txn` again; without
//!   a `phase`, or with another `txn` at the second look, there is no flag (yet).
//! * **Answer**: the agent, on taking up a flag, first empties `state`, then writes `progress`,
//!   `message`, `txn` and `phase`, and `state` last ([`crate::Answer::writes`]). dom0 reads `txn`
//!   and `phase` first ([`ANSWER_READ_ORDER`]); as long as they are not those of its flag there is
//!   no answer. So the `done` of an earlier transaction or phase is never taken for this one's.

/// The ops view. Only dom0 may read below `/tool`.
pub const OPS: &str = "/tool/xupg";

/// The keys directly under [`OPS`].
pub mod ops {
    /// Where the node stands in the life cycle.
    pub const STATE: &str = "/tool/xupg/state";
    /// The release that runs.
    pub const RELEASE: &str = "/tool/xupg/release";
    /// The release being gone to, empty when nothing is in progress.
    pub const TO: &str = "/tool/xupg/to";
    /// How the last upgrade or rollback ended.
    pub const LAST: &str = "/tool/xupg/last";
    /// The active slot, `a` or `b`.
    pub const SLOT: &str = "/tool/xupg/slot";
    /// The step of the life cycle that is being done.
    pub const PHASE: &str = "/tool/xupg/phase";
    /// 0 to 100.
    pub const PROGRESS: &str = "/tool/xupg/progress";
    /// Seconds until done, as far as known.
    pub const ETA: &str = "/tool/xupg/eta";
    /// The last failure, empty when there was none.
    pub const ERROR: &str = "/tool/xupg/error";
    /// The parent of the domains' directories.
    pub const DOMAINS: &str = "/tool/xupg/domains";

    /// The directory of the domain called `name` (keyed by name: domids die with the domain).
    pub fn domain_dir(name: &str) -> String {
        format!("{DOMAINS}/{}", super::encode_name(name))
    }
    /// State of the domain called `name`.
    pub fn domain_state(name: &str) -> String {
        format!("{}/state", domain_dir(name))
    }
    /// Progress of the domain called `name`, 0 to 100.
    pub fn domain_progress(name: &str) -> String {
        format!("{}/progress", domain_dir(name))
    }
    /// Message of the domain called `name`.
    pub fn domain_message(name: &str) -> String {
        format!("{}/message", domain_dir(name))
    }
}

/// A domain's own directory.
pub fn domain_path(domid: u32) -> String {
    format!("/local/domain/{domid}")
}

/// The flag's directory. The guest reads it by the relative path [`FLAG_DIR`].
pub fn flag_dir(domid: u32) -> String {
    format!("{}/{FLAG_DIR}", domain_path(domid))
}

/// One key of the flag, for example [`flag::TXN`].
pub fn flag_key(domid: u32, key: &str) -> String {
    format!("{}/{key}", flag_dir(domid))
}

/// The answers' directory. Never list it: it belongs to the guest, which may put anything there.
pub fn answer_dir(domid: u32) -> String {
    format!("{}/{ANSWER_DIR}", domain_path(domid))
}

/// One key of the answers, for example [`answer::STATE`].
pub fn answer_key(domid: u32, key: &str) -> String {
    format!("{}/{key}", answer_dir(domid))
}

/// The flag's directory, relative to the domain's.
pub const FLAG_DIR: &str = "xupg";
/// The domain's name, relative to the domain's directory: libxl writes it, the guest reads it.
pub const NAME: &str = "name";
/// The answers' directory, relative to the domain's.
pub const ANSWER_DIR: &str = "data/xupg";

/// The flag's keys.
pub mod flag {
    /// The transaction.
    pub const TXN: &str = "txn";
    /// The release that the node is going to.
    pub const RELEASE: &str = "release";
    /// The release that it comes from; may be absent.
    pub const FROM: &str = "from";
    /// Seconds that the hook may take; may be absent.
    pub const TIMEOUT: &str = "timeout";
    /// `quiesce`, `boot` or `rollback`. Without it there is no flag.
    pub const PHASE: &str = "phase";
}

/// The answers' keys.
pub mod answer {
    /// The transaction that is answered.
    pub const TXN: &str = "txn";
    /// The phase that is answered.
    pub const PHASE: &str = "phase";
    /// See [`crate::State`].
    pub const STATE: &str = "state";
    /// 0 to 100.
    pub const PROGRESS: &str = "progress";
    /// One line for people.
    pub const MESSAGE: &str = "message";
}

/// The order in which dom0 has to read an answer; see the [module's](self) text.
pub const ANSWER_READ_ORDER: [&str; 5] = [
    answer::TXN,
    answer::PHASE,
    answer::STATE,
    answer::PROGRESS,
    answer::MESSAGE,
];

/// Encodes a domain's name as one component of a xenstore path: letters, digits, `-` and `_` stay,
/// every other byte becomes `@` and two hex digits (`db.main` is `db@2emain`).
pub fn encode_name(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'-' | b'_' => char::from(byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("@{byte:02x}"),
        })
        .collect()
}

/// The name that [`encode_name`] has made into `component`; `None` when it cannot have been it.
pub fn decode_name(component: &str) -> Option<String> {
    let mut parts = component.split('@');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    let name = String::from_utf8(bytes).ok()?;
    (encode_name(&name) == component).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_the_design() {
        assert_eq!(flag_key(7, flag::PHASE), "/local/domain/7/xupg/phase");
        assert_eq!(
            answer_key(7, answer::STATE),
            "/local/domain/7/data/xupg/state"
        );
        assert_eq!(
            ops::domain_state("db.main"),
            "/tool/xupg/domains/db@2emain/state"
        );
    }

    #[test]
    fn only_encoded_names_are_decoded() {
        for bad in ["a.b", "a@", "a@2", "a@zz", "a@2E", "a@61", "a@ff"] {
            assert_eq!(decode_name(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn names_come_back(name in any::<String>()) {
            let encoded = encode_name(&name);
            prop_assert!(
                encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_@".contains(&byte))
            );
            prop_assert_eq!(decode_name(&encoded), Some(name));
        }

        #[test]
        fn decoding_never_panics(component in any::<String>()) {
            let _ = decode_name(&component);
        }
    }
}
