//! The frame of a trace: hexadecimal octets, a packet of a file, or words such as `ping 10.0.0.2 to vm2`.
//!
//! Parsing is pure; what only the switch knows (MAC addresses of ports) is asked for by the caller between
//! [`parse`] and [`Words::build`].

use std::net::IpAddr;
use std::path::PathBuf;

use switch_core::addr::MacAddr;

use super::words::{Destination, Kind, Words};

/// The frame can't be made from these arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Hexadecimal digits don't come in pairs.
    #[error("the frame has {0} hexadecimal digits; octets have two each")]
    OddHex(usize),
    /// Neither hex nor a word that is known.
    #[error("`{word}` is no frame: give hex octets, @FILE[:N], or words such as `arp who-has 10.0.0.2`{}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// The word.
        word: String,
        /// The nearest that is known.
        nearest: Option<String>,
    },
    /// A word after the kind of frame is not known.
    #[error("`{word}` is not known here: `from`, `to`, `vlan` and `len` can follow{}", suggestion(.nearest.as_deref()))]
    UnknownOption {
        /// The word.
        word: String,
        /// The nearest that is known.
        nearest: Option<String>,
    },
    /// A word needs a value.
    #[error("`{after}` needs {what} after it")]
    Missing {
        /// The word before.
        after: String,
        /// What is needed.
        what: &'static str,
    },
    /// A value is not what is needed.
    #[error("`{value}` is not {what}")]
    Bad {
        /// The value.
        value: String,
        /// What is needed.
        what: &'static str,
    },
    /// Source and destination of different IP versions.
    #[error("the source {from} and the destination {to} are not of the same IP version")]
    Mixed {
        /// The source.
        from: IpAddr,
        /// The destination.
        to: IpAddr,
    },
    /// The frame can't be so short, or so long.
    #[error("`len {len}` is not possible: this frame has {min} to {max} octets")]
    Length {
        /// What was asked for.
        len: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|word| format!("; did you mean `{word}`?"))
        .unwrap_or_default()
}

/// How a frame is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameSpec {
    /// Its octets.
    Octets(Vec<u8>),
    /// A packet of a pcap or pcapng file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// Number of the packet.
        number: usize,
    },
    /// Words.
    Words(Words),
}

/// Reads the arguments of a trace.
pub(crate) fn parse(args: &[String]) -> Result<FrameSpec, FrameError> {
    let words: Vec<&str> = args.iter().flat_map(|arg| arg.split_whitespace()).collect();
    let first = words.first().copied().unwrap_or_default();
    // A file's name may hold spaces: it is the first argument as it stands.
    if let Some(file) = args.first().and_then(|arg| arg.strip_prefix('@')) {
        if let Some(extra) = args.get(1) {
            return Err(FrameError::Bad {
                value: extra.clone(),
                what: "needed: a file's packet is taken as it is",
            });
        }
        let (path, number) = match file.rsplit_once(':') {
            Some((path, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() => {
                let bad = || FrameError::Bad {
                    value: digits.to_owned(),
                    what: "the number of a packet, from 1",
                };
                (
                    path,
                    digits.parse().ok().filter(|number| *number > 0).ok_or_else(bad)?,
                )
            }
            _ => (file, 1),
        };
        return Ok(FrameSpec::File {
            path: path.into(),
            number,
        });
    }
    if let Some(octets) = parse_hex(&words)? {
        return Ok(FrameSpec::Octets(octets));
    }
    parse_words(first, words.get(1..).unwrap_or_default()).map(FrameSpec::Words)
}

/// `None` if this isn't meant as hexadecimal.
fn parse_hex(words: &[&str]) -> Result<Option<Vec<u8>>, FrameError> {
    let text: String = words.concat();
    let text = text.strip_prefix("0x").unwrap_or(&text);
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !matches!(b, b':' | b'-' | b'.'))
        .collect();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Ok(None);
    }
    if !digits.len().is_multiple_of(2) {
        return Err(FrameError::OddHex(digits.len()));
    }
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
    Ok(Some(
        digits
            .chunks_exact(2)
            .map(|pair| value(pair[0]) << 4 | value(pair[1]))
            .collect(),
    ))
}

/// The words that can begin a frame.
const KINDS: [&str; 8] = ["arp", "rarp", "nd", "ping", "ping6", "udp", "tcp", "ether"];
/// The words that can follow.
const OPTIONS: [&str; 4] = ["from", "to", "vlan", "len"];

fn parse_words(first: &str, rest: &[&str]) -> Result<Words, FrameError> {
    let mut rest = Rest {
        last: first,
        words: rest.iter(),
    };
    let kind = match first {
        "arp" => match rest.next("`who-has IP` or `reply IP`")? {
            "who-has" | "request" => Kind::ArpRequest(rest.value(IP4)?),
            "reply" | "is-at" => Kind::ArpReply(rest.value(IP4)?),
            word => {
                return Err(FrameError::Bad {
                    value: word.to_owned(),
                    what: "an ARP operation: `who-has IP` or `reply IP`",
                });
            }
        },
        "rarp" => Kind::Rarp,
        "nd" => match rest.next("`who-has IP`")? {
            "who-has" => Kind::NdRequest(rest.value(IP6)?),
            word => {
                return Err(FrameError::Bad {
                    value: word.to_owned(),
                    what: "a neighbour discovery message: `who-has IP`",
                });
            }
        },
        "ping" => Kind::Ping(rest.value("an IP address such as 10.0.0.2")?),
        "ping6" => Kind::Ping(IpAddr::V6(rest.value(IP6)?)),
        "udp" => Kind::Udp(rest.value(IP_PORT)?),
        "tcp" => Kind::Tcp(rest.value(IP_PORT)?),
        "ether" => Kind::Ether(rest.ether_type()?),
        word => {
            return Err(FrameError::Unknown {
                word: word.to_owned(),
                nearest: nearest(word, &KINDS),
            });
        }
    };
    let mut words = Words {
        kind,
        from_mac: None,
        from_ip: None,
        to: None,
        tags: Vec::new(),
        len: None,
    };
    while let Some(word) = rest.words.next() {
        rest.last = word;
        match *word {
            "from" => rest.from(&mut words)?,
            "to" => {
                let to = rest.next("a MAC address or a port")?;
                words.to = Some(
                    to.parse()
                        .map_or_else(|_| Destination::Port(to.to_owned()), Destination::Mac),
                );
            }
            "vlan" => {
                const WHAT: &str = "a VLAN identifier, 0 to 4095";
                let vid: u16 = rest.value(WHAT)?;
                if vid > 0x0fff {
                    return Err(FrameError::Bad {
                        value: vid.to_string(),
                        what: WHAT,
                    });
                }
                words.tags.push(vid);
            }
            "len" => words.len = Some(rest.value("a length in octets")?),
            word => {
                return Err(FrameError::UnknownOption {
                    word: word.to_owned(),
                    nearest: nearest(word, &OPTIONS),
                });
            }
        }
    }
    if let (Some(from), Some(to)) = (words.from_ip, words.destination_ip())
        && from.is_ipv4() != to.is_ipv4()
    {
        return Err(FrameError::Mixed { from, to });
    }
    Ok(words)
}

const IP4: &str = "an IPv4 address such as 10.0.0.2";
const IP6: &str = "an IPv6 address such as fd00::2";
const IP_PORT: &str = "an address with a port, such as 10.0.0.2:53 or [fd00::2]:53";

fn nearest(word: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(2))
        .map(|(_, candidate)| candidate.to_owned())
}

/// Words not read yet.
struct Rest<'a> {
    last: &'a str,
    words: std::slice::Iter<'a, &'a str>,
}

impl<'a> Rest<'a> {
    fn next(&mut self, what: &'static str) -> Result<&'a str, FrameError> {
        let word = *self.words.next().ok_or_else(|| FrameError::Missing {
            after: self.last.to_owned(),
            what,
        })?;
        self.last = word;
        Ok(word)
    }

    fn value<T: std::str::FromStr>(&mut self, what: &'static str) -> Result<T, FrameError> {
        let word = self.next(what)?;
        word.parse().map_err(|_| FrameError::Bad {
            value: word.to_owned(),
            what,
        })
    }

    fn ether_type(&mut self) -> Result<u16, FrameError> {
        const WHAT: &str = "an EtherType such as 0x88cc";
        let word = self.next(WHAT)?;
        let digits = word.strip_prefix("0x").unwrap_or(word);
        u16::from_str_radix(digits, 16).map_err(|_| FrameError::Bad {
            value: word.to_owned(),
            what: WHAT,
        })
    }

    /// `MAC`, `IP` or `MAC/IP`.
    fn from(&mut self, words: &mut Words) -> Result<(), FrameError> {
        const WHAT: &str = "a MAC address, an IP address, or both as MAC/IP";
        let word = self.next(WHAT)?;
        for part in word.split('/') {
            if let Ok(mac) = part.parse::<MacAddr>() {
                words.from_mac = Some(mac);
            } else if let Ok(ip) = part.parse::<IpAddr>() {
                words.from_ip = Some(ip);
            } else {
                return Err(FrameError::Bad {
                    value: part.to_owned(),
                    what: WHAT,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use std::net::Ipv4Addr;

    use super::super::words::Ends;
    use super::*;
    use crate::summary::summarise;

    const ENDS: Ends = Ends {
        source: MacAddr([0x52, 0x54, 0, 0, 0, 1]),
        destination: MacAddr([0x52, 0x54, 0, 0, 0, 2]),
        source_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
    };

    fn spec(line: &str) -> Result<FrameSpec, FrameError> {
        parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn words(line: &str) -> Words {
        match spec(line) {
            Ok(FrameSpec::Words(words)) => words,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Builds with the destination that a trace would choose.
    fn build(line: &str) -> Vec<u8> {
        let words = words(line);
        let destination = words.natural_destination().unwrap_or(ENDS.destination);
        words.build(&Ends { destination, ..ENDS }).unwrap()
    }

    #[test]
    fn hex_in_any_spelling() {
        for line in [
            "0001ff", "00 01 FF", "00:01:ff", "0x0001ff", "00-01-ff", "0001.ff",
        ] {
            assert_eq!(spec(line), Ok(FrameSpec::Octets(vec![0, 1, 0xff])), "{line}");
        }
        assert_eq!(spec("0001f"), Err(FrameError::OddHex(5)));
    }

    #[test]
    fn files() {
        let file = |path: &str, number| {
            Ok(FrameSpec::File {
                path: path.into(),
                number,
            })
        };
        assert_eq!(spec("@a.pcap"), file("a.pcap", 1));
        assert_eq!(spec("@a.pcap:17"), file("a.pcap", 17));
        assert_eq!(spec("@dir:3/a.pcap"), file("dir:3/a.pcap", 1));
        assert_eq!(parse(&["@my file.pcap:2".to_owned()]), file("my file.pcap", 2));
        assert!(spec("@a.pcap:0").is_err());
        assert!(spec("@a.pcap vlan 3").is_err());
    }

    #[test]
    fn words_become_the_frames_they_name() {
        for (line, want) in [
            (
                "arp who-has 10.0.0.2",
                "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1, 42 octets",
            ),
            (
                "arp reply 10.0.0.1",
                "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP reply 10.0.0.1 is-at 52:54:00:00:00:01, 42 octets",
            ),
            (
                "rarp",
                "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, RARP who-is 52:54:00:00:00:01 tell 52:54:00:00:00:01, 42 octets",
            ),
            (
                "nd who-has fd00::1:2",
                "52:54:00:00:00:01 > 33:33:ff:01:00:02, IPv6 fe80::5054:ff:fe00:1 > ff02::1:ff01:2: ICMPv6 neighbour solicitation, who-has fd00::1:2, 86 octets",
            ),
            (
                "ping 10.0.0.2",
                "52:54:00:00:00:01 > 52:54:00:00:00:02, IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 1, 42 octets",
            ),
            (
                "ping 224.0.0.251",
                "52:54:00:00:00:01 > 01:00:5e:00:00:fb, IPv4 10.0.0.1 > 224.0.0.251: ICMP echo request, id 1, seq 1, 42 octets",
            ),
            (
                "ping6 fd00::2 from fd00::1",
                "52:54:00:00:00:01 > 52:54:00:00:00:02, IPv6 fd00::1 > fd00::2: ICMPv6 echo request, id 1, seq 1, 62 octets",
            ),
            (
                "udp 10.0.0.2:53 vlan 100",
                "52:54:00:00:00:01 > 52:54:00:00:00:02, vlan 100, IPv4 10.0.0.1.49152 > 10.0.0.2.53: UDP len 0, 46 octets",
            ),
            (
                "udp 255.255.255.255:67",
                "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, IPv4 10.0.0.1.49152 > 255.255.255.255.67: UDP len 0, 42 octets",
            ),
            (
                "tcp [fd00::2]:80 from fd00::1",
                "52:54:00:00:00:01 > 52:54:00:00:00:02, IPv6 fd00::1.49152 > fd00::2.80: TCP [S] seq 1 len 0, 74 octets",
            ),
            (
                "ether 0x88cc len 60",
                "52:54:00:00:00:01 > 52:54:00:00:00:02, LLDP, 60 octets",
            ),
            (
                "ping 10.0.0.2 vlan 7 vlan 8",
                "52:54:00:00:00:01 > 52:54:00:00:00:02, vlan 7, vlan 8, IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 1, 50 octets",
            ),
        ] {
            let frame = build(line);
            assert_eq!(summarise(&frame, frame.len()), want, "{line}");
        }
    }

    #[test]
    fn transport_checksums_are_right() {
        for line in ["udp 10.0.0.2:53 len 100", "tcp 10.0.0.2:80", "udp [fd00::2]:53"] {
            let frame = build(line);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            match (packet.net, packet.transport) {
                (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
                    let sum = udp
                        .to_header()
                        .calc_checksum_ipv4(&ip.header().to_header(), udp.payload());
                    assert_eq!(sum.unwrap(), udp.checksum());
                }
                (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
                    let sum = tcp
                        .to_header()
                        .calc_checksum_ipv4(&ip.header().to_header(), tcp.payload());
                    assert_eq!(sum.unwrap(), tcp.checksum());
                }
                (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
                    let sum = udp
                        .to_header()
                        .calc_checksum_ipv6(&ip.header().to_header(), udp.payload());
                    assert_eq!(sum.unwrap(), udp.checksum());
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn lengths_hold_for_every_kind() {
        for line in [
            "arp who-has 10.0.0.2",
            "rarp",
            "nd who-has fd00::2",
            "ping 10.0.0.2",
            "ping6 fd00::2",
            "udp 10.0.0.2:53",
            "tcp 10.0.0.2:80",
            "ether 88cc",
        ] {
            let least = build(line).len();
            for len in [least, 90, 1518, 9216] {
                assert_eq!(build(&format!("{line} len {len}")).len(), len, "{line}");
                assert_eq!(
                    build(&format!("{line} vlan 5 len {}", len + 4)).len(),
                    len + 4,
                    "{line}"
                );
            }
            let short = words(&format!("{line} len {}", least - 1)).build(&ENDS);
            assert!(short.is_err(), "{line}");
        }
        let long = words("udp 10.0.0.2:53 len 65560").build(&ENDS);
        assert!(
            matches!(
                long,
                Err(FrameError::Length {
                    len: 65_560,
                    min: 42,
                    ..
                })
            ),
            "{long:?}"
        );
    }

    #[test]
    fn sources() {
        let from = words("ping 10.0.0.2 from 52:54:00:00:00:99/10.0.0.9 to vm2");
        assert_eq!(from.from_mac, Some(MacAddr([0x52, 0x54, 0, 0, 0, 0x99])));
        assert_eq!(from.from_ip, Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9))));
        assert_eq!(from.to, Some(Destination::Port("vm2".to_owned())));
        let probe = words("arp who-has 10.0.0.2")
            .build(&Ends {
                source_ip: None,
                ..ENDS
            })
            .unwrap();
        assert!(summarise(&probe, probe.len()).contains("ARP probe for 10.0.0.2"));
    }

    #[test]
    fn errors_name_the_word_and_what_is_needed() {
        for (line, want) in [
            ("pnig 10.0.0.2", "did you mean `ping`?"),
            ("arp", "`arp` needs `who-has IP` or `reply IP` after it"),
            (
                "arp who-has",
                "`who-has` needs an IPv4 address such as 10.0.0.2 after it",
            ),
            ("arp who-has vm2", "`vm2` is not an IPv4 address such as 10.0.0.2"),
            ("ping 10.0.0.2 vlna 3", "did you mean `vlan`?"),
            (
                "ping 10.0.0.2 vlan 4096",
                "`4096` is not a VLAN identifier, 0 to 4095",
            ),
            (
                "ping 10.0.0.2 vlan",
                "`vlan` needs a VLAN identifier, 0 to 4095 after it",
            ),
            ("udp 10.0.0.2", "`10.0.0.2` is not an address with a port"),
            ("ping 10.0.0.2 from fd00::1", "not of the same IP version"),
            (
                "ping 10.0.0.2 from vm1",
                "`vm1` is not a MAC address, an IP address, or both as MAC/IP",
            ),
        ] {
            let error = spec(line).unwrap_err().to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_words_give_a_frame_or_an_error(
            args in proptest::collection::vec("(arp|who-has|ping|udp|vlan|len|from|to|10.0.0.2|fd00::2|1.2.3.4:5|[0-9]{1,6}|[a-z:/@]{0,6})", 1..8)
        ) {
            if let Ok(FrameSpec::Words(words)) = parse(&args) {
                let built = words.build(&ENDS);
                if let (Ok(frame), Some(len)) = (built, words.len) {
                    proptest::prop_assert_eq!(frame.len(), len);
                }
            }
        }
    }
}
