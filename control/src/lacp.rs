//! LACP (IEEE 802.1AX-2014, clause 6.4): which of its uplinks a switch and its neighbour use as one link.
//!
//! One [`Aggregate`] per switch. It is told of links and of what the neighbour says, and says what is to be sent and which uplinks are in use; time is an
//! argument. The machines of each port are those of the standard, in its words, with two choices that it leaves open: a port is attached without waiting for
//! others ([6.4.15], wait_while), and an uplink sends only when the neighbour says that it takes what is sent (independent control).
//!
//! One neighbour is used at a time. Of several, that which has most links that are up, and it is kept while it has any.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use switch_core::addr::MacAddr;
use switch_core::wire::lacp::{Lacpdu, Participant, State};
use tokio::time::Instant;

/// Time between two LACPDUs to a neighbour that wants to hear often.
const FAST: Duration = Duration::from_secs(1);
/// To one that does not.
const SLOW: Duration = Duration::from_secs(30);
/// So many of them may be missed.
const MISSED: u32 = 3;
/// The most LACPDUs of a port within [`FAST`] (6.4.16).
const BURST: usize = 3;
/// Priority of system and ports: the standard's default.
const PRIORITY: u16 = 0x8000;

/// How an aggregate behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Speaks by itself; else only to a neighbour that does.
    pub active: bool,
    /// Wants to hear once a second, and notices after three; else every 30 s, and after 90.
    pub fast: bool,
    /// Without any neighbour, the first uplink that is up is used as a link of its own.
    pub fallback: bool,
    /// The switch, for the neighbour.
    pub system: MacAddr,
    /// Which uplinks may be one aggregate: all of a switch have the same.
    pub key: u16,
}

/// What is known of the neighbour (6.4.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    /// The link is down.
    Disabled,
    /// Nothing was heard for a while, or since the link came up.
    Expired,
    /// Nothing was heard for so long that nobody is believed to be there.
    Defaulted,
    /// It was heard.
    Current,
}

/// A port of an aggregate.
#[derive(Clone, Debug)]
struct Port {
    number: u16,
    receive: Receive,
    partner: Participant,
    /// When what is known of the neighbour is too old.
    current_until: Option<Instant>,
    /// Attached to the aggregate: it tells the neighbour that it is in sync.
    attached: bool,
    collecting: bool,
    distributing: bool,
    /// There is something to tell.
    need_to_transmit: bool,
    periodic: Option<Instant>,
    /// When it last spoke, at most [`BURST`] times.
    spoken: VecDeque<Instant>,
}

impl Port {
    fn new(number: u16) -> Self {
        Self {
            number,
            receive: Receive::Disabled,
            partner: Participant::default(),
            current_until: None,
            attached: false,
            collecting: false,
            distributing: false,
            need_to_transmit: false,
            periodic: None,
            spoken: VecDeque::with_capacity(BURST),
        }
    }

    /// What it says of itself.
    fn actor(&self, settings: &Settings) -> Participant {
        let state = State::AGGREGATION
            .with(State::ACTIVE, settings.active)
            .with(State::SHORT_TIMEOUT, settings.fast)
            .with(State::SYNCHRONIZATION, self.attached)
            .with(State::COLLECTING, self.collecting)
            .with(State::DISTRIBUTING, self.distributing)
            .with(State::DEFAULTED, self.receive == Receive::Defaulted)
            .with(State::EXPIRED, self.receive == Receive::Expired);
        Participant {
            system_priority: PRIORITY,
            system: settings.system,
            key: settings.key,
            port_priority: PRIORITY,
            port: self.number,
            state,
        }
    }

    /// The neighbour's aggregate that its link belongs to, if it may be one of several.
    fn lag(&self) -> Option<Lag> {
        let known = matches!(self.receive, Receive::Current | Receive::Expired);
        let may = self.partner.state.has(State::AGGREGATION) && self.partner.system != MacAddr::ZERO;
        let Participant {
            system_priority,
            system,
            key,
            ..
        } = self.partner;
        (known && may).then_some((system_priority, system, key))
    }

    /// Nothing is believed of the neighbour any more but that it wants to be spoken to often.
    fn expire(&mut self, now: Instant) {
        self.receive = Receive::Expired;
        self.partner.state = self
            .partner
            .state
            .with(State::SYNCHRONIZATION, false)
            .with(State::SHORT_TIMEOUT, true);
        self.current_until = Some(now + FAST * MISSED);
        self.need_to_transmit = true;
    }

    /// The neighbour has said something (6.4.9: recordPDU, update_NTT).
    fn hear(&mut self, pdu: &Lacpdu, settings: &Settings, now: Instant) {
        let actor = self.actor(settings);
        let knows_us = pdu.partner.is_same_link(&actor);
        let alone = !pdu.actor.state.has(State::AGGREGATION);
        let keeps_on =
            pdu.actor.state.has(State::ACTIVE) || (settings.active && pdu.partner.state.has(State::ACTIVE));
        let in_sync = pdu.actor.state.has(State::SYNCHRONIZATION) && (knows_us || alone) && keeps_on;
        // What it believes of us is not what we are.
        let said = State::ACTIVE
            .with(State::SHORT_TIMEOUT, true)
            .with(State::SYNCHRONIZATION, true)
            .with(State::AGGREGATION, true);
        let differs = !knows_us || pdu.partner.state.0 & said.0 != actor.state.0 & said.0;
        self.need_to_transmit |= differs;
        self.partner = pdu.actor;
        self.partner.state = self.partner.state.with(State::SYNCHRONIZATION, in_sync);
        self.receive = Receive::Current;
        let each = if settings.fast { FAST } else { SLOW };
        self.current_until = Some(now + each * MISSED);
    }

    /// Whether it speaks without having something new to tell.
    fn is_periodic(&self, settings: &Settings) -> bool {
        self.receive != Receive::Disabled && (settings.active || self.partner.state.has(State::ACTIVE))
    }

    fn interval(&self) -> Duration {
        if self.partner.state.has(State::SHORT_TIMEOUT) {
            FAST
        } else {
            SLOW
        }
    }

    /// When it may speak.
    fn may_speak_at(&self, now: Instant) -> Instant {
        match self.spoken.front() {
            Some(first) if self.spoken.len() == BURST => now.max(*first + FAST),
            _ => now,
        }
    }
}

/// A neighbour's aggregate: priority and address of its system, and its key.
type Lag = (u16, MacAddr, u16);

/// The uplinks of a switch that are to be one link. Owned by the daemon.
#[derive(Clone, Debug)]
pub struct Aggregate {
    settings: Settings,
    ports: BTreeMap<String, Port>,
    /// The neighbour that is used.
    selected: Option<Lag>,
}

impl Aggregate {
    /// One without ports.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ports: BTreeMap::new(),
            selected: None,
        }
    }

    /// How it behaves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its ports are these: name, number (not 0), and whether the link is up.
    pub fn set_ports<'a>(&mut self, ports: impl Iterator<Item = (&'a str, u16, bool)>, now: Instant) {
        let mut old = std::mem::take(&mut self.ports);
        for (name, number, up) in ports {
            let known = old.remove(name).filter(|port| port.number == number);
            let mut port = known.unwrap_or_else(|| Port::new(number));
            if !up {
                port = Port::new(number);
            } else if port.receive == Receive::Disabled {
                port.expire(now);
            }
            self.ports.insert(name.to_owned(), port);
        }
        self.settle();
    }

    /// An LACPDU has come in by a port.
    pub fn receive(&mut self, name: &str, pdu: &Lacpdu, now: Instant) {
        let settings = self.settings;
        if let Some(port) = self.ports.get_mut(name)
            && port.receive != Receive::Disabled
            // A port that is wired to another of this switch, or to itself.
            && pdu.actor.system != settings.system
        {
            port.hear(pdu, &settings, now);
            self.settle();
        }
    }

    /// Does what is due, and gives what is to be sent.
    pub fn tick(&mut self, now: Instant) -> Vec<(String, Lacpdu)> {
        for port in self.ports.values_mut() {
            if port.current_until.is_some_and(|until| until <= now) {
                match port.receive {
                    Receive::Current => port.expire(now),
                    Receive::Expired => {
                        port.receive = Receive::Defaulted;
                        port.partner = Participant::default();
                        port.current_until = None;
                        port.need_to_transmit = true;
                    }
                    Receive::Disabled | Receive::Defaulted => port.current_until = None,
                }
            }
        }
        self.settle();
        let settings = self.settings;
        let mut out = Vec::new();
        for (name, port) in &mut self.ports {
            if !port.is_periodic(&settings) {
                port.periodic = None;
                port.need_to_transmit = false;
                continue;
            }
            // A neighbour that wants to hear more often than before is not kept waiting.
            let latest = now + port.interval();
            let next = port.periodic.map_or(now, |next| next.min(latest));
            port.periodic = Some(next);
            let due = next <= now || port.need_to_transmit;
            if due && port.may_speak_at(now) <= now {
                port.need_to_transmit = false;
                port.periodic = Some(now + port.interval());
                if port.spoken.len() == BURST {
                    port.spoken.pop_front();
                }
                port.spoken.push_back(now);
                let pdu = Lacpdu {
                    actor: port.actor(&settings),
                    partner: port.partner,
                };
                out.push((name.clone(), pdu));
            }
        }
        out
    }

    /// When [`Aggregate::tick`] has something to do.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let of = |port: &Port| {
            let speaks = port.is_periodic(&self.settings);
            let told = (speaks && port.need_to_transmit).then(|| port.may_speak_at(now));
            let periodic = speaks.then(|| port.periodic.map_or(now, |next| next.max(port.may_speak_at(now))));
            port.current_until.into_iter().chain(told).chain(periodic).min()
        };
        self.ports.values().filter_map(of).min()
    }

    /// Whether frames are sent by an uplink.
    pub fn is_distributing(&self, name: &str) -> bool {
        self.ports.get(name).is_some_and(|port| port.distributing) || self.falls_back_to(name)
    }

    /// Nobody speaks LACP at the other end of any uplink, and this is the one that is used all the same.
    fn falls_back_to(&self, name: &str) -> bool {
        let nobody = || {
            self.ports
                .values()
                .all(|port| matches!(port.receive, Receive::Defaulted | Receive::Disabled))
        };
        let mut up = self
            .ports
            .iter()
            .filter(|(_, port)| port.receive != Receive::Disabled);
        let first = up.by_ref().min_by_key(|(_, port)| port.number);
        self.settings.fallback && nobody() && first.is_some_and(|(first, _)| first == name)
    }

    /// The neighbour that is used.
    pub fn partner(&self) -> Option<Participant> {
        let mut ports = self.ports.values().filter(|port| port.attached);
        ports.next().map(|port| port.partner)
    }

    /// How a port is, in words, and why it is not used.
    pub fn describe(&self, name: &str) -> Option<String> {
        let port = self.ports.get(name)?;
        let partner = &port.partner;
        let who = || format!("{} port {} key {}", partner.system, partner.port, partner.key);
        Some(match port.receive {
            Receive::Disabled => "its link is down".to_owned(),
            Receive::Defaulted if self.falls_back_to(name) => {
                "used without LACP: nobody speaks it here (`fallback`)".to_owned()
            }
            Receive::Defaulted => "nobody speaks LACP at the other end".to_owned(),
            Receive::Expired if partner.system == MacAddr::ZERO => {
                "waits for its neighbour to speak".to_owned()
            }
            Receive::Expired => format!("{} has not spoken for a while", who()),
            Receive::Current if port.distributing => format!("in use with {}", who()),
            Receive::Current if port.attached => format!("waits for {} to use it", who()),
            Receive::Current if port.lag().is_none() => format!("{} does not aggregate this link", who()),
            Receive::Current => format!("{} is not the neighbour of the other uplinks", who()),
        })
    }

    /// Selection and mux (6.4.14, 6.4.15), as far as they depend on nothing but what is known.
    fn settle(&mut self) {
        let mut links: BTreeMap<Lag, usize> = BTreeMap::new();
        for lag in self.ports.values().filter_map(Port::lag) {
            *links.entry(lag).or_default() += 1;
        }
        let kept = self.selected.filter(|lag| links.contains_key(lag));
        let most = || {
            links
                .iter()
                .max_by_key(|(lag, count)| (**count, std::cmp::Reverse(**lag)))
        };
        self.selected = kept.or_else(|| most().map(|(lag, _)| *lag));
        for port in self.ports.values_mut() {
            let attached = port.lag().is_some() && port.lag() == self.selected;
            let collecting = attached && port.partner.state.has(State::SYNCHRONIZATION);
            let distributing = collecting && port.partner.state.has(State::COLLECTING);
            let now = (attached, collecting, distributing);
            if (port.attached, port.collecting, port.distributing) != now {
                (port.attached, port.collecting, port.distributing) = now;
                port.need_to_transmit = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["up1", "up2", "up3"];

    fn settings(system: u8) -> Settings {
        Settings {
            active: true,
            fast: true,
            fallback: false,
            system: MacAddr([2, 0, 0, 0, 0, system]),
            key: 1,
        }
    }

    /// Two systems, and three wires between them.
    struct World {
        sides: [Aggregate; 2],
        /// Which wires carry something, from the one and from the other.
        carries: [[bool; 3]; 2],
        now: Instant,
        /// LACPDUs that were sent, by wire.
        sent: [usize; 3],
    }

    impl World {
        fn new(a: Settings, b: Settings) -> Self {
            let mut world = Self {
                sides: [Aggregate::new(a), Aggregate::new(b)],
                carries: [[true; 3]; 2],
                now: Instant::now(),
                sent: [0; 3],
            };
            world.links([true; 3]);
            world
        }

        fn links(&mut self, up: [bool; 3]) {
            for side in &mut self.sides {
                let ports = (1..)
                    .zip(NAMES)
                    .zip(up)
                    .map(|((number, name), up)| (name, number, up));
                side.set_ports(ports, self.now);
            }
        }

        /// Lets so much time pass.
        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                for side in 0..2 {
                    for (name, pdu) in self.sides[side].tick(self.now) {
                        let wire = NAMES.iter().position(|known| *known == name).unwrap();
                        self.sent[wire] += 1;
                        if self.carries[side][wire] {
                            let other = &mut self.sides[1 - side];
                            other.receive(&name, &pdu, self.now);
                        }
                    }
                }
                let next = self.sides.iter().filter_map(|side| side.deadline(self.now)).min();
                match next {
                    Some(next) if next <= end => self.now = next.max(self.now + Duration::from_millis(1)),
                    _ => break,
                }
            }
            self.now = end;
        }

        fn in_use(&self) -> [Vec<&'static str>; 2] {
            self.sides.each_ref().map(|side| {
                let names = NAMES.iter().copied();
                names.filter(|name| side.is_distributing(name)).collect()
            })
        }
    }

    #[test]
    fn all_links_are_used_and_each_side_knows_the_other() {
        for (a, b) in [(true, true), (true, false), (false, true)] {
            let [a, b] = [(a, 1), (b, 2)].map(|(active, system)| Settings {
                active,
                ..settings(system)
            });
            let mut world = World::new(a, b);
            world.run(Duration::from_millis(1500));
            assert_eq!(world.in_use(), [NAMES.to_vec(), NAMES.to_vec()]);
            assert_eq!(world.sides[0].partner().unwrap().system, b.system);
            // And go on being used, with one LACPDU a second from each side.
            world.sent = [0; 3];
            world.run(Duration::from_secs(100));
            assert_eq!(world.in_use(), [NAMES.to_vec(), NAMES.to_vec()]);
            assert!(
                world.sent.iter().all(|sent| (195..=205).contains(sent)),
                "{:?}",
                world.sent
            );
        }
    }

    #[test]
    fn two_that_only_answer_never_speak() {
        let [a, b] = [1, 2].map(|system| Settings {
            active: false,
            ..settings(system)
        });
        let mut world = World::new(a, b);
        world.run(Duration::from_secs(100));
        assert_eq!(world.sent, [0; 3]);
        assert_eq!(world.in_use(), [vec![""; 0], vec![""; 0]]);
    }

    #[test]
    fn slow_ones_speak_every_half_minute() {
        let [a, b] = [1, 2].map(|system| Settings {
            fast: false,
            ..settings(system)
        });
        let mut world = World::new(a, b);
        world.run(Duration::from_secs(40));
        assert_eq!(world.in_use(), [NAMES.to_vec(), NAMES.to_vec()]);
        world.sent = [0; 3];
        world.run(Duration::from_secs(300));
        assert!(
            world.sent.iter().all(|sent| (19..=21).contains(sent)),
            "{:?}",
            world.sent
        );
        world.carries = [[true, false, true]; 2];
        world.run(Duration::from_secs(59));
        assert_eq!(world.in_use()[0].len(), 3);
        world.run(Duration::from_secs(33));
        assert_eq!(world.in_use(), [vec!["up1", "up3"], vec!["up1", "up3"]]);
    }

    #[test]
    fn a_wire_that_carries_nothing_or_one_way_only_is_left_within_three_seconds() {
        for dead in [[false, false], [true, false], [false, true]] {
            let mut world = World::new(settings(1), settings(2));
            world.run(Duration::from_secs(10));
            for (side, carries) in world.carries.iter_mut().enumerate() {
                carries[1] = dead[side];
            }
            world.run(Duration::from_millis(3100));
            assert_eq!(
                world.in_use(),
                [vec!["up1", "up3"], vec!["up1", "up3"]],
                "{dead:?}"
            );
            world.carries = [[true; 3]; 2];
            world.run(Duration::from_secs(3));
            assert_eq!(world.in_use(), [NAMES.to_vec(), NAMES.to_vec()]);
        }
    }

    #[test]
    fn a_link_that_goes_down_is_left_at_once() {
        let mut world = World::new(settings(1), settings(2));
        world.run(Duration::from_secs(10));
        world.links([true, false, true]);
        assert_eq!(world.in_use(), [vec!["up1", "up3"], vec!["up1", "up3"]]);
        world.links([true; 3]);
        world.run(Duration::from_secs(2));
        assert_eq!(world.in_use(), [NAMES.to_vec(), NAMES.to_vec()]);
    }

    #[test]
    fn a_link_to_another_neighbour_is_not_used_and_a_loop_never() {
        let mut us = Aggregate::new(settings(1));
        let now = Instant::now();
        us.set_ports((1..).zip(NAMES).map(|(number, name)| (name, number, true)), now);
        let hear = |us: &mut Aggregate, name: &str, system: u8, number: u16| {
            let mut partner = us.ports[name].actor(&us.settings);
            partner.state = partner.state.with(State::SYNCHRONIZATION, true);
            let actor = Participant {
                system_priority: PRIORITY,
                system: MacAddr([2, 0, 0, 0, 0, system]),
                key: 7,
                port_priority: PRIORITY,
                port: number,
                state: State(0x3f),
            };
            us.receive(name, &Lacpdu { actor, partner }, now);
        };
        hear(&mut us, "up1", 8, 1);
        hear(&mut us, "up2", 9, 1);
        hear(&mut us, "up3", 9, 2);
        let used = |us: &Aggregate| NAMES.map(|name| us.is_distributing(name));
        assert_eq!(used(&us), [true, false, false], "the first is kept");
        assert!(us.describe("up2").unwrap().contains("not the neighbour"));
        us.set_ports(
            (1..)
                .zip(NAMES)
                .map(|(number, name)| (name, number, name != "up1")),
            now,
        );
        assert_eq!(used(&us), [false, true, true]);
        hear(&mut us, "up2", 1, 3);
        assert_eq!(
            used(&us),
            [false, true, true],
            "what comes from ourselves is not heard"
        );
    }

    #[test]
    fn without_a_neighbour_one_is_used_if_that_is_wanted() {
        for fallback in [false, true] {
            let own = Settings {
                fallback,
                ..settings(1)
            };
            let mut world = World::new(own, settings(2));
            world.carries = [[true; 3], [false; 3]];
            world.run(Duration::from_secs(2));
            assert_eq!(world.in_use()[0], [""; 0], "it is waited for");
            world.run(Duration::from_secs(2));
            let alone: &[&str] = if fallback { &["up1"] } else { &[] };
            assert_eq!(world.in_use()[0], alone);
            world.carries = [[true; 3]; 2];
            world.run(Duration::from_secs(3));
            assert_eq!(world.in_use()[0], NAMES);
        }
    }

    #[test]
    fn however_much_it_hears_it_says_three_times_a_second_at_most() {
        let mut us = Aggregate::new(settings(1));
        let start = Instant::now();
        us.set_ports([("up1", 1, true)].into_iter(), start);
        let mut sent = 0;
        for step in 0..10_000u64 {
            let now = start + Duration::from_millis(step);
            let stranger = Participant {
                system: MacAddr([2, 0, 0, 0, 0, 9]),
                key: step as u16,
                state: State(step as u8),
                ..Participant::default()
            };
            let pdu = Lacpdu {
                actor: stranger,
                partner: stranger,
            };
            us.receive("up1", &pdu, now);
            sent += us.tick(now).len();
        }
        assert!((10..=31).contains(&sent), "{sent}");
    }
}
