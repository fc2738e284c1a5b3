//! The values of a configuration that are more than a number or a text: each a newtype whose constructor checks it,
//! so that an illegal one does not exist (VLAN identifiers: IEEE 802.1Q-2018, clause 9.6).
//!
//! Text forms are canonical: what is printed parses to the same value.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use switch_core::addr::MacAddr;
use switch_core::vid::Vid;

pub use super::vlans::{VlanList, VlanRange};

/// A value of a configuration is not what its key takes. The text says what is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(pub(super) String);

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = UnitError;

            fn try_from(text: String) -> Result<Self, UnitError> {
                Self::check(&text)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = UnitError;

            fn from_str(text: &str) -> Result<Self, UnitError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

/// Name of a switch, a port group or a port: 1 to 64 printable characters, no `/`, no space at either end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

text_newtype!(Name);

impl Name {
    /// The most characters a name may have.
    pub const MAX_CHARS: usize = 64;

    fn check(text: &str) -> Result<(), UnitError> {
        let fail = |what: String| Err(UnitError(what));
        if text.is_empty() {
            return fail("a name must not be empty".to_owned());
        }
        if text.chars().count() > Self::MAX_CHARS {
            return fail(format!("a name has at most {} characters", Self::MAX_CHARS));
        }
        if text.starts_with(' ') || text.ends_with(' ') {
            return fail(format!("the name `{text}` must not begin or end with a space"));
        }
        if let Some(bad) = text.chars().find(|c| !is_printable(*c) || *c == '/') {
            return fail(format!(
                "a name must not contain {}",
                if bad == '/' {
                    "`/`".to_owned()
                } else {
                    format!("U+{:04X}", u32::from(bad))
                }
            ));
        }
        if text == "." || text == ".." {
            return fail(format!("`{text}` is no name"));
        }
        Ok(())
    }
}

/// Printable and visible: controls, spaces other than U+0020, and characters that hide or reorder others are not.
fn is_printable(c: char) -> bool {
    if c == ' ' {
        return true;
    }
    !(c.is_control()
        || c.is_whitespace()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}'
            | '\u{e0000}'..='\u{10ffff}'))
}

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": Self::MAX_CHARS,
            "pattern": "^[^/ ]([^/]*[^/ ])?$",
            "description": "Name of a switch, a port group or a port: printable, no `/`, no space at either end.",
        })
    }
}

/// Name of a netdev as the kernel takes it (`dev_valid_name`): 1 to 15 octets, no `/`, no `:`, no white space, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetdevName(String);

text_newtype!(NetdevName);

impl NetdevName {
    /// The most octets a netdev's name may have (IFNAMSIZ less the final zero).
    pub const MAX_LEN: usize = 15;

    fn check(text: &str) -> Result<(), UnitError> {
        let what = if text.is_empty() {
            "a device's name must not be empty".to_owned()
        } else if text.len() > Self::MAX_LEN {
            format!(
                "`{text}` is too long for a device's name: {} octets, at most {} are allowed",
                text.len(),
                Self::MAX_LEN
            )
        } else if text == "." || text == ".." {
            format!("`{text}` is no device's name")
        } else if let Some(bad) = text
            .chars()
            .find(|c| matches!(c, '/' | ':' | '%') || !is_printable(*c) || *c == ' ')
        {
            format!("a device's name must not contain {bad:?}")
        } else {
            return Ok(());
        };
        Err(UnitError(what))
    }
}

impl JsonSchema for NetdevName {
    fn schema_name() -> Cow<'static, str> {
        "NetdevName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": Self::MAX_LEN,
            "pattern": "^[^/:%\\s]+$",
            "description": "Name of a network device of the host, at most 15 octets.",
        })
    }
}

/// A network namespace: its name under /run/netns, or an absolute path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Netns(String);

text_newtype!(Netns);

impl Netns {
    /// The most octets a path may have (PATH_MAX less the final zero).
    const MAX_PATH: usize = 4095;
    /// The most octets a file's name may have (NAME_MAX).
    const MAX_NAME: usize = 255;

    fn check(text: &str) -> Result<(), UnitError> {
        let max = if text.starts_with('/') {
            Self::MAX_PATH
        } else {
            Self::MAX_NAME
        };
        let wrong = text.is_empty()
            || text.len() > max
            || text == "."
            || text == ".."
            || text.contains(char::is_control)
            || (text.contains('/') && !text.starts_with('/'));
        if wrong {
            return Err(UnitError(format!(
                "`{}` is no network namespace: its name under /run/netns or an absolute path is expected",
                text.escape_debug()
            )));
        }
        Ok(())
    }
}

impl JsonSchema for Netns {
    fn schema_name() -> Cow<'static, str> {
        "Netns".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A network namespace: its name under /run/netns, or an absolute path.",
        })
    }
}

/// Path of a Unix socket: absolute, and so that two equal sockets have equal paths.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketPath(String);

text_newtype!(SocketPath);

impl SocketPath {
    fn check(text: &str) -> Result<(), UnitError> {
        let max = datapath::io::SOCKET_PATH;
        let shown = text.escape_debug();
        let Some(rest) = text.strip_prefix('/') else {
            return Err(UnitError(format!(
                "`{shown}` is no path of a socket: an absolute one is expected, such as /run/vswitch/vm1.sock"
            )));
        };
        if text.len() > max {
            return Err(UnitError(format!(
                "`{shown}` is too long for the path of a socket: {} octets, at most {max} are allowed",
                text.len()
            )));
        }
        if text.contains(char::is_control) || rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(UnitError(format!(
                "`{shown}` is no path of a socket: it is written without empty parts, `.`, `..` and control characters"
            )));
        }
        Ok(())
    }
}

impl JsonSchema for SocketPath {
    fn schema_name() -> Cow<'static, str> {
        "SocketPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^/",
            "maxLength": datapath::io::SOCKET_PATH,
            "description": "Absolute path of a Unix socket, at most 107 octets.",
        })
    }
}

/// Defines a whole number within bounds.
macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($inner:ty): $min:expr, $max:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "i64")]
        pub struct $name($inner);

        impl $name {
            /// The least value.
            pub const MIN: $inner = $min;
            /// The greatest value.
            pub const MAX: $inner = $max;

            /// `None` outside [`Self::MIN`] to [`Self::MAX`].
            pub const fn new(value: $inner) -> Option<Self> {
                if Self::MIN <= value && value <= Self::MAX { Some(Self(value)) } else { None }
            }

            /// The number itself.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = UnitError;

            fn try_from(value: i64) -> Result<Self, UnitError> {
                <$inner>::try_from(value).ok().and_then(Self::new).ok_or_else(|| {
                    UnitError(format!("{value} is not {}: {} to {} are expected", $what, Self::MIN, Self::MAX))
                })
            }
        }

        impl From<$name> for i64 {
            fn from(value: $name) -> Self {
                value.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "integer", "minimum": Self::MIN, "maximum": Self::MAX })
            }
        }
    };
}

bounded! {
    /// A VLAN identifier that a port can be given, 1 to 4094.
    VlanId(u16): 1, 4094, "a VLAN"
}
bounded! {
    /// The MTU of a switch: octets after the Ethernet header and tags.
    Mtu(u16): 68, 9216, "an MTU"
}
bounded! {
    /// Capacity of a MAC table.
    TableSize(u32): 10, 1 << 20, "a size of a MAC table"
}
bounded! {
    /// Number of workers.
    WorkerCount(u16): 1, 64, "a number of workers"
}
bounded! {
    /// Number of a worker, from 0.
    WorkerNumber(u16): 0, 63, "a worker"
}
bounded! {
    /// Number of a processor core, from 0.
    Core(u16): 0, 8191, "a core"
}
bounded! {
    /// How many pairs of a receive and a transmit queue.
    QueuePairs(u16): 1, 64, "a number of queue pairs"
}
bounded! {
    /// Bound on the MAC addresses behind one port.
    MacCount(u32): 1, 1 << 20, "a number of MAC addresses"
}

impl QueuePairs {
    /// As many as there may be: who has them decides how many it uses.
    pub const ALL: Self = Self(Self::MAX);
}

impl VlanId {
    /// The identifier as the switch core has it.
    pub fn vid(self) -> Vid {
        Vid::new(self.0).expect("1 to 4094 are identifiers of the switch core")
    }
}

impl Default for Mtu {
    fn default() -> Self {
        Self(1500)
    }
}

impl Default for TableSize {
    fn default() -> Self {
        Self(32768)
    }
}

/// A time in whole milliseconds, written `300s`, `5m`, `1h` or `250ms`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Duration(u64);

impl Duration {
    /// So many seconds.
    pub const fn from_secs(secs: u32) -> Self {
        Self(secs as u64 * 1000)
    }

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The time as the standard library has it.
    pub const fn get(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }

    fn schema(description: &str) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "description": description,
        })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u64 = 1000;
        const HOUR: u64 = 3600 * SECOND;
        match self.0 {
            ms if ms > 0 && ms.is_multiple_of(HOUR) => write!(f, "{}h", ms / HOUR),
            ms if ms.is_multiple_of(SECOND) => write!(f, "{}s", ms / SECOND),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60 * 1000),
            "h" => Some(3600 * 1000),
            "d" => Some(24 * 3600 * 1000),
            _ => None,
        };
        factor
            .zip(number.parse::<u64>().ok())
            .and_then(|(factor, number)| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| {
                UnitError(format!(
                    "`{text}` is not a time: a number with ms, s, m, h or d such as 300s is expected"
                ))
            })
    }
}

/// How long a learnt address lasts without being seen: 1 s to 1,000,000 s (the upper bound of IEEE 802.1Q-2018, table 8-6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ageing(Duration);

impl Ageing {
    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(1_000_000);

    /// `None` outside its bounds.
    pub fn new(time: Duration) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&time).then_some(Self(time))
    }

    /// The time itself.
    pub const fn get(self) -> std::time::Duration {
        self.0.get()
    }
}

impl Default for Ageing {
    fn default() -> Self {
        Self(Duration::from_secs(300))
    }
}

impl TryFrom<String> for Ageing {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        Self::new(text.parse()?).ok_or_else(|| {
            UnitError(format!(
                "`{text}` is not an ageing time: {} to {} are expected",
                Self::MIN,
                Self::MAX
            ))
        })
    }
}

impl From<Ageing> for String {
    fn from(ageing: Ageing) -> Self {
        ageing.to_string()
    }
}

impl fmt::Display for Ageing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for Ageing {
    fn schema_name() -> Cow<'static, str> {
        "Ageing".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Duration::schema("How long a learnt address lasts without being seen, such as `300s` or `1h`.")
    }
}

/// How long a change of an uplink's link is waited for: up to 1 h.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkDelay(Duration);

impl LinkDelay {
    const MAX: Duration = Duration::from_secs(3600);

    /// The time itself.
    pub const fn get(self) -> std::time::Duration {
        self.0.get()
    }
}

impl Default for LinkDelay {
    fn default() -> Self {
        Self(Duration::from_secs(0))
    }
}

impl TryFrom<String> for LinkDelay {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        let delay: Duration = text.parse()?;
        if delay > Self::MAX {
            return Err(UnitError(format!(
                "`{text}` is too long: at most {} are expected",
                Self::MAX
            )));
        }
        Ok(Self(delay))
    }
}

impl From<LinkDelay> for String {
    fn from(delay: LinkDelay) -> Self {
        delay.0.to_string()
    }
}

impl JsonSchema for LinkDelay {
    fn schema_name() -> Cow<'static, str> {
        "LinkDelay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Duration::schema("How long a change of the link is waited for, such as `500ms` or `30s`.")
    }
}

/// The MAC address of a station: neither a group address nor all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StationMac(MacAddr);

impl StationMac {
    /// `None` for group addresses and zero.
    pub const fn new(mac: MacAddr) -> Option<Self> {
        if mac.is_station() { Some(Self(mac)) } else { None }
    }

    /// The address itself.
    pub const fn get(self) -> MacAddr {
        self.0
    }
}

impl TryFrom<String> for StationMac {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        let mac: MacAddr = text.parse().map_err(|error| UnitError(format!("{error}")))?;
        Self::new(mac).ok_or_else(|| {
            let what = if mac.is_multicast() {
                "a group address"
            } else {
                "no address"
            };
            UnitError(format!(
                "`{text}` is {what}: the address of a station is expected (first octet even, not all zero)"
            ))
        })
    }
}

impl From<StationMac> for String {
    fn from(mac: StationMac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for StationMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for StationMac {
    fn schema_name() -> Cow<'static, str> {
        "StationMac".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f]{1,2}([:-][0-9A-Fa-f]{1,2}){5}$",
            "description": "The MAC address of a station, such as 52:54:00:00:00:01.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_text_form() {
        for (text, printed) in [
            ("300s", "300s"),
            ("10m", "600s"),
            ("60m", "1h"),
            ("2d", "48h"),
            ("1500ms", "1500ms"),
            ("2000ms", "2s"),
            ("0s", "0s"),
        ] {
            let time: Duration = text.parse().unwrap();
            assert_eq!(time.to_string(), printed);
            assert_eq!(printed.parse(), Ok(time));
        }
        for bad in [
            "",
            "s",
            "5",
            "5 s",
            "-5s",
            "+5s",
            "1.5s",
            "5x",
            "18446744073709551615d",
            "99999999999999999999s",
        ] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }
}
