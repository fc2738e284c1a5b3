//! Which uplinks are fit, which of them each team uses, and which uplink each port has.
//!
//! [`Teams::update`] looks at the configuration and at the links, as they are now, and settles all that; nothing else changes it. What it settles goes
//! into the next snapshot ([`crate::config::compile()`]).
//!
//! Rules, in vSphere's words:
//! - A team uses as many uplinks as it has in `active`. One that is not fit is replaced by the first fit one of `standby`.
//! - With `failback: true` the first fit ones of the order are used at any time. With `false` those in use are kept as long as they are fit, and one that has
//!   failed is taken back when another fails. An aggregate (`ip-hash`) always fails back: the network outside uses all its links.
//! - With `balance: explicit` one uplink is used, the first fit one of `active` and then `standby`.
//! - With `balance: explicit` all ports leave by that one. Else a port has a home, the uplink of `active` that was home to the fewest ports of its switch when the port came. It leaves by its home while that is in
//!   use, and else by the uplink in use that has the fewest. So nothing moves but the ports of an uplink that fails or comes back. When
//!   the settings of a team change, no uplink keeps more than its share.
//!
//! What was settled is remembered over a restart ([`Memory`]): a port keeps its uplink, and a team that does not fail back does not do so because the
//! daemon was started anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::ValidConfig;
use crate::config::model::Balance;
use crate::config::teaming::EffectiveTeaming;
use crate::config::units::Name;

/// What is remembered over a restart. Names of what is there no more are forgotten with the next update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// By team, as [`team_key`] has it.
    #[serde(default)]
    teams: BTreeMap<String, Remembered>,
    /// By port.
    #[serde(default)]
    ports: BTreeMap<String, Home>,
}

/// What is remembered of a team.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Remembered {
    /// What makes it the team that it is ([`EffectiveTeaming::identity`]).
    settings: String,
    /// The uplinks in use.
    in_use: Vec<String>,
    /// Uplinks that were in use and failed, and are not taken back without need.
    given_up: BTreeSet<String>,
}

/// The uplink of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Home {
    /// By which it leaves when all is well.
    home: String,
    /// By which it leaves now.
    #[serde(default)]
    now: Option<String>,
}

impl Memory {
    /// The ports that had an uplink, each with its name.
    pub fn uplinks(&self) -> impl Iterator<Item = (String, String)> {
        let ports = self.ports.iter();
        ports.filter_map(|(port, home)| Some((port.clone(), home.now.clone()?)))
    }

    /// The uplink by which a port left.
    pub fn uplink(&self, port: &str) -> Option<&str> {
        self.ports.get(port)?.now.as_deref()
    }
}

/// The name of a team in [`Memory`].
fn team_key(switch: &Name, group: &Name) -> String {
    format!("{switch}/{group}")
}

/// How an uplink is for a team.
#[derive(Clone, Copy, Debug)]
struct Fitness {
    /// It can be used.
    fit: bool,
    /// Since when its link says otherwise.
    differs: Option<Instant>,
}

/// A team as it is.
#[derive(Clone, Debug, Default)]
pub struct Team {
    /// What the configuration says of it.
    settings: EffectiveTeaming,
    /// The uplinks in use, in the order of the team.
    pub active: Vec<Name>,
    /// Those that are fit and not in use.
    pub standby: Vec<Name>,
    /// Those that are not fit.
    pub failed: Vec<Name>,
    /// By uplink.
    fitness: HashMap<String, Fitness>,
    /// Its settings are others than before.
    is_new: bool,
}

impl Team {
    /// By what its traffic is shared out.
    pub fn balance(&self) -> Balance {
        self.settings.balance
    }

    /// Whether stations that are reached by another uplink are announced.
    pub fn notifies(&self) -> bool {
        self.settings.notify
    }

    /// All its uplinks, in the order in which they are used.
    pub fn members(&self) -> impl Iterator<Item = &Name> {
        self.settings.members()
    }

    /// Those among which a hash shares the traffic out: those of `active`, in the place of one that is not in use the one that stands in for it, if any does.
    pub fn places(&self) -> Vec<&Name> {
        let is_own = |name: &&Name| self.settings.active.contains(name);
        let mut stand_ins = self.active.iter().filter(|name| !is_own(name));
        let own = self.settings.active.iter();
        own.map(|name| {
            if self.active.contains(name) {
                name
            } else {
                stand_ins.next().unwrap_or(name)
            }
        })
        .collect()
    }
}

/// A team uses other uplinks than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its switch and its group.
    pub team: (Name, Name),
    /// The uplinks it used.
    pub before: Vec<Name>,
    /// Those it uses.
    pub now: Vec<Name>,
}

/// All teams. Owned by the daemon.
#[derive(Debug, Default)]
pub struct Teams {
    /// By uplink, whether its link is up.
    links: HashMap<String, bool>,
    teams: BTreeMap<String, Team>,
    memory: Memory,
    /// When an uplink's delay ends.
    deadline: Option<Instant>,
}

impl Teams {
    /// Goes on from what was remembered.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }

    /// What is to be remembered.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// When [`Teams::update`] may settle something else though no link has changed.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The team of a group.
    pub fn team(&self, switch: &Name, group: &Name) -> Option<&Team> {
        self.teams.get(&team_key(switch, group))
    }

    /// The uplink that a port of a group has, if its team gives it one.
    pub fn uplink(&self, switch: &Name, group: &Name, port: &str) -> Option<&Name> {
        let uplink = self.memory.uplink(port)?;
        let mut active = self.team(switch, group)?.active.iter();
        active.find(|name| **name == *uplink)
    }

    /// Settles everything anew. `up` says of an uplink whether its link is up. Returns the teams that use other uplinks than before.
    pub fn update(&mut self, config: &ValidConfig, up: &dyn Fn(&str) -> bool, now: Instant) -> Vec<Changed> {
        self.look(config, up);
        self.deadline = None;
        let mut changed = Vec::new();
        let mut teams = BTreeMap::new();
        for switch in config
            .switches()
            .iter()
            .filter(|switch| !switch.uplinks.is_empty())
        {
            for group in &switch.groups {
                let key = team_key(&switch.name, &group.name);
                let team = self.settle(&key, &group.teaming, now);
                let before = self.teams.get(&key).map(|team| team.active.clone());
                if before.as_ref().is_some_and(|before| *before != team.active) {
                    changed.push(Changed {
                        team: (switch.name.clone(), group.name.clone()),
                        before: before.unwrap_or_default(),
                        now: team.active.clone(),
                    });
                }
                teams.insert(key, team);
            }
        }
        self.memory.teams.retain(|key, _| teams.contains_key(key));
        self.teams = teams;
        self.house(config);
        changed
    }

    /// Takes up how the links are.
    fn look(&mut self, config: &ValidConfig, up: &dyn Fn(&str) -> bool) {
        let uplinks = config.ports().iter().filter(|port| port.is_uplink());
        let links = uplinks.map(|port| {
            let name = port.name.as_str();
            (name.to_owned(), port.enabled && up(name))
        });
        self.links = links.collect();
    }

    /// The uplinks that a team uses.
    fn settle(&mut self, key: &str, settings: &EffectiveTeaming, now: Instant) -> Team {
        let fitness = self.fitness(key, settings, now);
        let is_fit = |name: &&Name| fitness.get(name.as_str()).is_some_and(|fitness| fitness.fit);
        let fit = || settings.members().filter(is_fit);
        let wanted = match settings.balance {
            Balance::Explicit => 1,
            _ => settings.active.len().max(1),
        };
        let text = settings.identity();
        let known = self.memory.teams.remove(key);
        let is_new = known.as_ref().is_some_and(|known| known.settings != text);
        let mut known = known.filter(|_| !is_new).unwrap_or_default();
        let mut active: Vec<Name> = fit().take(wanted).cloned().collect();
        if !settings.fails_back() && !known.in_use.is_empty() && !active.is_empty() {
            let was_in_use = |name: &&Name| known.in_use.iter().any(|before| *name == before.as_str());
            let mut kept: Vec<Name> = fit().filter(was_in_use).cloned().collect();
            let failed = known
                .in_use
                .iter()
                .filter(|name| kept.iter().all(|kept| *kept != name.as_str()));
            let failed: Vec<String> = failed.cloned().collect();
            known.given_up.extend(failed.iter().cloned());
            // What was never used is no failback; what was given up is taken only if one is missing now.
            let is_unused = |name: &&Name| !known.given_up.contains(name.as_str());
            let others = fit().filter(|name| !was_in_use(name));
            let fresh = others
                .clone()
                .filter(is_unused)
                .filter(|name| settings.active.contains(name));
            let stand_ins = others.filter(|_| !failed.is_empty());
            for name in fresh.chain(stand_ins) {
                if kept.len() < wanted && !kept.contains(name) {
                    kept.push(name.clone());
                }
            }
            active = settings
                .members()
                .filter(|name| kept.contains(name))
                .cloned()
                .collect();
        }
        for name in &active {
            known.given_up.remove(name.as_str());
        }
        // One that has lost all its uplinks goes on where it was.
        if !active.is_empty() {
            known.in_use = active.iter().map(|name| name.as_str().to_owned()).collect();
        }
        known.settings = text;
        self.memory.teams.insert(key.to_owned(), known);
        let rest = |fit: bool| {
            let rest = settings.members().filter(|name| !active.contains(name));
            rest.filter(|name| is_fit(name) == fit).cloned().collect()
        };
        Team {
            standby: rest(true),
            failed: rest(false),
            settings: settings.clone(),
            active,
            fitness,
            is_new,
        }
    }

    /// Which uplinks of a team can be used: a change of a link counts when it has lasted as long as the team waits. Notes when that will be.
    fn fitness(&mut self, key: &str, settings: &EffectiveTeaming, now: Instant) -> HashMap<String, Fitness> {
        let before = self.teams.get(key).map(|team| &team.fitness);
        let mut fitness = HashMap::new();
        let up = |name: &str| self.links.get(name).copied().unwrap_or(false);
        for name in settings.members().map(Name::as_str) {
            let up = up(name);
            // At the start there is nothing to wait for.
            let old = before.and_then(|before| before.get(name));
            let mut new = old.copied().unwrap_or(Fitness {
                fit: up,
                differs: None,
            });
            let delay = if up {
                settings.up_delay
            } else {
                settings.down_delay
            };
            let end = *new.differs.get_or_insert(now) + delay;
            if new.fit == up || end <= now {
                new = Fitness {
                    fit: up,
                    differs: None,
                };
            } else {
                self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
            }
            fitness.insert(name.to_owned(), new);
        }
        if fitness.values().all(|fitness| !fitness.fit) {
            // One that has only just come up is better than none.
            for (name, fitness) in &mut fitness {
                if up(name) {
                    *fitness = Fitness {
                        fit: true,
                        differs: None,
                    };
                }
            }
        }
        fitness
    }

    /// Gives every port a home and an uplink.
    fn house(&mut self, config: &ValidConfig) {
        let mut ports = BTreeMap::new();
        for (index, switch) in config.switches().iter().enumerate() {
            let own = config.ports().iter().filter(|port| port.switch == index);
            let own: Vec<(&str, &Team)> = own
                .filter_map(|port| {
                    let team = self.team(&switch.name, port.group.as_ref()?)?;
                    Some((port.name.as_str(), team))
                })
                .collect();
            let homes = self.homes(&own);
            let mut uses = Counts::default();
            for (name, team) in &own {
                uses.add(in_use(team, homes.get(name)));
            }
            for (name, team) in &own {
                if team.active.is_empty() {
                    let known = self.memory.ports.get(*name).cloned();
                    ports.extend(known.map(|known| ((*name).to_owned(), known)));
                    continue;
                }
                let home = homes.get(name).copied();
                let now = in_use(team, homes.get(name)).or_else(|| {
                    let before = self.memory.uplink(name);
                    let now = in_use(team, before.as_ref()).or_else(|| uses.fewest(&team.active));
                    uses.add(now);
                    now
                });
                // What stands in stays where a team does not fail back.
                let home = if team.settings.failback {
                    home
                } else {
                    now.or(home)
                };
                if let Some(home) = home.or(now) {
                    let home = Home {
                        home: home.to_owned(),
                        now: now.map(str::to_owned),
                    };
                    ports.insert((*name).to_owned(), home);
                }
            }
        }
        self.memory.ports = ports;
    }

    /// The homes of the ports of a switch: those that they had, and for new ones those of the fewest. With `balance: explicit` there are none.
    fn homes<'a>(&'a self, ports: &[(&'a str, &'a Team)]) -> BTreeMap<&'a str, &'a str> {
        let mut counts = Counts::default();
        let mut homes = BTreeMap::new();
        let housed = || {
            ports
                .iter()
                .filter(|(_, team)| team.balance() != Balance::Explicit)
        };
        // Of each team that is new: how many of its ports there are, and how many an uplink keeps.
        let mut own: HashMap<*const Team, (usize, HashMap<&str, usize>)> = HashMap::new();
        for (_, team) in housed().filter(|(_, team)| team.is_new) {
            own.entry(std::ptr::from_ref(*team)).or_default().0 += 1;
        }
        for (name, team) in housed() {
            let settings = &team.settings;
            let has = |names: &[Name], home: &str| names.iter().any(|name| *name == *home);
            let known = self.memory.ports.get(*name).map(|known| known.home.as_str());
            let home = known.filter(|home| {
                has(&settings.active, home) || (!settings.failback && has(&settings.standby, home))
            });
            let Some(home) = home else { continue };
            // A team with other settings is spread anew: no uplink keeps more than its share.
            let keeps = own
                .get_mut(&std::ptr::from_ref(*team))
                .is_none_or(|(ports, kept)| {
                    let kept = kept.entry(home).or_default();
                    *kept += 1;
                    *kept <= ports.div_ceil(settings.active.len().max(1))
                });
            if keeps {
                counts.add(Some(home));
                homes.insert(*name, home);
            }
        }
        for (name, team) in housed() {
            if !homes.contains_key(name) {
                let home = counts.fewest(&team.settings.active);
                counts.add(home);
                homes.extend(home.map(|home| (*name, home)));
            }
        }
        homes
    }
}

/// The uplink of this name, if the team uses it.
fn in_use<'a>(team: &'a Team, name: Option<&&str>) -> Option<&'a str> {
    let mut active = team.active.iter().map(Name::as_str);
    active.find(|active| Some(active) == name)
}

/// How many ports each uplink has.
#[derive(Default)]
struct Counts(HashMap<String, usize>);

impl Counts {
    fn add(&mut self, uplink: Option<&str>) {
        if let Some(uplink) = uplink {
            *self.0.entry(uplink.to_owned()).or_default() += 1;
        }
    }

    /// Of these the one that has the fewest, the first if there are several.
    fn fewest<'a>(&self, uplinks: &'a [Name]) -> Option<&'a str> {
        uplinks
            .iter()
            .map(Name::as_str)
            .min_by_key(|uplink| self.0.get(*uplink).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::config::text;

    /// A switch with three uplinks, these keys of a team and so many ports.
    fn config(teaming: &str, ports: usize) -> ValidConfig {
        let ports: String = (0..ports)
            .map(|n| format!("      p{n}: {{ port-group: g, tap: p{n} }}\n"))
            .collect();
        let uplinks = ["u1", "u2", "u3"].map(|name| {
            let enabled = !teaming.contains("active") || teaming.contains(name);
            format!("{name}: {{ device: {name}, enabled: {enabled} }}")
        });
        let uplinks = uplinks.join(", ");
        let text = format!(
            "version: 1
switches:
  s:
    uplinks: {{ {uplinks} }}
    teaming: {{ {teaming} }}
    port-groups: {{ g: {{}} }}
    ports:
{ports}"
        );
        text::load(&text).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    struct World {
        config: ValidConfig,
        teams: Teams,
        down: BTreeSet<&'static str>,
        now: Instant,
    }

    impl World {
        fn new(teaming: &str, ports: usize) -> Self {
            let mut world = Self {
                config: config(teaming, ports),
                teams: Teams::default(),
                down: BTreeSet::new(),
                now: Instant::now(),
            };
            world.update();
            world
        }

        fn update(&mut self) -> Vec<Changed> {
            let up = |name: &str| !self.down.contains(name);
            self.teams.update(&self.config, &up, self.now)
        }

        /// An uplink goes down or comes up.
        fn link(&mut self, name: &'static str, up: bool) {
            if up {
                self.down.remove(name);
            } else {
                self.down.insert(name);
            }
            self.update();
        }

        fn active(&self) -> String {
            let team = self.teams.teams.values().next().unwrap();
            team.active.iter().map(Name::as_str).collect::<Vec<_>>().join(" ")
        }

        /// The uplinks of all ports.
        fn ports(&self) -> Vec<String> {
            let ports = self.config.ports().iter().filter(|port| !port.is_uplink());
            ports
                .map(|port| {
                    let switch = &self.config.switch_of(port).name;
                    let group = port.group.as_ref().unwrap();
                    let uplink = self.teams.uplink(switch, group, port.name.as_str());
                    uplink.map_or("-", Name::as_str).to_owned()
                })
                .collect()
        }

        fn wait(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
            self.update();
        }
    }

    #[test]
    fn ports_are_spread_and_only_those_of_a_failed_uplink_move() {
        let mut world = World::new("", 1000);
        let before = world.ports();
        let count = |ports: &[String], uplink: &str| ports.iter().filter(|port| *port == uplink).count();
        assert_eq!(
            ["u1", "u2", "u3"].map(|uplink| count(&before, uplink)),
            [334, 333, 333]
        );
        world.link("u2", false);
        let during = world.ports();
        assert_eq!(
            ["u1", "u2", "u3"].map(|uplink| count(&during, uplink)),
            [500, 0, 500]
        );
        assert!(before.iter().zip(&during).all(|(a, b)| a == b || a == "u2"));
        world.link("u2", true);
        assert_eq!(world.ports(), before);
        world.link("u1", false);
        world.link("u2", false);
        world.link("u3", false);
        assert_eq!(count(&world.ports(), "-"), 1000);
    }

    #[test]
    fn a_standby_takes_the_place_of_one_that_failed_and_gives_it_back() {
        let mut world = World::new("active: [u1, u2], standby: [u3]", 2);
        assert_eq!(
            (world.active(), world.ports()),
            ("u1 u2".into(), vec!["u1".into(), "u2".into()])
        );
        world.link("u1", false);
        assert_eq!(
            (world.active(), world.ports()),
            ("u2 u3".into(), vec!["u3".into(), "u2".into()])
        );
        let team = world.teams.teams.values().next().unwrap();
        assert_eq!(
            team.places(),
            ["u3", "u2"].map(|n| team.members().find(|m| **m == *n).unwrap())
        );
        world.link("u1", true);
        assert_eq!(
            (world.active(), world.ports()),
            ("u1 u2".into(), vec!["u1".into(), "u2".into()])
        );
    }

    #[test]
    fn without_failback_what_stands_in_stays() {
        let mut world = World::new("active: [u1], standby: [u2, u3], failback: false", 1);
        world.link("u1", false);
        world.link("u1", true);
        assert_eq!((world.active(), world.ports()), ("u2".into(), vec!["u2".into()]));
        // Also over a restart.
        let memory: Memory =
            serde_json::from_value(serde_json::to_value(world.teams.memory()).unwrap()).unwrap();
        world.teams = Teams::new(memory);
        world.update();
        assert_eq!((world.active(), world.ports()), ("u2".into(), vec!["u2".into()]));
        world.link("u2", false);
        assert_eq!((world.active(), world.ports()), ("u1".into(), vec!["u1".into()]));
        world.config = config("active: [u3, u2], standby: [u1], failback: false", 1);
        world.link("u2", true);
        assert_eq!(world.active(), "u3 u2", "another configuration is another team");
    }

    #[test]
    fn explicit_takes_the_first_that_is_fit() {
        let mut world = World::new("balance: explicit, active: [u2, u1], standby: [u3]", 2);
        assert_eq!(
            (world.active(), world.ports()),
            ("u2".into(), vec!["u2".into(); 2])
        );
        world.link("u2", false);
        assert_eq!(
            (world.active(), world.ports()),
            ("u1".into(), vec!["u1".into(); 2])
        );
        world.link("u1", false);
        assert_eq!(
            (world.active(), world.ports()),
            ("u3".into(), vec!["u3".into(); 2])
        );
        world.link("u2", true);
        assert_eq!(
            (world.active(), world.ports()),
            ("u2".into(), vec!["u2".into(); 2])
        );
    }

    #[test]
    fn a_restart_keeps_the_uplink_of_each_port_whatever_the_order() {
        let mut world = World::new("", 7);
        world.link("u3", false);
        let before = world.ports();
        world.teams = Teams::new(world.teams.memory().clone());
        world.update();
        assert_eq!(world.ports(), before);
        assert_eq!(world.update(), []);
    }

    #[test]
    fn delays_are_waited_for_unless_nothing_else_is_up() {
        let mut world = World::new(
            "active: [u1], standby: [u2], up-delay: 500ms, down-delay: 200ms",
            1,
        );
        assert_eq!(world.active(), "u1", "no delay at the start");
        world.link("u1", false);
        assert_eq!(world.active(), "u1");
        let deadline = world.teams.deadline().unwrap();
        assert_eq!(deadline - world.now, Duration::from_millis(200));
        world.wait(200);
        assert_eq!(world.active(), "u2");
        world.link("u1", true);
        world.wait(499);
        assert_eq!(world.active(), "u2");
        world.wait(1);
        assert_eq!(world.active(), "u1");
        // A flap shorter than the delay changes nothing.
        world.link("u1", false);
        world.wait(100);
        world.link("u1", true);
        world.wait(1000);
        assert_eq!(world.active(), "u1");
        assert_eq!(world.teams.deadline(), None);
        world.link("u1", false);
        world.link("u2", false);
        world.wait(200);
        assert_eq!(world.active(), "");
        world.link("u2", true);
        assert_eq!(world.active(), "u2", "there is no other");
    }

    #[test]
    fn a_link_that_flaps_faster_than_the_delays_changes_nothing() {
        let mut world = World::new("active: [u1], standby: [u2], up-delay: 5s, down-delay: 200ms", 1);
        for _ in 0..20 {
            world.link("u1", false);
            world.wait(60);
            world.link("u1", true);
            world.wait(60);
            assert_eq!(world.active(), "u1");
        }
        world.link("u1", false);
        world.wait(6000);
        assert_eq!(world.active(), "u2");
        for _ in 0..20 {
            world.link("u1", true);
            world.wait(500);
            world.link("u1", false);
            world.wait(60);
            assert_eq!(world.active(), "u2");
        }
        world.link("u1", true);
        world.wait(4999);
        assert_eq!(world.active(), "u2");
        world.wait(1);
        assert_eq!(world.active(), "u1");
    }

    #[test]
    fn without_failback_an_uplink_that_was_never_used_is_taken() {
        let mut world = World {
            config: config("failback: false", 3),
            teams: Teams::default(),
            down: BTreeSet::from(["u2", "u3"]),
            now: Instant::now(),
        };
        world.update();
        assert_eq!(world.active(), "u1");
        world.link("u2", true);
        world.link("u3", true);
        assert_eq!(world.active(), "u1 u2 u3");
        world.link("u2", false);
        world.link("u2", true);
        assert_eq!(world.active(), "u1 u3", "that would be failback");
        world.teams = Teams::new(world.teams.memory().clone());
        world.update();
        assert_eq!(world.active(), "u1 u3");
        world.link("u3", false);
        assert_eq!(world.active(), "u1 u2");
    }

    #[test]
    fn another_team_is_another_team_also_over_a_restart() {
        let mut world = World::new("active: [u1, u2], standby: [u3], failback: false", 4);
        world.link("u1", false);
        world.link("u1", true);
        assert_eq!(world.active(), "u2 u3");
        for restart in [false, true] {
            let mut next = World {
                config: config(
                    "balance: explicit, active: [u1, u2], standby: [u3], failback: false",
                    4,
                ),
                teams: Teams::new(world.teams.memory().clone()),
                down: BTreeSet::new(),
                now: world.now,
            };
            if !restart {
                next.teams.teams = world.teams.teams.clone();
            }
            next.update();
            assert_eq!((next.active(), next.ports()), ("u1".into(), vec!["u1".into(); 4]));
        }
    }

    #[test]
    fn an_aggregate_uses_all_its_links_whatever_failback_says() {
        let mut world = World::new("balance: ip-hash, failback: false", 1);
        world.link("u1", false);
        assert_eq!(world.active(), "u2 u3");
        world.link("u1", true);
        assert_eq!(world.active(), "u1 u2 u3");
    }

    #[test]
    fn a_new_uplink_gets_its_share_of_the_ports_and_no_others_move() {
        let mut world = World::new("active: [u1], standby: [u2, u3]", 9);
        assert!(world.ports().iter().all(|port| port == "u1"));
        world.config = config("active: [u1, u2, u3]", 9);
        world.update();
        let spread = world.ports();
        for uplink in ["u1", "u2", "u3"] {
            assert_eq!(spread.iter().filter(|port| *port == uplink).count(), 3);
        }
        world.config = config("active: [u1, u2, u3], notify: false", 9);
        world.update();
        assert_eq!(world.ports(), spread);
    }

    #[test]
    fn changes_are_told_once() {
        let mut world = World::new("active: [u1, u2, u3]", 1);
        world.down.insert("u1");
        let changed = world.update();
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].before.len(), changed[0].now.len()), (3, 2));
        assert_eq!(world.update(), []);
    }
}
