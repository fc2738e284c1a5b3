//! From a configuration that may be wrong to one that is right: [`Config::validate`] finds every error that the form of the
//! file alone does not show, and puts in the defaults.
//!
//! Invariants of a [`ValidConfig`], on which [`super::compile()`] relies: a port's group exists; port names are unique across the
//! switches; no netdev and no socket belongs to two ports; a static entry's VLAN is carried by its port and its address belongs to no other
//! port in that VLAN; a MAC table has room for its static entries; there are at most [`MAX_PORTS`] ports.

use std::collections::HashMap;

use switch_core::addr::MacAddr;
use switch_core::id::PortId;
use switch_core::team::MAX_UPLINKS;
use switch_core::vid::Vid;

pub use super::attachment::Attachment;
use super::attachment::Place;
use super::effective::effective_switch;
pub use super::effective::{EffectiveGroup, EffectivePort, EffectiveSwitch, Rules, ValidConfig, WorkerPlan};
use super::model::{Config, Port, Switch, Uplink, Vlan, Workers};
use super::path::Path;
use super::teaming::{self, EffectiveTeaming};
use super::units::{Name, WorkerCount};

/// The most switches a configuration may have.
pub const MAX_SWITCHES: usize = 1024;

/// The most ports a configuration may have: so many that all can be replaced by others at once, each with an id of its own.
pub const MAX_PORTS: usize = PortId::COUNT / 2;

/// What stands in the place of a port's name for all uplinks of a switch together, behind which the stations outside are.
pub const OUTSIDE: &str = "uplinks";

/// One error in a configuration: what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// Where.
    pub path: Path,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Places that the error is a consequence of, if they are themselves in error: then it says nothing new.
    pub(crate) depends: Vec<Path>,
}

impl ConfigError {
    pub(super) fn new(path: Path, message: impl Into<String>) -> Self {
        Self {
            path,
            message: message.into(),
            help: None,
            depends: Vec::new(),
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn depends(mut self, path: Path) -> Self {
        self.depends.push(path);
        self
    }
}

/// ` in VLAN 100`, to follow an address; nothing for the VLAN of ports without `vlan`, whose number is no word of the owner's.
pub(crate) fn in_vlan(vid: Vid) -> String {
    if vid == Vid::UNAWARE {
        String::new()
    } else {
        format!(" in VLAN {vid}")
    }
}

/// The known name nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// A file may have a wrong name for each of thousands of ports; it is for all of them that the comparison has to be quick.
    const COMPARED: usize = 200;
    let (len, allowed) = (name.len(), (name.chars().count() / 3).clamp(1, 4));
    known
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(len) <= 4 * allowed)
        .take(COMPARED)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?`, or the known names, or nothing when there are none.
pub(crate) fn suggest<'a>(
    name: &str,
    what: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    const SHOWN: usize = 12;
    if let Some(nearest) = nearest(name, known.clone()) {
        return Some(format!("did you mean `{nearest}`?"));
    }
    let all: Vec<&str> = known.into_iter().collect();
    if all.is_empty() {
        return None;
    }
    let more = if all.len() > SHOWN {
        format!(" and {} more", all.len() - SHOWN)
    } else {
        String::new()
    };
    Some(format!(
        "{what}: {}{more}",
        all[..all.len().min(SHOWN)].join(", ")
    ))
}

impl Config {
    /// Finds every error beyond the form of the file, or gives the configuration with its effective settings.
    ///
    /// # Errors
    /// All of them, in the order of the file.
    pub fn validate(self) -> Result<ValidConfig, Vec<ConfigError>> {
        let mut check = Check::default();
        let root = Path::root();
        let workers = check.workers(self.workers.as_ref(), &root.key("workers"));
        let mut switches = Vec::new();
        let mut ports = Vec::new();
        if self.switches.len() > MAX_SWITCHES {
            check.errors.push(ConfigError::new(
                root.key("switches"),
                format!(
                    "{} switches: at most {MAX_SWITCHES} are allowed",
                    self.switches.len()
                ),
            ));
        }
        for (index, (name, switch)) in self.switches.iter().enumerate() {
            let path = root.key("switches").key(name.as_str());
            let effective = effective_switch(name, switch);
            ports.extend(check.uplinks(index, switch, &effective, &workers, &path));
            let own = check.ports(index, switch, &effective, &workers, &path);
            check.statics(&own, &effective, &path);
            ports.extend(own.into_iter().map(|own| own.port));
            switches.push(effective);
        }
        let count: usize = self
            .switches
            .values()
            // With uplinks there is one more, which stands for all of them.
            .map(|switch| switch.ports.len() + switch.uplinks.len() + usize::from(!switch.uplinks.is_empty()))
            .sum();
        if count > MAX_PORTS {
            check.errors.push(ConfigError::new(
                root.key("switches"),
                format!("{count} ports: at most {MAX_PORTS} are allowed"),
            ));
        }
        if check.errors.is_empty() {
            let names = ports.iter().enumerate();
            Ok(ValidConfig {
                config: self,
                workers,
                switches,
                by_name: names.map(|(index, port)| (port.name.clone(), index)).collect(),
                ports,
            })
        } else {
            Err(check.errors)
        }
    }
}

/// A port without an error of its own.
struct Checked {
    path: Path,
    port: EffectivePort,
    /// Of each static entry that is right: its position in the file.
    static_at: Vec<usize>,
}

/// What was found so far, across the switches.
#[derive(Default)]
struct Check {
    errors: Vec<ConfigError>,
    /// Where a port's name was first used.
    names: HashMap<Name, Path>,
    /// Where a netdev or a socket was first used.
    places: HashMap<Place, Path>,
}

impl Check {
    fn error(&mut self, path: &Path, message: impl Into<String>) {
        self.errors.push(ConfigError::new(path.clone(), message));
    }

    fn workers(&mut self, workers: Option<&Workers>, path: &Path) -> WorkerPlan {
        let Some(workers) = workers else {
            return WorkerPlan::PerCore;
        };
        match (&workers.count, &workers.cores) {
            (Some(_), Some(_)) => {
                self.errors.push(
                    ConfigError::new(path.clone(), "`count` and `cores` exclude each other")
                        .help("`cores` pins one worker to each core it names; leave `count` out"),
                );
                WorkerPlan::PerCore
            }
            (Some(count), None) => WorkerPlan::Count(count.get().into()),
            (None, Some(cores)) => {
                let path = path.key("cores");
                if cores.is_empty() || cores.len() > usize::from(WorkerCount::MAX) {
                    self.errors.push(
                        ConfigError::new(
                            path.clone(),
                            format!("{} cores: 1 to {} are expected", cores.len(), WorkerCount::MAX),
                        )
                        .depends(path.clone()),
                    );
                }
                for (i, core) in cores.iter().enumerate() {
                    if cores[..i].contains(core) {
                        self.error(&path.index(i), format!("core {core} is named twice"));
                    }
                }
                WorkerPlan::Cores(cores.iter().map(|core| core.get().into()).collect())
            }
            (None, None) => WorkerPlan::PerCore,
        }
    }

    /// Takes a name for a port or an uplink.
    fn name(&mut self, name: &Name, what: &str, path: &Path) {
        if *name == *OUTSIDE {
            let message = format!("`{OUTSIDE}` stands for all uplinks together; choose another name");
            self.error(path, message);
        } else if let Some(first) = self.names.get(name) {
            let message =
                format!("the {what} name `{name}` is taken by {first}; names are unique across switches");
            self.error(path, message);
        } else {
            self.names.insert(name.clone(), path.clone());
        }
    }

    /// The uplinks of one switch, and whether its teams are right.
    fn uplinks(
        &mut self,
        index: usize,
        switch: &Switch,
        effective: &EffectiveSwitch,
        plan: &WorkerPlan,
        path: &Path,
    ) -> Vec<EffectivePort> {
        let own = path.key("uplinks");
        if switch.uplinks.len() > MAX_UPLINKS {
            let message = format!(
                "{} uplinks: at most {MAX_UPLINKS} are allowed",
                switch.uplinks.len()
            );
            self.error(&own, message);
        }
        let mut ports = Vec::with_capacity(switch.uplinks.len());
        for (name, uplink) in &switch.uplinks {
            let path = own.key(name.as_str());
            self.name(name, "uplink", &path);
            let port = uplink.as_port();
            let attachment = self.attachment(&port, &path);
            let workers = self.pinned(&port, plan, &path);
            ports.extend(attachment.map(|attachment| EffectivePort {
                name: name.clone(),
                switch: index,
                group: None,
                attachment,
                mac: None,
                enabled: uplink.enabled.unwrap_or(true),
                rules: Rules::of_uplink(),
                static_macs: Vec::new(),
                workers,
            }));
        }
        self.teams(switch, effective, path);
        ports
    }

    fn teams(&mut self, switch: &Switch, effective: &EffectiveSwitch, path: &Path) {
        let default = EffectiveTeaming::of(switch.teaming.as_ref(), None, &switch.uplinks);
        let errors = self.errors.len();
        if let Some(teaming) = &switch.teaming {
            let path = path.key("teaming");
            teaming::check(teaming, &switch.uplinks, &path, &mut self.errors);
            teaming::check_effective(&default, &path, &mut self.errors);
        }
        for ((name, group), effective) in switch.port_groups.iter().zip(&effective.groups) {
            if let Some(teaming) = &group.teaming {
                let path = path.key("port-groups").key(name.as_str()).key("teaming");
                teaming::check(teaming, &switch.uplinks, &path, &mut self.errors);
                // What it only inherits was said of the switch.
                if teaming.balance.is_some() || teaming.standby.is_some() {
                    teaming::check_effective(&effective.teaming, &path, &mut self.errors);
                }
                teaming::check_lacp(&default, teaming, &path, &mut self.errors);
            }
        }
        if self.errors.len() > errors {
            // A name that is wrong there may be meant for one of those that seem to be missing.
            return;
        }
        let teams = || std::iter::once(&default).chain(effective.groups.iter().map(|group| &group.teaming));
        let is_used = |name: &Name| teams().any(|team| team.members().any(|member| member == name));
        let idle = |(name, uplink): &(&Name, &Uplink)| uplink.enabled.unwrap_or(true) && !is_used(name);
        for (name, _) in switch.uplinks.iter().filter(idle) {
            self.errors.push(
                ConfigError::new(
                    path.key("uplinks").key(name.as_str()),
                    format!(
                        "no team uses the uplink `{name}`, and an uplink outside of the team may close a loop"
                    ),
                )
                .depends(path.key("teaming"))
                .help("name it in `active` or `standby` of `teaming`, or set `enabled: false`"),
            );
        }
    }

    /// The ports of one switch whose group and device are known.
    fn ports(
        &mut self,
        index: usize,
        switch: &Switch,
        effective: &EffectiveSwitch,
        plan: &WorkerPlan,
        path: &Path,
    ) -> Vec<Checked> {
        let groups: HashMap<&str, &EffectiveGroup> = effective
            .groups
            .iter()
            .map(|group| (group.name.as_str(), group))
            .collect();
        let mut ports = Vec::with_capacity(switch.ports.len());
        for (name, port) in &switch.ports {
            let path = path.key("ports").key(name.as_str());
            self.name(name, "port", &path);
            let attachment = self.attachment(port, &path);
            let workers = self.pinned(port, plan, &path);
            let group = port
                .port_group
                .as_ref()
                .and_then(|name| groups.get(name.as_str()).copied());
            if group.is_none() {
                self.no_group(port.port_group.as_ref(), effective, &path);
            }
            let (Some(attachment), Some(group)) = (attachment, group) else {
                continue;
            };
            let rules = group.rules.clone().overridden(
                port.vlan.as_ref(),
                port.security,
                port.mac_limit,
                port.isolated,
                port.activation,
            );
            let (static_at, static_macs) = self.static_macs(port, &rules, &path).into_iter().unzip();
            ports.push(Checked {
                path,
                static_at,
                port: EffectivePort {
                    name: name.clone(),
                    switch: index,
                    group: Some(group.name.clone()),
                    attachment,
                    mac: port.mac.map(super::units::StationMac::get),
                    enabled: port.enabled.unwrap_or(true),
                    rules,
                    static_macs,
                    workers,
                },
            });
        }
        ports
    }

    /// The workers that a port wants.
    fn pinned(&mut self, port: &Port, plan: &WorkerPlan, path: &Path) -> Vec<usize> {
        let (wanted, path) = match (&port.worker, &port.workers) {
            (Some(_), Some(_)) => {
                self.errors.push(
                    ConfigError::new(path.key("worker"), "`worker` and `workers` exclude each other")
                        .depends(path.key("workers"))
                        .help("`workers` names one worker for each queue; leave `worker` out"),
                );
                return Vec::new();
            }
            (None, None) => return Vec::new(),
            (Some(worker), None) => (std::slice::from_ref(worker), path.key("worker")),
            (None, Some(workers)) => (workers.as_slice(), path.key("workers")),
        };
        if wanted.is_empty() {
            self.error(
                &path,
                "no worker is named; leave the key out to let the switch choose",
            );
        }
        let count = match plan {
            // How many that is, the host decides.
            WorkerPlan::PerCore => None,
            WorkerPlan::Count(count) => Some(*count),
            WorkerPlan::Cores(cores) => Some(cores.len()),
        };
        for (i, worker) in wanted.iter().enumerate() {
            let path = if port.workers.is_some() {
                path.index(i)
            } else {
                path.clone()
            };
            if wanted[..i].contains(worker) {
                self.error(&path, format!("worker {worker} is named twice"));
            }
            if let Some(count) = count.filter(|count| usize::from(worker.get()) >= *count) {
                self.errors.push(
                    ConfigError::new(
                        path,
                        format!("there is no worker {worker}: {count} run, numbered from 0"),
                    )
                    .depends(Path::keys(["workers"])),
                );
            }
        }
        wanted.iter().map(|worker| worker.get().into()).collect()
    }

    fn no_group(&mut self, name: Option<&Name>, switch: &EffectiveSwitch, path: &Path) {
        let known = switch.groups.iter().map(|group| group.name.as_str());
        let groups = Path::keys(["switches", switch.name.as_str(), "port-groups"]);
        let none = || Some(format!("write it under `{groups}` first"));
        self.errors.push(match name {
            None => {
                let mut error =
                    ConfigError::new(path.clone(), "`port-group` is missing").depends(path.key("port-group"));
                error.help = suggest("", "known groups", known).or_else(none);
                error
            }
            Some(name) => {
                let message = format!("there is no port group `{name}` in the switch `{}`", switch.name);
                let mut error =
                    ConfigError::new(path.key("port-group"), message).depends(groups.key(name.as_str()));
                error.help = suggest(name.as_str(), "known groups", known).or_else(none);
                error
            }
        });
    }

    fn attachment(&mut self, port: &Port, path: &Path) -> Option<Attachment> {
        let attachment = Attachment::of(port, path, &mut self.errors)?;
        let place = attachment.place();
        if let Some(first) = self.places.get(&place) {
            let error = ConfigError::new(
                path.key(attachment.kind()),
                format!("{place} is taken by {first}"),
            )
            .depends(path.key("netns"))
            .depends(first.key("netns"));
            self.errors.push(error);
        } else {
            self.places.insert(place, path.clone());
        }
        Some(attachment)
    }

    /// The static entries of a port that are right, each with its position.
    fn static_macs(&mut self, port: &Port, rules: &Rules, path: &Path) -> Vec<(usize, (Vid, MacAddr))> {
        let policy = rules.vlan_policy();
        let mut macs = Vec::with_capacity(port.static_macs.len());
        for (i, entry) in port.static_macs.iter().enumerate() {
            let path = path.key("static-macs").index(i);
            let vid = entry
                .vlan
                .map(super::units::VlanId::vid)
                .or_else(|| policy.untagged());
            let Some(vid) = vid else {
                self.errors.push(
                    ConfigError::new(
                        path.clone(),
                        "`vlan` is missing: the port's trunk has no `native` VLAN",
                    )
                    .depends(path.key("vlan")),
                );
                continue;
            };
            if !policy.carries(vid) {
                let own = match &rules.vlan {
                    Vlan::None => "it has no `vlan`".to_owned(),
                    vlan => format!("its VLAN: {vlan}"),
                };
                let message = format!("the port does not carry VLAN {vid} ({own})");
                self.error(&path.key("vlan"), message);
                continue;
            }
            macs.push((i, (vid, entry.mac.get())));
        }
        macs
    }

    /// Static entries of one switch against each other and against the size of its MAC table.
    fn statics(&mut self, ports: &[Checked], switch: &EffectiveSwitch, path: &Path) {
        let mut owners: HashMap<(Vid, MacAddr), &Path> = HashMap::new();
        for Checked {
            path,
            port,
            static_at,
        } in ports
        {
            for (i, entry) in static_at.iter().zip(&port.static_macs) {
                if let Some(first) = owners.insert(*entry, path) {
                    let (vid, mac) = entry;
                    let message = format!("{mac}{} is already a static entry of {first}", in_vlan(*vid));
                    self.error(&path.key("static-macs").index(*i), message);
                }
            }
        }
        if owners.len() > switch.mac_table_size {
            let message = format!(
                "the MAC table has room for {} addresses, and there are {} static ones",
                switch.mac_table_size,
                owners.len()
            );
            let path = path.key("mac-table").key("size");
            self.errors
                .push(ConfigError::new(path.clone(), message).depends(path));
        }
    }
}
