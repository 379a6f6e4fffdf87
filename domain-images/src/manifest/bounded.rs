//! Lists in a manifest that are refused while they are read: what is cheap to write may be dear to
//! keep, and the ceiling on memory holds before anything is checked.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};

use super::limits;

/// Reads [`super::Payload::preserve`].
pub(super) fn patterns<'de, D>(deserializer: D) -> Result<Vec<String>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    struct Patterns;

    impl<'de> Visitor<'de> for Patterns {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} patterns", limits::PRESERVE)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut patterns = Vec::new();
            while let Some(pattern) = list.next_element()? {
                if patterns.len() == limits::PRESERVE {
                    return Err(A::Error::invalid_length(patterns.len() + 1, &self));
                }
                patterns.push(pattern);
            }
            Ok(patterns)
        }
    }

    deserializer.deserialize_seq(Patterns)
}
