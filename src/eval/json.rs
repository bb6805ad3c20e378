//! How numbers stand in COCO files: ids that some writers make floats, flags that are 0/1 or a bool,
//! boxes of exactly four numbers.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// Reads an id: a whole number that is not negative, also when written as `42.0`.
pub(super) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Id;
    impl Visitor<'_> for Id {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an id (a whole number, 0 or more)")
        }
        fn visit_u64<E: Error>(self, id: u64) -> Result<u64, E> {
            Ok(id)
        }
        fn visit_f64<E: Error>(self, id: f64) -> Result<u64, E> {
            // Above 2^53 neighbouring ids are one float.
            if id >= 0.0 && id.fract() == 0.0 && id <= (1u64 << 53) as f64 {
                Ok(id as u64)
            } else {
                Err(E::invalid_value(serde::de::Unexpected::Float(id), &self))
            }
        }
    }
    deserializer.deserialize_any(Id)
}

/// Reads `iscrowd`: 0, 1, false or true.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("0 or 1")
        }
        fn visit_bool<E: Error>(self, flag: bool) -> Result<bool, E> {
            Ok(flag)
        }
        fn visit_u64<E: Error>(self, flag: u64) -> Result<bool, E> {
            match flag {
                0 | 1 => Ok(flag == 1),
                _ => Err(E::invalid_value(serde::de::Unexpected::Unsigned(flag), &self)),
            }
        }
    }
    deserializer.deserialize_any(Flag)
}

/// Reads a box: `[x, y, width, height]`, nothing more or less.
pub(super) fn xywh<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 4], D::Error> {
    struct Xywh;
    impl<'de> Visitor<'de> for Xywh {
        type Value = [f64; 4];
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a bbox of 4 numbers [x, y, width, height]")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<[f64; 4], A::Error> {
            let mut xywh = [0.0; 4];
            for (position, slot) in xywh.iter_mut().enumerate() {
                *slot = numbers.next_element()?.ok_or_else(|| A::Error::invalid_length(position, &self))?;
            }
            let mut surplus = 0;
            while numbers.next_element::<serde::de::IgnoredAny>()?.is_some() {
                surplus += 1;
            }
            if surplus > 0 { Err(A::Error::invalid_length(4 + surplus, &self)) } else { Ok(xywh) }
        }
    }
    deserializer.deserialize_any(Xywh)
}
