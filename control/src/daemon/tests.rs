//! The apply path and the devices, over fakes.

use std::time::Duration;

use datapath::io::Peer;
use serde_json::json;
use switch_core::addr::MacAddr;
use switch_core::frame::FrameView;
use switch_core::offload::Offload;
use switch_core::pipeline::{self, Mode, Silent};

use super::testing::{World, link};
use super::{Failure, Request};
use crate::api::model::{ApplyReport, MacEdit, PortEdit, PortState};
use crate::links::Change;
use crate::store::Store;

pub(super) const TWO: &str = "
version: 1
workers: { count: 1 }
switches:
  vs0:
    port-groups: { web: { vlan: 100 } }
    ports:
      vm1: { port-group: web, tap: tap1, netns: ns1 }
      vm2: { port-group: web, tap: tap2, netns: ns2 }
";

/// A device instead of the second TAP.
fn with_device() -> String {
    TWO.replace("tap: tap2, netns: ns2", "device: eth1")
}

fn request(comment: &str) -> Request {
    Request {
        author: "uid 0".to_owned(),
        comment: comment.to_owned(),
        ..Request::default()
    }
}

pub(super) fn apply(world: &mut World, text: &str) -> ApplyReport {
    world.daemon.apply_text(text, request("apply test")).unwrap()
}

/// Another VLAN, for the next 20 seconds.
fn apply_unconfirmed(world: &mut World, comment: &str) {
    let confirm = Request {
        confirm: Some(Duration::from_secs(20)),
        ..request(comment)
    };
    world
        .daemon
        .apply_text(&TWO.replace("vlan: 100", "vlan: 200"), confirm)
        .unwrap();
}

pub(super) fn state(world: &World, port: &str) -> (PortState, Option<String>) {
    let rows = world.daemon.port_rows();
    let row = rows.into_iter().find(|row| row.name == port).unwrap();
    (row.state, row.reason)
}

fn stored(world: &World) -> u64 {
    world
        .daemon
        .history()
        .unwrap()
        .first()
        .map_or(0, |row| row.generation)
}

#[tokio::test]
async fn devices_are_opened_then_it_is_stored_then_it_is_in_force() {
    let mut world = World::new();
    let report = apply(&mut world, TWO);
    assert_eq!((report.generation, report.applied), (1, true));
    assert_eq!(
        world.log(),
        ["open tap1", "open tap2", "commit with 0 ports in force"]
    );
    assert_eq!(world.datapath.snapshot().ports().count(), 2);
    assert_eq!(state(&world, "vm1"), (PortState::Up, None));

    let report = apply(&mut world, &TWO.replace("vm2", "vm9").replace("tap2", "tap9"));
    assert_eq!(report.generation, 2);
    assert_eq!(
        world.log(),
        ["open tap9", "commit with 2 ports in force", "close tap2"]
    );
}

#[tokio::test]
async fn what_cannot_be_stored_changes_nothing() {
    let mut world = World::new();
    apply(&mut world, TWO);
    world.log();
    let before = world.datapath.snapshot().generation();
    *world.fail.lock().unwrap() = true;
    let three = format!("{TWO}      vm3: {{ port-group: web, tap: tap3, netns: ns3 }}\n");
    let failure = world
        .daemon
        .apply_text(&three, request("apply three"))
        .unwrap_err();
    assert!(matches!(failure, Failure::Store(_)), "{failure}");
    assert_eq!(
        world.log(),
        ["open tap3", "commit with 2 ports in force", "close tap3"]
    );
    assert_eq!(world.datapath.snapshot().generation(), before);
    assert_eq!(world.daemon.port_rows().len(), 2);
    assert_eq!(world.daemon.version().generation, 1);
    assert_eq!(world.daemon.sample().applies.failed, 1);
}

#[tokio::test]
async fn all_errors_are_told_and_nothing_is_touched() {
    let mut world = World::new();
    apply(&mut world, TWO);
    world.log();
    let wrong = TWO
        .replace("vlan: 100", "vlan: 5000")
        .replace("web, tap: tap1", "wed, tap: tap1");
    let failure = world
        .daemon
        .apply_text(&wrong, request("apply wrong"))
        .unwrap_err();
    let Failure::Invalid(problems) = failure else {
        panic!("{failure}");
    };
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(world.log(), [""; 0]);
    assert_eq!(world.daemon.version().generation, 1);
    assert_eq!(world.daemon.sample().applies.refused, 1);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_does_nothing() {
    let mut world = World::new();
    let mut dry = request("apply");
    dry.dry_run = true;
    let report = world.daemon.apply_text(&with_device(), dry).unwrap();
    assert!(!report.applied);
    assert!(!report.changes.is_empty());
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("there is no device `eth1`")),
        "{report:?}"
    );
    assert_eq!(world.log(), [""; 0]);
    assert_eq!(world.daemon.version().generation, 0);
}

#[tokio::test]
async fn a_dry_run_names_the_network_namespace_that_is_not_there() {
    let mut world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let (there, gone) = (dir.path().join("there"), dir.path().join("gone"));
    std::fs::write(&there, "").unwrap();
    let text = TWO
        .replace("netns: ns1", &format!("netns: {}", there.display()))
        .replace("netns: ns2", &format!("netns: {}", gone.display()));
    let mut dry = request("apply");
    dry.dry_run = true;
    let report = world.daemon.apply_text(&text, dry).unwrap();
    let [warning] = &report.warnings[..] else {
        panic!("{report:?}");
    };
    let want = format!(
        "port vm2 is down: there is no network namespace `{}` for the TAP `tap2`",
        gone.display()
    );
    assert!(warning.starts_with(&want), "{warning}");
}

#[tokio::test]
async fn the_same_again_is_no_generation() {
    let mut world = World::new();
    apply(&mut world, TWO);
    world.log();
    let report = apply(&mut world, TWO);
    assert_eq!((report.generation, report.applied), (1, false));
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn a_port_whose_device_stays_keeps_its_queues() {
    let mut world = World::new();
    apply(&mut world, TWO);
    world.log();
    apply(&mut world, &TWO.replace("vlan: 100", "vlan: 200"));
    assert_eq!(world.log(), ["commit with 2 ports in force"]);
}

#[tokio::test]
async fn a_device_with_other_settings_is_closed_before_it_is_opened_again() {
    let mut world = World::new();
    apply(&mut world, TWO);
    world.log();
    apply(
        &mut world,
        &TWO.replace("tap: tap1, netns: ns1", "tap: tap1, netns: ns1, offloads: false"),
    );
    assert_eq!(
        world.log(),
        ["commit with 2 ports in force", "close tap1", "open tap1"]
    );
    // The port has another name, the device is the same.
    apply(&mut world, &TWO.replace("vm1", "vm7"));
    assert_eq!(
        world.log(),
        ["commit with 2 ports in force", "close tap1", "open tap1"]
    );
    assert_eq!(state(&world, "vm7").0, PortState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_busy_device_refuses_nothing_and_is_opened_later() {
    let mut world = World::new();
    world.busy.lock().unwrap().insert("tap2".to_owned());
    let report = apply(&mut world, TWO);
    assert!(report.applied);
    assert!(
        report.warnings[0].contains("port vm2 is down: the TAP `tap2` is held by another process"),
        "{report:?}"
    );
    assert_eq!(state(&world, "vm2").0, PortState::Down);
    world.busy.lock().unwrap().clear();
    tokio::time::sleep_until(world.daemon.deadline()).await;
    world.daemon.tick();
    assert_eq!(state(&world, "vm2"), (PortState::Up, None));
    assert!(world.daemon.deadline() > tokio::time::Instant::now());
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_configuration_is_taken_back_and_never_stored() {
    let mut world = World::new();
    apply(&mut world, TWO);
    let one = TWO.replace("      vm2: { port-group: web, tap: tap2, netns: ns2 }\n", "");
    let wait = |comment: &str| Request {
        confirm: Some(Duration::from_secs(20)),
        ..request(comment)
    };
    let report = world.daemon.apply_text(&one, wait("apply one")).unwrap();
    assert_eq!((report.generation, report.applied), (2, true));
    assert_eq!(world.daemon.port_rows().len(), 1);
    let pending = world.daemon.version().confirm.unwrap();
    assert_eq!(
        (pending.generation, pending.back_to, pending.seconds_left),
        (2, 1, 20)
    );
    let other = world.daemon.apply_text(TWO, request("apply other")).unwrap_err();
    assert!(matches!(other, Failure::Conflict(_)), "{other}");

    tokio::time::sleep(Duration::from_secs(21)).await;
    world.daemon.tick();
    assert_eq!(world.daemon.version().generation, 1);
    assert_eq!(world.daemon.version().confirm, None);
    assert_eq!(world.daemon.port_rows().len(), 2);
    assert_eq!(state(&world, "vm2").0, PortState::Up);
    assert_eq!(stored(&world), 1);
    let late = world.daemon.confirm().unwrap_err();
    assert!(matches!(late, Failure::Conflict(_)), "{late}");

    world.daemon.apply_text(&one, wait("apply one again")).unwrap();
    assert_eq!(world.daemon.confirm().unwrap().generation, 2);
    assert_eq!(stored(&world), 2);
    let state = world.state;
    drop((world.daemon, world.datapath));
    let kept = Store::open(state.path()).unwrap().current().unwrap().unwrap();
    assert_eq!(kept.summary.comment, "apply one again");
}

#[tokio::test]
async fn a_rollback_is_a_new_generation() {
    let mut world = World::new();
    apply(&mut world, TWO);
    apply(&mut world, &TWO.replace("vlan: 100", "vlan: 200"));
    let report = world.daemon.rollback(None, "uid 0".to_owned()).unwrap();
    assert_eq!(report.generation, 3);
    assert_eq!(world.daemon.group_row("web").unwrap().vlan, "100");
    let history = world.daemon.history().unwrap();
    assert_eq!(history[0].comment, "rollback to 1");
    assert!(history[0].current && !history[1].current);
    let gone = world.daemon.rollback(Some(77), "uid 0".to_owned()).unwrap_err();
    assert!(matches!(gone, Failure::NotFound(_)), "{gone}");
}

#[tokio::test]
async fn a_rollback_takes_the_unconfirmed_back() {
    let mut world = World::new();
    apply(&mut world, TWO);
    apply_unconfirmed(&mut world, "apply");
    let report = world.daemon.rollback(Some(1), "uid 0".to_owned()).unwrap();
    assert_eq!(report.generation, 1);
    assert_eq!(world.daemon.group_row("web").unwrap().vlan, "100");
    assert_eq!(stored(&world), 1);
}

#[tokio::test]
async fn the_unconfirmed_is_in_the_history_with_a_mark() {
    let mut world = World::new();
    apply(&mut world, TWO);
    apply_unconfirmed(&mut world, "apply two");
    let marks = |world: &World| -> Vec<(u64, String, bool, bool)> {
        let rows = world.daemon.history().unwrap().into_iter();
        rows.map(|row| (row.generation, row.comment, row.current, row.pending))
            .collect()
    };
    let first = |current| (1, "apply test".to_owned(), current, false);
    assert_eq!(
        marks(&world),
        [(2, "apply two".to_owned(), true, true), first(false)]
    );
    world.daemon.confirm().unwrap();
    assert_eq!(
        marks(&world),
        [(2, "apply two".to_owned(), true, false), first(false)]
    );
}

#[tokio::test]
async fn a_rollback_that_cannot_be_done_leaves_the_unconfirmed_waiting() {
    let mut world = World::new();
    apply(&mut world, TWO);
    apply_unconfirmed(&mut world, "apply");
    let gone = world.daemon.rollback(Some(77), "uid 0".to_owned()).unwrap_err();
    assert!(matches!(gone, Failure::NotFound(_)), "{gone}");
    let itself = world.daemon.rollback(Some(2), "uid 0".to_owned()).unwrap_err();
    assert!(
        matches!(itself, Failure::Conflict(_)) && itself.to_string().contains("vswitchctl confirm"),
        "{itself}"
    );
    assert_eq!(world.daemon.group_row("web").unwrap().vlan, "200");
    assert!(world.daemon.pending().is_some());
}

#[tokio::test]
async fn small_edits_go_the_same_way() {
    let mut world = World::new();
    apply(&mut world, TWO);
    let by = || "uid 7".to_owned();
    let edit = |name: Option<&str>, settings: serde_json::Value| PortEdit {
        switch: None,
        name: name.map(ToOwned::to_owned),
        settings: settings.as_object().unwrap().clone(),
    };
    let new = edit(
        Some("vm3"),
        json!({ "port-group": "web", "tap": "tap3", "netns": "ns3" }),
    );
    assert_eq!(world.daemon.add_port(&new, by()).unwrap().generation, 2);
    assert!(matches!(
        world.daemon.add_port(&new, by()),
        Err(Failure::Conflict(_))
    ));
    let mac = "52:54:00:00:00:03";
    let set = edit(None, json!({ "mac": mac }));
    world.daemon.set_port("vm3", &set, by()).unwrap();
    let detail = world.daemon.port_detail("vm3").unwrap();
    assert_eq!(detail.row.mac, Some(mac.parse().unwrap()));
    let unset = edit(None, json!({ "mac": null }));
    world.daemon.set_port("vm3", &unset, by()).unwrap();
    assert_eq!(world.daemon.port_detail("vm3").unwrap().row.mac, None);
    let wrong = edit(None, json!({ "mak": mac }));
    assert!(matches!(
        world.daemon.set_port("vm3", &wrong, by()),
        Err(Failure::Invalid(_))
    ));
    world.daemon.delete_port("vm3", by()).unwrap();
    let history = world.daemon.history().unwrap();
    assert_eq!(
        (history[0].comment.as_str(), history[0].author.as_str()),
        ("port del vm3", "uid 7")
    );
    let gone = world.daemon.delete_port("vm11", by()).unwrap_err();
    let sentence = gone.to_string();
    assert!(
        matches!(gone, Failure::NotFound(_)) && sentence.contains("did you mean `vm"),
        "{sentence}"
    );
}

#[tokio::test]
async fn static_addresses_are_part_of_the_configuration() {
    let mut world = World::new();
    apply(&mut world, TWO);
    let mac: MacAddr = "52:54:00:00:00:44".parse().unwrap();
    let edit = MacEdit {
        port: "vm1".to_owned(),
        mac,
        vlan: None,
    };
    assert!(world.daemon.add_mac(&edit, "uid 0".to_owned()).unwrap().applied);
    let rows = world.daemon.mac_rows();
    assert_eq!(
        (rows[0].mac, rows[0].vlan, rows[0].kind.as_str()),
        (mac, 100, "static")
    );
    // The same, said otherwise.
    let same = MacEdit {
        vlan: Some(100),
        ..edit.clone()
    };
    assert!(!world.daemon.add_mac(&same, "uid 0".to_owned()).unwrap().applied);
    assert!(
        world
            .daemon
            .delete_mac(&same, "uid 0".to_owned())
            .unwrap()
            .applied
    );
    assert!(world.daemon.mac_rows().is_empty());
    assert!(matches!(
        world.daemon.delete_mac(&edit, "uid 0".to_owned()),
        Err(Failure::NotFound(_))
    ));
}

#[tokio::test]
async fn a_device_is_followed_as_it_comes_goes_and_changes() {
    let mut world = World::new();
    world.missing.lock().unwrap().insert("eth1".to_owned());
    apply(&mut world, &with_device());
    world.missing.lock().unwrap().clear();
    world.log();
    let (down, reason) = state(&world, "vm2");
    assert_eq!(down, PortState::Down);
    assert!(reason.unwrap().contains("there is no device `eth1`"));

    let mut eth = link(7, "eth1");
    eth.up = false;
    world.daemon.links_changed(vec![Change::New(eth)]);
    assert_eq!(
        state(&world, "vm2").1.unwrap(),
        "device eth1 is down; bring it up with: ip link set eth1 up"
    );
    assert_eq!(world.log(), [""; 0]);

    world.daemon.links_changed(vec![Change::New(link(7, "eth1"))]);
    assert_eq!(state(&world, "vm2"), (PortState::Up, None));
    assert_eq!(world.log(), ["open eth1"]);

    let mut dark = link(7, "eth1");
    dark.carrier = false;
    world.daemon.links_changed(vec![Change::New(dark)]);
    assert_eq!(state(&world, "vm2").0, PortState::Down);
    assert_eq!(world.log(), [""; 0], "it stays attached without a carrier");
    let id = world.daemon.registry.port_id("vm2").unwrap();
    assert!(!world.datapath.snapshot().port(id).unwrap().up);

    world.daemon.links_changed(vec![Change::New(link(7, "eth9"))]);
    assert!(state(&world, "vm2").1.unwrap().contains("there is no device"));
    assert_eq!(world.log(), ["close eth1"]);
    // Another netdev gets the name.
    world.daemon.links_changed(vec![Change::New(link(8, "eth1"))]);
    assert_eq!(state(&world, "vm2"), (PortState::Up, None));
    // And one more, before anybody said that the last had gone.
    world.daemon.links_changed(vec![Change::New(link(9, "eth1"))]);
    assert_eq!(world.log(), ["open eth1", "close eth1", "open eth1"]);
    assert!(world.datapath.snapshot().port(id).unwrap().up);
}

#[tokio::test]
async fn a_device_may_be_opened_before_netlink_tells_of_it() {
    let mut world = World::new();
    apply(&mut world, &with_device());
    world.log();
    world.daemon.links_changed(vec![Change::New(link(3, "lo"))]);
    assert_eq!(state(&world, "vm2"), (PortState::Up, None));
    world.daemon.links_changed(vec![Change::New(link(7, "eth1"))]);
    assert_eq!(world.log(), [""; 0]);
    world.daemon.links_changed(vec![Change::Gone { index: 7 }]);
    assert_eq!(world.log(), ["close eth1"]);
}

#[tokio::test]
async fn a_new_tap_is_down_until_it_is_set_up_or_moved_away() {
    let mut world = World::new();
    apply(&mut world, &TWO.replace(", netns: ns1", ""));
    assert_eq!(
        state(&world, "vm1").1.unwrap(),
        "device tap1 is down; bring it up with: ip link set tap1 up"
    );
    world.daemon.links_changed(vec![
        Change::New({
            let mut tap = link(5, "tap1");
            tap.up = false;
            tap
        }),
        Change::Gone { index: 5 },
    ]);
    assert_eq!(state(&world, "vm1"), (PortState::Up, None));
}

#[tokio::test]
async fn a_port_with_a_peer_is_up_while_the_peer_is_there() {
    let mut world = World::new();
    let path = "/run/vswitch/vm2.sock";
    let report = apply(
        &mut world,
        &TWO.replace("tap: tap2, netns: ns2", &format!("stream: {path}")),
    );
    assert_eq!(
        report.warnings,
        [format!("port vm2 is down: nobody has connected to {path} yet")]
    );
    let peer = world.peers.lock().unwrap()[path].clone();
    let id = world.daemon.registry.port_id("vm2").unwrap();
    let published = |world: &World| world.datapath.snapshot().port(id).unwrap().up;
    assert!(!published(&world));
    world.log();

    peer.tell(Peer::Present(String::new()));
    world.daemon.take_events();
    assert_eq!(state(&world, "vm2"), (PortState::Up, None));
    assert!(published(&world));
    // What was seen of one guest says nothing of the next.
    let mut frame = [0xff; 64];
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    let view = FrameView {
        port: id,
        header: &frame,
        len: frame.len(),
        offload: Offload::default(),
    };
    let snapshot = world.datapath.snapshot();
    let now = world.datapath.now();
    pipeline::forward(&snapshot, now, &view, Mode::Live, &mut Vec::new(), &mut Silent).unwrap();
    assert!(world.daemon.registry.state("vm2").unwrap().effective().is_some());
    peer.tell(Peer::Absent("gone".to_owned()));
    peer.tell(Peer::Present(String::new()));
    world.daemon.take_events();
    assert_eq!(world.daemon.registry.state("vm2").unwrap().effective(), None);

    peer.tell(Peer::Absent("gone".to_owned()));
    world.daemon.take_events();
    assert_eq!(state(&world, "vm2"), (PortState::Down, Some("gone".to_owned())));
    assert!(!published(&world));
    let rows = world.daemon.port_rows();
    let row = rows.iter().find(|row| row.name == "vm2").unwrap();
    assert_eq!((row.kind.as_str(), row.device.as_str()), ("stream", path));

    // Neither a change of another port nor time opens it again; what its peer tells after it was closed is nobody's.
    world.daemon.reconcile(tokio::time::Instant::now());
    assert_eq!(world.log(), [""; 0]);
    apply(&mut world, TWO);
    peer.tell(Peer::Present(String::new()));
    world.daemon.take_events();
    assert!(world.log().contains(&format!("close {path}")));
    assert_eq!(state(&world, "vm2"), (PortState::Up, None));
}

#[tokio::test(start_paused = true)]
async fn a_broken_device_is_opened_again_at_once_and_then_with_patience() {
    let mut world = World::new();
    apply(&mut world, TWO);
    world.log();
    let id = world.daemon.registry.port_id("vm1").unwrap();
    let fail = |world: &mut World| {
        let now = tokio::time::Instant::now();
        world.daemon.port_failed(id, 77, now);
        world.daemon.reconcile(now);
    };
    fail(&mut world);
    assert_eq!(world.log(), ["close tap1", "open tap1"]);
    fail(&mut world);
    assert_eq!(world.log(), ["close tap1"]);
    assert!(state(&world, "vm1").1.unwrap().contains("tap1 failed"));
    tokio::time::sleep_until(world.daemon.deadline()).await;
    world.daemon.tick();
    assert_eq!(world.log(), ["open tap1"]);
    assert_eq!(state(&world, "vm1"), (PortState::Up, None));
}

#[tokio::test]
async fn a_namespace_made_anew_gets_its_tap_again() {
    let mut world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let (netns, next) = (dir.path().join("ns1"), dir.path().join("next"));
    std::fs::write(&netns, "").unwrap();
    let text = TWO.replace("netns: ns1", &format!("netns: {}", netns.display()));
    apply(&mut world, &text);
    world.log();
    world.daemon.names_changed();
    assert_eq!(world.log(), [""; 0]);
    std::fs::write(&next, "").unwrap();
    std::fs::rename(&next, &netns).unwrap();
    world.daemon.names_changed();
    assert_eq!(world.log(), ["close tap1", "open tap1"]);
    assert_eq!(state(&world, "vm1"), (PortState::Up, None));
}

#[tokio::test]
async fn a_socket_that_was_removed_is_made_again_unless_a_peer_is_connected() {
    let mut world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vm2.sock");
    let path = socket.display().to_string();
    std::fs::write(&socket, "").unwrap();
    apply(
        &mut world,
        &TWO.replace("tap: tap2, netns: ns2", &format!("stream: {path}")),
    );
    world.log();
    world.daemon.names_changed();
    assert_eq!(world.log(), [""; 0]);
    std::fs::remove_file(&socket).unwrap();
    world.daemon.names_changed();
    assert_eq!(world.log(), [format!("close {path}"), format!("open {path}")]);

    std::fs::write(&socket, "").unwrap();
    let peer = world.peers.lock().unwrap()[&path].clone();
    peer.tell(Peer::Present(String::new()));
    world.daemon.take_events();
    world.daemon.names_changed();
    assert_eq!(world.log(), [""; 0]);
    assert_eq!(state(&world, "vm2"), (PortState::Up, None));
}

#[tokio::test]
async fn what_was_learnt_behind_a_port_goes_with_it() {
    let mut world = World::new();
    apply(&mut world, &with_device());
    world.daemon.links_changed(vec![Change::New(link(7, "eth1"))]);
    let fdb = std::sync::Arc::clone(world.daemon.registry.fdb("vs0").unwrap());
    let vid = switch_core::vid::Vid::new(100).unwrap();
    let learn = |world: &World, port: &str, last: u8| {
        let id = world.daemon.registry.port_id(port).unwrap();
        let now = world.datapath.now();
        fdb.learn(
            vid,
            MacAddr([0x52, 0x54, 0, 0, 0, last]),
            id,
            now,
            Duration::from_secs(300),
            None,
        );
    };
    learn(&world, "vm1", 1);
    learn(&world, "vm2", 2);
    let kinds = |world: &World| -> Vec<(String, String)> {
        let rows = world.daemon.mac_rows().into_iter();
        rows.map(|row| (row.port, row.kind)).collect()
    };
    assert_eq!(kinds(&world).len(), 2);
    world.daemon.links_changed(vec![Change::Gone { index: 7 }]);
    assert_eq!(kinds(&world), [("vm1".to_owned(), "dynamic".to_owned())]);
    world.daemon.delete_port("vm1", "uid 0".to_owned()).unwrap();
    assert!(kinds(&world).is_empty());
}

#[tokio::test]
async fn a_stop_closes_everything_and_keeps_the_configuration() {
    let mut world = World::new();
    apply(&mut world, TWO);
    world.log();
    world.daemon.stop();
    let mut log = world.log();
    log.sort();
    assert_eq!(log, ["close tap1", "close tap2"]);
    let state = world.state;
    drop((world.daemon, world.datapath));
    let kept = Store::open(state.path()).unwrap().current().unwrap().unwrap();
    assert_eq!(kept.summary.generation, 1);
}

#[tokio::test]
async fn an_uplink_is_no_port_to_be_edited_and_its_device_is_looked_at() {
    let mut world = World::new();
    let text = TWO.replace(
        "    port-groups:",
        "    mtu: 9000\n    uplinks: { up1: { device: eth1 } }\n    port-groups:",
    );
    let mut nic = link(7, "eth1");
    nic.controller = Some(8);
    world
        .daemon
        .links_changed(vec![Change::New(nic), Change::New(link(8, "br0"))]);
    let report = apply(&mut world, &text);
    let about: Vec<&String> = report
        .warnings
        .iter()
        .filter(|warning| warning.starts_with("uplink up1"))
        .collect();
    assert_eq!(about.len(), 2, "{:?}", report.warnings);
    assert!(about[0].contains("ip link set eth1 mtu 9000") && about[1].contains("a port of br0"));
    let edit = PortEdit {
        switch: None,
        name: Some("up1".to_owned()),
        settings: serde_json::Map::new(),
    };
    for refused in [
        world.daemon.set_port("up1", &edit, String::new()),
        world.daemon.delete_port("up1", String::new()),
        world.daemon.add_port(&edit, String::new()),
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("an uplink"), "{refused}");
    }
    assert_eq!(
        world.daemon.port_detail("vm1").unwrap().uplink.as_deref(),
        Some("up1")
    );
    assert_eq!(world.daemon.team_row("web").unwrap().active, ["up1"]);
    assert!(
        world
            .daemon
            .team_row("wbe")
            .unwrap_err()
            .to_string()
            .contains("web")
    );
}
