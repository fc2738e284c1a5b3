//! Which ports get a frame, and in which form, for each kind of port and each way of tagging.

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{DOT1AD, DOT1Q, frame, header, mac};

use crate::wires::{OPEN, Wires};

/// The ports, with their `vlan:`.
const PORTS: [(&str, &str); 9] = [
    ("access", "vlan: 100"),
    ("access2", "vlan: 100"),
    ("other", "vlan: 200"),
    ("trunk", "vlan: { trunk: [100, 200] }"),
    ("native", "vlan: { trunk: [200], native: 100 }"),
    ("every", "vlan: { trunk: [] }"),
    ("tunnel", "vlan: { dot1q-tunnel: 100 }"),
    ("plain", "vlan: none"),
    ("plain2", "vlan: none"),
];

/// The ports that carry a VLAN, and whether a frame of it leaves them tagged.
fn members(vid: u16) -> &'static [(&'static str, bool)] {
    match vid {
        0 => &[("plain", false), ("plain2", false)],
        100 => &[
            ("access", false),
            ("access2", false),
            ("trunk", true),
            ("native", false),
            ("every", true),
            ("tunnel", false),
        ],
        200 => &[
            ("other", false),
            ("trunk", true),
            ("native", true),
            ("every", true),
        ],
        _ => &[("every", true)],
    }
}

type Tags = &'static [(u16, u16)];

/// What VLAN ingress is to make of a frame.
#[derive(Clone, Copy, Debug)]
enum Ingress {
    /// It belongs to this VLAN, with this priority (in place as in a TCI) and this much of its tags left as payload.
    Vlan(u16, u16, Tags),
    /// It is dropped for this reason.
    Drop(&'static str),
}

use Ingress::{Drop, Vlan};

const UNTAGGED: Tags = &[];
/// VID 0 with priority 3: a priority tag.
const PRIORITY: Tags = &[(DOT1Q, 0x6000)];
const TAG_100: Tags = &[(DOT1Q, 0xb064)];
const TAG_200: Tags = &[(DOT1Q, 200)];
const TAG_300: Tags = &[(DOT1Q, 300)];
const TAG_4095: Tags = &[(DOT1Q, 4095)];
const SERVICE_100: Tags = &[(DOT1AD, 100)];
const DOUBLE: Tags = &[(DOT1Q, 100), (DOT1Q, 300)];
/// What a guest sends that wants to get into VLAN 200 behind a port that takes the first tag off.
const HOP: Tags = &[(DOT1Q, 0x6000), (DOT1Q, 200)];

/// For a port: what it is to make of each frame.
fn expected(port: &str) -> [(Tags, Ingress); 9] {
    let [u, p, t100, t200, t300, t4095, s100, double, hop] = match port {
        "access" => [
            Vlan(100, 0, &[]),
            Vlan(100, 0x6000, &[]),
            Drop("vlan-tagged"),
            Drop("vlan-tagged"),
            Drop("vlan-tagged"),
            Drop("vlan-reserved"),
            Vlan(100, 0, SERVICE_100),
            Drop("vlan-tagged"),
            Vlan(100, 0x6000, TAG_200),
        ],
        "trunk" => [
            Drop("vlan-untagged"),
            Drop("vlan-untagged"),
            Vlan(100, 0xb000, &[]),
            Vlan(200, 0, &[]),
            Drop("vlan-not-allowed"),
            Drop("vlan-reserved"),
            Drop("vlan-untagged"),
            Vlan(100, 0, TAG_300),
            Drop("vlan-untagged"),
        ],
        "native" => [
            Vlan(100, 0, &[]),
            Vlan(100, 0x6000, &[]),
            Vlan(100, 0xb000, &[]),
            Vlan(200, 0, &[]),
            Drop("vlan-not-allowed"),
            Drop("vlan-reserved"),
            Vlan(100, 0, SERVICE_100),
            Vlan(100, 0, TAG_300),
            Vlan(100, 0x6000, TAG_200),
        ],
        "every" => [
            Drop("vlan-untagged"),
            Drop("vlan-untagged"),
            Vlan(100, 0xb000, &[]),
            Vlan(200, 0, &[]),
            // No other port carries VLAN 300.
            Drop("no-destination"),
            Drop("vlan-reserved"),
            Drop("vlan-untagged"),
            Vlan(100, 0, TAG_300),
            Drop("vlan-untagged"),
        ],
        // Every frame is payload of VLAN 100, but for the VID that must not be forwarded.
        "tunnel" => [
            Vlan(100, 0, UNTAGGED),
            Vlan(100, 0, PRIORITY),
            Vlan(100, 0, TAG_100),
            Vlan(100, 0, TAG_200),
            Vlan(100, 0, TAG_300),
            Drop("vlan-reserved"),
            Vlan(100, 0, SERVICE_100),
            Vlan(100, 0, DOUBLE),
            Vlan(100, 0, HOP),
        ],
        "plain" => [
            Vlan(0, 0, &[]),
            Vlan(0, 0x6000, &[]),
            Drop("vlan-tagged"),
            Drop("vlan-tagged"),
            Drop("vlan-tagged"),
            Drop("vlan-reserved"),
            Vlan(0, 0, SERVICE_100),
            Drop("vlan-tagged"),
            // The other port of its kind would take the tag within for the frame's own.
            Drop("no-destination"),
        ],
        _ => panic!("no expectation for {port}"),
    };
    [
        (UNTAGGED, u),
        (PRIORITY, p),
        (TAG_100, t100),
        (TAG_200, t200),
        (TAG_300, t300),
        (TAG_4095, t4095),
        (SERVICE_100, s100),
        (DOUBLE, double),
        (HOP, hop),
    ]
}

#[test]
fn every_kind_of_port_gets_every_kind_of_frame_in_its_form() {
    let keys: Vec<(&str, String)> = PORTS
        .iter()
        .map(|(name, vlan)| (*name, format!("port-group: all, {vlan}")))
        .collect();
    let ports: Vec<(&str, &str)> = keys.iter().map(|(name, keys)| (*name, keys.as_str())).collect();
    let mut wires = Wires::new("", &format!("all: {{ {OPEN} }}"), &ports);
    for (number, from) in ["access", "trunk", "native", "every", "tunnel", "plain"]
        .into_iter()
        .enumerate()
    {
        let source = mac(number as u32 + 1);
        for (tags, ingress) in expected(from) {
            let mark = wires.mark();
            let outcome = wires.offer(from, &frame(MacAddr::BROADCAST, source, tags, mark));
            let said = format!("{tags:04x?} from `{from}`: {outcome:?}");
            match ingress {
                Drop(reason) => assert_eq!((outcome.reason(), outcome.got.len()), (reason, 0), "{said}"),
                Vlan(vid, priority, inside) => {
                    // A tag within must not become the frame's own: only a tunnel gets it without one around it.
                    let nested = inside.first().is_some_and(|(tpid, _)| *tpid == DOT1Q);
                    let others = members(vid)
                        .iter()
                        .filter(|(name, tagged)| *name != from && (*tagged || *name == "tunnel" || !nested));
                    let mut names: Vec<&str> = others.clone().map(|(name, _)| *name).collect();
                    names.sort_unstable();
                    assert_eq!(outcome.ports(), names, "{said}");
                    for (name, tagged) in others {
                        let outer: &[(u16, u16)] = if *tagged { &[(DOT1Q, priority | vid)] } else { &[] };
                        let sent = frame(MacAddr::BROADCAST, source, tags, mark);
                        let payload = &sent[12 + 4 * tags.len()..];
                        let mut wanted = header(MacAddr::BROADCAST, source, &[outer, inside].concat());
                        wanted.extend(payload);
                        assert_eq!(outcome.got[*name], wanted, "at `{name}`, {said}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_frame_that_ends_in_its_tag_is_dropped() {
    let ports = [
        ("a", "port-group: all"),
        ("b", "port-group: all"),
        ("t", "port-group: all, vlan: { dot1q-tunnel: 5 }"),
    ];
    let mut wires = Wires::new("", &format!("all: {{ {OPEN} }}"), &ports);
    for tpid in [DOT1Q, DOT1AD] {
        for port in ["a", "t"] {
            for cut in 14..18 {
                let mut octets = frame(MacAddr::BROADCAST, mac(1), &[(tpid, 0)], 1);
                octets.truncate(cut);
                let outcome = wires.offer(port, &octets);
                assert_eq!(
                    outcome.reason(),
                    "vlan-truncated",
                    "{cut} octets of {tpid:04x} from {port}"
                );
            }
        }
        // The tag is whole, and there is no payload (two octets, where the receiving kernel wants some behind a tag).
        let mut octets = frame(MacAddr::BROADCAST, mac(1), &[(tpid, 0)], 1);
        octets.truncate(if tpid == DOT1Q { 18 } else { 20 });
        assert_eq!(wires.offer("a", &octets).ports(), ["b"]);
    }
}

#[test]
fn a_trunk_of_service_tags_takes_802_1ad_for_its_own() {
    let ports = [
        (
            "provider",
            "port-group: all, vlan: { trunk: [100], ethertype: 802.1ad }",
        ),
        ("customer", "port-group: all, vlan: { dot1q-tunnel: 100 }"),
    ];
    let mut wires = Wires::new("", &format!("all: {{ {OPEN} }}"), &ports);
    let mark = wires.mark();
    let inside = [(DOT1Q, 0x2007)];
    let outcome = wires.offer("customer", &frame(MacAddr::BROADCAST, mac(1), &inside, mark));
    let tagged = [(DOT1AD, 100), inside[0]];
    assert_eq!(
        outcome.got["provider"],
        frame(MacAddr::BROADCAST, mac(1), &tagged, mark)
    );
    let outcome = wires.offer("provider", &frame(mac(1), mac(2), &tagged, mark));
    assert_eq!(outcome.got["customer"], frame(mac(1), mac(2), &inside, mark));
    assert_eq!(
        wires.probe("provider", mac(1), mac(2), &[(DOT1Q, 100)]).reason(),
        "vlan-untagged"
    );
    assert_eq!(
        wires.probe("provider", mac(1), mac(2), &[(DOT1AD, 101)]).reason(),
        "vlan-not-allowed"
    );
}

#[test]
fn one_address_in_two_vlans_is_learnt_in_each() {
    let ports = [
        ("trunk", "port-group: all, vlan: { trunk: [] }"),
        ("red", "port-group: all, vlan: 100"),
        ("blue", "port-group: all, vlan: 200"),
        ("red2", "port-group: all, vlan: 100"),
    ];
    let mut wires = Wires::new("", &format!("all: {{ {OPEN} }}"), &ports);
    let shared = mac(7);
    wires.learn("red", shared);
    wires.learn("blue", shared);
    assert_eq!(
        wires.lab.mac_port(&shared.to_string(), Some(100)).as_deref(),
        Some("red")
    );
    assert_eq!(
        wires.lab.mac_port(&shared.to_string(), Some(200)).as_deref(),
        Some("blue")
    );
    assert_eq!(
        wires.probe("trunk", shared, mac(1), &[(DOT1Q, 100)]).ports(),
        ["red"]
    );
    assert_eq!(
        wires.probe("trunk", shared, mac(1), &[(DOT1Q, 200)]).ports(),
        ["blue"]
    );
    assert_eq!(
        wires.probe("trunk", shared, mac(1), &[(DOT1Q, 300)]).reason(),
        "no-destination"
    );
}
