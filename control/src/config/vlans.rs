//! VLANs as a configuration lists them: single ones and ranges (IEEE 802.1Q-2018, clause 9.6).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use switch_core::vid::Vid;
use switch_core::vlan::VlanSet;

use super::units::{UnitError, VlanId};

/// One VLAN or a range of them, both ends included, in a [`VlanList`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanRange {
    first: VlanId,
    last: VlanId,
}

impl VlanRange {
    /// `None` when `last` is below `first`.
    pub fn new(first: VlanId, last: VlanId) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }
}

impl From<VlanId> for VlanRange {
    fn from(vlan: VlanId) -> Self {
        Self {
            first: vlan,
            last: vlan,
        }
    }
}

impl fmt::Display for VlanRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for VlanRange {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || {
            UnitError(format!(
                "`{text}` is no range of VLANs: a number or a range such as 200-299 is expected"
            ))
        };
        let number = |text: &str| -> Result<VlanId, UnitError> {
            let text = text.trim();
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(malformed());
            }
            text.parse::<i64>().map_err(|_| malformed())?.try_into()
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        Self::new(first, last).ok_or_else(|| {
            UnitError(format!(
                "the range {text} ends before it begins; write {last}-{first}"
            ))
        })
    }
}

impl Serialize for VlanRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first.get())
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for VlanRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = VlanRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VLAN or a range such as 200-299")
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<VlanRange, E> {
                VlanId::try_from(value).map(Into::into).map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<VlanRange, E> {
                self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<VlanRange, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// VLANs of a trunk in the file's form, `[100, 200-299]`; the empty list stands for all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VlanList(Vec<VlanRange>);

impl VlanList {
    /// The list as a set.
    pub fn set(&self) -> VlanSet {
        if self.0.is_empty() {
            return VlanSet::all();
        }
        self.0
            .iter()
            .flat_map(|range| range.first.get()..=range.last.get())
            .filter_map(Vid::new)
            .collect()
    }
}

impl FromIterator<VlanRange> for VlanList {
    fn from_iter<T: IntoIterator<Item = VlanRange>>(ranges: T) -> Self {
        Self(ranges.into_iter().collect())
    }
}

/// Short form: `100,200-299`, or `all`.
impl fmt::Display for VlanList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("all");
        }
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

impl JsonSchema for VlanList {
    fn schema_name() -> Cow<'static, str> {
        "VlanList".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": {
                "oneOf": [
                    { "type": "integer", "minimum": VlanId::MIN, "maximum": VlanId::MAX },
                    { "type": "string", "pattern": "^[0-9]+( *- *[0-9]+)?$" },
                ],
            },
            "description": "VLANs and ranges of them, such as [100, 200-299]; the empty list stands for all.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_vlans_are_sets() {
        let list =
            |ranges: &[&str]| -> VlanList { ranges.iter().map(|range| range.parse().unwrap()).collect() };
        let vids = |ranges: &[&str]| -> Vec<u16> { list(ranges).set().iter().map(Vid::get).collect() };
        assert_eq!(vids(&["100", "5-7", "6 - 8"]), [5, 6, 7, 8, 100]);
        assert_eq!(vids(&[]).len(), 4094);
        assert_eq!(list(&["100", "200-299", "7-7"]).to_string(), "100,200-299,7");
        for bad in ["", "-", "1-", "-1", "1-2-3", "0-5", "5-4095", "9-5", "a"] {
            assert!(bad.parse::<VlanRange>().is_err(), "{bad}");
        }
    }
}
