//! Numbers as they stand in COCO files of all kinds of writers: ids as floats or texts, flags as 0, 0.0,
//! `null` or a bool, sizes of -1, boxes of exactly four numbers.

use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Unexpected, Visitor};

/// 2^53: above it neighbouring whole numbers are one float.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads an id: a whole number that is not negative, also when written as `42.0` or `"42"`.
pub(crate) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    some_id(deserializer)?.ok_or_else(|| D::Error::invalid_type(Unexpected::Unit, &"an id"))
}

/// Reads an id that may be `null`.
pub(crate) fn some_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Id;
    impl Visitor<'_> for Id {
        type Value = Option<u64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an id (a whole number, 0 or more)")
        }
        fn visit_u64<E: Error>(self, id: u64) -> Result<Self::Value, E> {
            Ok(Some(id))
        }
        fn visit_f64<E: Error>(self, id: f64) -> Result<Self::Value, E> {
            if id >= 0.0 && id.fract() == 0.0 && id <= EXACT {
                Ok(Some(id as u64))
            } else {
                Err(E::invalid_value(Unexpected::Float(id), &self))
            }
        }
        fn visit_str<E: Error>(self, id: &str) -> Result<Self::Value, E> {
            id.trim().parse().map(Some).map_err(|_| E::invalid_value(Unexpected::Str(id), &self))
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Id)
}

/// Reads a side of an image: a whole number of pixels, also as a float; 0 for `null` and for what is not
/// above 0.
pub(super) fn side<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Side;
    impl Visitor<'_> for Side {
        type Value = u32;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number of pixels")
        }
        fn visit_u64<E: Error>(self, side: u64) -> Result<u32, E> {
            u32::try_from(side).map_err(|_| E::invalid_value(Unexpected::Unsigned(side), &self))
        }
        fn visit_i64<E: Error>(self, _: i64) -> Result<u32, E> {
            Ok(0)
        }
        fn visit_f64<E: Error>(self, side: f64) -> Result<u32, E> {
            match side {
                side if side <= 0.0 => Ok(0),
                side if side.fract() == 0.0 && side <= f64::from(u32::MAX) => Ok(side as u32),
                side => Err(E::invalid_value(Unexpected::Float(side), &self)),
            }
        }
        fn visit_str<E: Error>(self, side: &str) -> Result<u32, E> {
            side.trim().parse().map_err(|_| E::invalid_value(Unexpected::Str(side), &self))
        }
        fn visit_unit<E: Error>(self) -> Result<u32, E> {
            Ok(0)
        }
    }
    deserializer.deserialize_any(Side)
}

/// Reads a flag: 0, 1 (also as floats), false, true, or `null` for 0.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("0, 1, true or false")
        }
        fn visit_bool<E: Error>(self, flag: bool) -> Result<bool, E> {
            Ok(flag)
        }
        fn visit_u64<E: Error>(self, flag: u64) -> Result<bool, E> {
            match flag {
                0 | 1 => Ok(flag == 1),
                _ => Err(E::invalid_value(Unexpected::Unsigned(flag), &self)),
            }
        }
        fn visit_f64<E: Error>(self, flag: f64) -> Result<bool, E> {
            match flag {
                0.0 => Ok(false),
                1.0 => Ok(true),
                _ => Err(E::invalid_value(Unexpected::Float(flag), &self)),
            }
        }
        fn visit_str<E: Error>(self, flag: &str) -> Result<bool, E> {
            match flag.trim() {
                "0" | "false" => Ok(false),
                "1" | "true" => Ok(true),
                _ => Err(E::invalid_value(Unexpected::Str(flag), &self)),
            }
        }
        fn visit_unit<E: Error>(self) -> Result<bool, E> {
            Ok(false)
        }
    }
    deserializer.deserialize_any(Flag)
}

/// Reads a box: `[x, y, width, height]`, nothing more or less.
pub(crate) fn xywh<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 4], D::Error> {
    some_xywh(deserializer)?.ok_or_else(|| D::Error::invalid_length(0, &FOUR))
}

/// Reads a box that may be `null` or `[]`.
pub(super) fn some_xywh<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 4]>, D::Error> {
    struct Xywh;
    impl<'de> Visitor<'de> for Xywh {
        type Value = Option<[f64; 4]>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(FOUR)
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Self::Value, A::Error> {
            let mut xywh = [0.0; 4];
            for (position, slot) in xywh.iter_mut().enumerate() {
                match numbers.next_element()? {
                    Some(number) => *slot = number,
                    None if position == 0 => return Ok(None),
                    None => return Err(A::Error::invalid_length(position, &self)),
                }
            }
            let mut surplus = 0;
            while numbers.next_element::<IgnoredAny>()?.is_some() {
                surplus += 1;
            }
            if surplus > 0 { Err(A::Error::invalid_length(4 + surplus, &self)) } else { Ok(Some(xywh)) }
        }
    }
    deserializer.deserialize_any(Xywh)
}

const FOUR: &str = "a bbox of 4 numbers [x, y, width, height]";
