//! The configuration as a value: printed and read back, compared, described by its schema, and shown by the examples.

use std::path::{Path, PathBuf};

use control::api::model::ChangeAction;
use control::config::model::{
    Activation, Balance, Config, Detect, Driver, GroupMode, Lacp, LacpMode, LacpRate, MacLimit, MacTable,
    Overflow, Policy, Port, PortGroup, Security, SocketMode, StaticMac, Switch, Teaming, Uplink, Vlan,
    Workers,
};
use control::config::units::{
    Ageing, Core, LinkDelay, MacCount, Mtu, Name, QueuePairs, StationMac, TableSize, VlanId, VlanRange,
    WorkerCount, WorkerNumber,
};
use control::config::{diff, schema, text};
use proptest::prelude::*;
use serde_json::Value;
use switch_core::vid::Tpid;

/// A switch `vs0` with the groups web (VLAN 100), lab and lan, and what is given of its ports, one a line from line 9.
fn ports(rows: &[&str]) -> String {
    let rows: String = rows.iter().map(|row| format!("      {row}\n")).collect();
    format!(
        "version: 1
switches:
  vs0:
    port-groups:
      web: {{ vlan: 100 }}
      lab: {{ vlan: {{ trunk: [10-20] }} }}
      lan: {{}}
    ports:
{rows}"
    )
}

#[test]
fn differences_are_told_by_path() {
    let old = text::load(&ports(&[
        "a: { port-group: web, tap: a, vlan: 5 }",
        "b: { port-group: web, tap: b }",
    ]))
    .unwrap();
    let new = text::load(
        &ports(&[
            "a: { port-group: lan, tap: a, mac: 2:0:0:0:0:1 }",
            "c: { port-group: web, tap: c }",
        ])
        .replace("vlan: 100", "vlan: 101"),
    )
    .unwrap();
    let changes: Vec<String> = diff::diff(old.config(), new.config())
        .into_iter()
        .map(|change| {
            let show = |value: Option<Value>| value.map_or("-".to_owned(), |value| value.to_string());
            let sign = match change.action {
                ChangeAction::Add => '+',
                ChangeAction::Remove => '-',
                ChangeAction::Change => '~',
            };
            format!("{sign} {} {} {}", change.path, show(change.from), show(change.to))
        })
        .collect();
    assert_eq!(
        changes,
        [
            "~ switches.vs0.port-groups.web.vlan 100 101",
            r#"~ switches.vs0.ports.a.port-group "web" "lan""#,
            r#"+ switches.vs0.ports.a.mac - "02:00:00:00:00:01""#,
            "- switches.vs0.ports.a.vlan 5 -",
            r#"+ switches.vs0.ports.c - {"port-group":"web","tap":"c"}"#,
            r#"- switches.vs0.ports.b {"port-group":"web","tap":"b"} -"#,
        ]
    );
}

fn examples() -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut files: Vec<(PathBuf, String)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect();
    files.sort();
    assert!(files.len() >= 2);
    files
}

#[test]
fn the_examples_are_right_and_survive_printing() {
    for (path, text) in examples() {
        let valid = text::load(&text).unwrap_or_else(|problems| panic!("{}: {problems:#?}", path.display()));
        let printed = valid.config().to_yaml();
        assert_eq!(
            &text::parse(&printed).unwrap(),
            valid.config(),
            "{}\n{printed}",
            path.display()
        );
        assert_eq!(diff::diff(valid.config(), &text::parse(&printed).unwrap()), []);
    }
}

#[test]
fn the_full_example_has_every_key() {
    let full = examples()
        .into_iter()
        .find(|(path, _)| path.ends_with("full.yaml"))
        .unwrap()
        .1;
    let schema = schema::schema();
    let mut keys = Vec::new();
    let definitions = schema["$defs"].as_object().unwrap().values();
    for definition in definitions.chain([&schema]) {
        keys.extend(
            definition["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key.clone()),
        );
    }
    assert!(keys.len() > 20, "{keys:?}");
    // `count` of the workers stands in a comment, as it excludes `cores`.
    for key in keys {
        assert!(
            full.contains(&format!("{key}:")),
            "`{key}` is missing from the full example"
        );
    }
}

/// What a value violates of a schema, as far as this project's schema goes.
fn violations(schema: &Value, root: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let of_type = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    let fits = |schema: &Value| {
        let mut inner = Vec::new();
        violations(schema, root, value, path, &mut inner);
        inner.is_empty()
    };
    for (keyword, argument) in schema.as_object().unwrap() {
        let fine = match keyword.as_str() {
            "$ref" => fits(&root["$defs"][argument.as_str().unwrap().strip_prefix("#/$defs/").unwrap()]),
            "type" => match argument {
                Value::String(name) => of_type(name),
                names => names
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|name| of_type(name.as_str().unwrap())),
            },
            "anyOf" => argument.as_array().unwrap().iter().any(fits),
            "oneOf" => {
                argument
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|schema| fits(schema))
                    .count()
                    == 1
            }
            "const" => value == argument,
            "enum" => argument.as_array().unwrap().contains(value),
            "minimum" => value
                .as_i64()
                .is_none_or(|value| value >= argument.as_i64().unwrap()),
            "maximum" => value
                .as_i64()
                .is_none_or(|value| value <= argument.as_i64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 >= argument.as_u64().unwrap()),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 <= argument.as_u64().unwrap()),
            "required" => argument.as_array().unwrap().iter().all(|key| {
                value
                    .as_object()
                    .is_none_or(|object| object.contains_key(key.as_str().unwrap()))
            }),
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    violations(argument, root, item, &format!("{path}[{i}]"), found);
                }
                true
            }
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = argument.get(key) {
                        violations(schema, root, inner, &format!("{path}.{key}"), found);
                    }
                }
                true
            }
            // Names: one pattern, whose finer points are not for this test.
            "patternProperties" => {
                let schema = argument.as_object().unwrap().values().next().unwrap();
                for (key, inner) in value.as_object().into_iter().flatten() {
                    violations(schema, root, inner, &format!("{path}.{key}"), found);
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(argument, false);
                let known = |key: &String| {
                    schema.get("patternProperties").is_some() || schema["properties"].get(key).is_some()
                };
                value.as_object().is_none_or(|object| object.keys().all(known))
            }
            "description" | "title" | "default" | "pattern" | "$schema" | "$defs" => true,
            other => panic!("the test does not know the keyword {other}"),
        };
        if !fine {
            found.push(format!("{path}: {keyword} {argument}"));
        }
    }
}

#[test]
fn the_schema_agrees_with_the_reader() {
    let schema = schema::schema();
    let judge = |value: &Value| {
        let mut found = Vec::new();
        violations(&schema, &schema, value, "", &mut found);
        found
    };
    for (path, text) in examples() {
        // As the owner wrote it, not as the model prints it.
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(judge(&value), Vec::<String>::new(), "{}", path.display());
    }
    for bad in [
        "{}",
        "version: 2",
        "{version: 1, extra: 1}",
        "{version: 1, workers: {count: 0}}",
        "{version: 1, switches: {a: {mtu: 67}}}",
        "{version: 1, switches: {a: {mac-table: {size: big}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {vlan: 4095}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {vlan: {trunk: 5}}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {vlan: {trunk: [], ethertype: x}}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {security: {promiscuous: maybe}}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {mac-limit: {}}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {}}, ports: {p: {tap: t}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {}}, ports: {p: {port-group: g, tap: abcdefghijklmnop}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {}}, ports: {p: {port-group: g, tap: t, enabled: 1}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {}}, ports: {p: {port-group: g, stream: 7}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {}}, ports: {p: {port-group: g, stream: /a, mode: both}}}}}",
        "{version: 1, switches: {a: {port-groups: {g: {}}, ports: {p: {port-group: g, vhost-user: /a, queues: 65}}}}}",
    ] {
        let value: Value = serde_saphyr::from_str(bad).unwrap();
        assert_ne!(judge(&value), Vec::<String>::new(), "{bad}");
        text::load(bad).unwrap_err();
    }
}

#[test]
fn the_schema_explains_every_key() {
    let schema = schema::schema();
    let definitions = schema["$defs"].as_object().unwrap().iter();
    for (name, definition) in definitions
        .map(|(name, value)| (name.as_str(), value))
        .chain([("", &schema)])
    {
        for (key, property) in definition["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name}.{key}");
        }
    }
    assert_eq!(schema["$defs"]["Switch"]["properties"]["mtu"]["default"], 1500);
    assert_eq!(
        schema["$defs"]["MacTable"]["properties"]["ageing"]["default"],
        "300s"
    );
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        "[a-z][a-z0-9.-]{0,10}",
        "[ -~]{1,12}",
        "\\PC{1,8}",
        proptest::sample::select(vec![
            "no",
            "on",
            "null",
            "~",
            "true",
            "1e3",
            "0x10",
            "010",
            "1:30",
            "-",
            "#a",
            "a: b",
            "<<",
            "=",
            "!x",
            "&a",
            "*a",
            "'",
            "\"",
            "{",
            "2001-01-01"
        ])
        .prop_map(str::to_owned),
    ]
    .prop_filter_map("no name", |text| text.parse().ok())
}

fn vlan_id() -> impl Strategy<Value = VlanId> {
    (VlanId::MIN..=VlanId::MAX).prop_map(|vlan| VlanId::new(vlan).unwrap())
}

fn range() -> impl Strategy<Value = VlanRange> {
    (vlan_id(), vlan_id()).prop_map(|(a, b)| VlanRange::new(a.min(b), a.max(b)).unwrap())
}

fn vlan() -> impl Strategy<Value = Vlan> {
    let ethertype = proptest::option::of(proptest::sample::select(vec![Tpid::Dot1Q, Tpid::Dot1Ad]));
    prop_oneof![
        Just(Vlan::None),
        vlan_id().prop_map(Vlan::Access),
        vlan_id().prop_map(Vlan::Tunnel),
        (
            proptest::collection::vec(range(), 0..4),
            proptest::option::of(vlan_id()),
            ethertype
        )
            .prop_map(|(vlans, native, ethertype)| Vlan::Trunk {
                vlans: vlans.into_iter().collect(),
                native,
                ethertype
            }),
    ]
}

fn security() -> impl Strategy<Value = Security> {
    let policy = || proptest::option::of(proptest::sample::select(vec![Policy::Accept, Policy::Reject]));
    (policy(), policy(), policy()).prop_map(|(promiscuous, mac_changes, forged_transmits)| Security {
        promiscuous,
        mac_changes,
        forged_transmits,
    })
}

fn mac_limit() -> impl Strategy<Value = MacLimit> {
    let overflow = proptest::option::of(proptest::sample::select(vec![Overflow::Drop, Overflow::Flood]));
    (MacCount::MIN..=MacCount::MAX, overflow).prop_map(|(count, overflow)| MacLimit {
        count: MacCount::new(count).unwrap(),
        overflow,
    })
}

fn station() -> impl Strategy<Value = StationMac> {
    any::<[u8; 6]>().prop_filter_map("no station", |octets| {
        StationMac::new(switch_core::addr::MacAddr(octets))
    })
}

fn teaming() -> impl Strategy<Value = Teaming> {
    use proptest::option::of;
    let balance = proptest::sample::select(vec![
        Balance::PortId,
        Balance::SourceMac,
        Balance::IpHash,
        Balance::Explicit,
        Balance::Lacp,
    ]);
    let names = || of(proptest::collection::vec(name(), 0..3));
    let delay = || of((0..=3_600_000_u64).prop_map(|ms| LinkDelay::try_from(format!("{ms}ms")).unwrap()));
    let flags = (of(any::<bool>()), of(any::<bool>()));
    let lacp = (
        of(proptest::sample::select(vec![
            LacpMode::Active,
            LacpMode::Passive,
        ])),
        of(proptest::sample::select(vec![LacpRate::Fast, LacpRate::Slow])),
        of(any::<bool>()),
    );
    let lacp = lacp.prop_map(|(mode, rate, fallback)| Lacp { mode, rate, fallback });
    let rest = (of(Just(Detect::Link)), delay(), delay(), of(lacp));
    (of(balance), names(), names(), flags, rest).prop_map(
        |(balance, active, standby, (failback, notify), (detect, up_delay, down_delay, lacp))| Teaming {
            lacp,
            balance,
            active,
            standby,
            detect,
            failback,
            notify,
            up_delay,
            down_delay,
        },
    )
}

fn uplink() -> impl Strategy<Value = Uplink> {
    let device = name().prop_filter_map("no device", |name| name.as_str().parse().ok());
    (device, port()).prop_map(|(device, port)| Uplink {
        device,
        driver: port.driver,
        offloads: port.offloads,
        busy_poll: port.busy_poll,
        enabled: port.enabled,
        worker: port.worker,
        workers: port.workers,
    })
}

fn group() -> impl Strategy<Value = PortGroup> {
    use proptest::option::of;
    (
        of(teaming()),
        of(Just(GroupMode::Bridged)),
        of(vlan()),
        of(security()),
        of(mac_limit()),
        of(any::<bool>()),
    )
        .prop_map(|(teaming, mode, vlan, security, mac_limit, isolated)| PortGroup {
            // As good as any other.
            activation: isolated.map(|isolated| {
                if isolated {
                    Activation::Announce
                } else {
                    Activation::Now
                }
            }),
            teaming,
            mode,
            vlan,
            security,
            mac_limit,
            isolated,
        })
}

fn port() -> impl Strategy<Value = Port> {
    use proptest::option::of;
    let netdev = || of(name().prop_filter_map("no device", |name| name.as_str().parse().ok()));
    let netns = of(name().prop_filter_map("no namespace", |name| name.as_str().parse().ok()));
    let statics = proptest::collection::vec(
        (station(), of(vlan_id())).prop_map(|(mac, vlan)| StaticMac { mac, vlan }),
        0..3,
    );
    let driver = of(proptest::sample::select(vec![
        Driver::Auto,
        Driver::AfXdp,
        Driver::AfPacket,
    ]));
    let flags = (
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
    );
    let socket = || of(name().prop_filter_map("no path", |name| format!("/run/{name}").parse().ok()));
    let mode = of(proptest::sample::select(vec![
        SocketMode::Client,
        SocketMode::Server,
    ]));
    let queues = of((QueuePairs::MIN..=QueuePairs::MAX).prop_map(|queues| QueuePairs::new(queues).unwrap()));
    let sockets = (socket(), socket(), mode, queues);
    let device = (netdev(), netdev(), sockets, netns, driver, of(station()));
    (
        of(name()),
        device,
        flags,
        statics,
        (of(vlan()), of(security()), of(mac_limit())),
    )
        .prop_map(
            |(
                port_group,
                (tap, device, (vhost_user, stream, mode, queues), netns, driver, mac),
                (enabled, persistent, offloads, isolated, busy_poll),
                static_macs,
                over,
            )| Port {
                port_group,
                tap,
                device,
                vhost_user,
                stream,
                mode,
                queues,
                mac,
                enabled,
                persistent,
                netns,
                driver,
                offloads,
                // As good as any others.
                worker: queues.map(|pairs| WorkerNumber::new(pairs.get() - 1).unwrap()),
                workers: isolated.map(|_| vec![WorkerNumber::new(7).unwrap()]),
                static_macs,
                vlan: over.0,
                security: over.1,
                mac_limit: over.2,
                isolated,
                activation: isolated.map(|_| Activation::Announce),
                busy_poll,
            },
        )
}

fn any_config() -> impl Strategy<Value = Config> {
    use proptest::collection::vec;
    use proptest::option::of;
    let workers = of((
        of((WorkerCount::MIN..=WorkerCount::MAX).prop_map(|count| WorkerCount::new(count).unwrap())),
        of(vec(
            (Core::MIN..=Core::MAX).prop_map(|core| Core::new(core).unwrap()),
            0..3,
        )),
    )
        .prop_map(|(count, cores)| Workers { count, cores }));
    let ageing = prop_oneof![
        1000..100_000_u64,
        (1..100_000_u64).prop_map(|secs| secs * 1000),
        (1..200_u64).prop_map(|h| h * 3_600_000)
    ]
    .prop_map(|ms| Ageing::new(format!("{ms}ms").parse().unwrap()).unwrap());
    let table = of((
        of((TableSize::MIN..=TableSize::MAX).prop_map(|size| TableSize::new(size).unwrap())),
        of(ageing),
    )
        .prop_map(|(size, ageing)| MacTable { size, ageing }));
    let mtu = of((Mtu::MIN..=Mtu::MAX).prop_map(|mtu| Mtu::new(mtu).unwrap()));
    let switch = (
        mtu,
        table,
        vec((name(), group()), 0..4),
        vec((name(), port()), 0..4),
        (vec((name(), uplink()), 0..3), of(teaming())),
    )
        .prop_map(|(mtu, mac_table, groups, ports, (uplinks, teaming))| Switch {
            uplinks: uplinks.into_iter().collect(),
            teaming,
            mtu,
            mac_table,
            port_groups: groups.into_iter().collect(),
            ports: ports.into_iter().collect(),
        });
    (workers, vec((name(), switch), 0..3)).prop_map(|(workers, switches)| Config {
        workers,
        switches: switches.into_iter().collect(),
        ..Config::default()
    })
}

proptest! {
    /// What is printed reads back to the same, in the same order: as YAML, as JSON, and as a value.
    #[test]
    fn any_configuration_survives_printing(config in any_config()) {
        let order = |config: &Config| config.to_value().to_string();
        let yaml = config.to_yaml();
        let read = text::parse(&yaml).map_err(|problems| TestCaseError::fail(format!("{problems:#?}\n{yaml}")))?;
        prop_assert_eq!(&read, &config, "{}", yaml);
        prop_assert_eq!(order(&read), order(&config));
        let json = config.to_value().to_string();
        let read = text::parse(&json).map_err(|problems| TestCaseError::fail(format!("{problems:#?}\n{json}")))?;
        prop_assert_eq!(&read, &config);
        prop_assert_eq!(diff::diff(&read, &config), []);
        // The value and the text are judged alike.
        match (text::load(&json), text::load_value(&config.to_value())) {
            (Ok(a), Ok(b)) => prop_assert_eq!(a, b),
            (Err(a), Err(b)) => {
                let mut words: [Vec<_>; 2] = [a, b].map(|problems| problems.into_iter().map(|p| (p.path, p.message, p.help)).collect());
                words.iter_mut().for_each(|words| words.sort());
                prop_assert_eq!(&words[0], &words[1]);
            }
            (a, b) => prop_assert!(false, "{:?} {:?}", a, b),
        }
    }

    /// Applying all differences in mind: a difference is empty exactly when nothing differs, and turns round with its sides.
    #[test]
    fn differences_turn_round(a in any_config(), b in any_config()) {
        let there = diff::diff(&a, &b);
        let back = diff::diff(&b, &a);
        prop_assert_eq!(there.is_empty(), a == b);
        let mut there: Vec<_> = there.into_iter().map(|c| (c.path, c.from.map(|v| v.to_string()), c.to.map(|v| v.to_string()))).collect();
        let mut back: Vec<_> = back.into_iter().map(|c| (c.path, c.to.map(|v| v.to_string()), c.from.map(|v| v.to_string()))).collect();
        there.sort();
        back.sort();
        prop_assert_eq!(there, back);
    }
}
