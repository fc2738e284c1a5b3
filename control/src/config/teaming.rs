//! Teams: which uplinks the ports of a group use, with all defaults put in, and what can be wrong about it.
//!
//! Keys that a group leaves out are those of its switch. What a group names itself is not at the same time what its switch says of it: an uplink in the group's
//! `active` is in no `standby` that it inherits, and the other way round.

use std::collections::HashSet;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::model::{Balance, Detect, Lacp, LacpMode, LacpRate, Teaming, Uplink};
use super::path::Path;
use super::units::Name;
use super::validate::{ConfigError, suggest};

/// How the ports of a group share the uplinks, all defaults put in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EffectiveTeaming {
    /// By what the traffic is shared out.
    pub balance: Balance,
    /// The uplinks that are used, in order.
    pub active: Vec<Name>,
    /// Those that stand in for them, in order.
    pub standby: Vec<Name>,
    /// What a failure is told by.
    pub detect: Detect,
    /// A recovered uplink of `active` is used again at once.
    pub failback: bool,
    /// Stations that are reached by another uplink than before are announced there.
    pub notify: bool,
    /// How uplinks are agreed on, with `balance: lacp`.
    pub lacp: EffectiveLacp,
    /// How long an uplink that came up is not used yet.
    pub up_delay: Duration,
    /// How long one that went down is not given up.
    pub down_delay: Duration,
}

/// How uplinks are agreed on with the neighbour, all defaults put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EffectiveLacp {
    /// The switch begins.
    pub active: bool,
    /// Once a second.
    pub fast: bool,
    /// One uplink is used without a neighbour that speaks.
    pub fallback: bool,
}

impl Default for EffectiveLacp {
    fn default() -> Self {
        Self::of(Lacp::default())
    }
}

impl EffectiveLacp {
    fn of(lacp: Lacp) -> Self {
        Self {
            active: lacp.mode.unwrap_or_default() == LacpMode::Active,
            fast: lacp.rate.unwrap_or_default() == LacpRate::Fast,
            fallback: lacp.fallback.unwrap_or(false),
        }
    }
}

impl EffectiveTeaming {
    /// What switch and group say together.
    pub(super) fn of(
        switch: Option<&Teaming>,
        group: Option<&Teaming>,
        uplinks: &IndexMap<Name, Uplink>,
    ) -> Self {
        let own = group.cloned().unwrap_or_default();
        let inherited = switch.cloned().unwrap_or_default();
        let without = |names: Option<Vec<Name>>, taken: &Option<Vec<Name>>| -> Option<Vec<Name>> {
            let taken = taken.as_deref().unwrap_or_default();
            Some(names?.into_iter().filter(|name| !taken.contains(name)).collect())
        };
        let standby = own
            .standby
            .clone()
            .or_else(|| without(inherited.standby, &own.active))
            .unwrap_or_default();
        let active = own
            .active
            .or_else(|| without(inherited.active, &own.standby))
            .unwrap_or_else(|| {
                let others = uplinks.keys().filter(|name| !standby.contains(name));
                others.cloned().collect()
            });
        let delay = |own: Option<super::units::LinkDelay>, inherited: Option<super::units::LinkDelay>| {
            own.or(inherited).unwrap_or_default().get()
        };
        Self {
            balance: own.balance.or(inherited.balance).unwrap_or_default(),
            active,
            standby,
            detect: own.detect.or(inherited.detect).unwrap_or_default(),
            failback: own.failback.or(inherited.failback).unwrap_or(true),
            notify: own.notify.or(inherited.notify).unwrap_or(true),
            lacp: EffectiveLacp::of(own.lacp.or(inherited.lacp).unwrap_or_default()),
            up_delay: delay(own.up_delay, inherited.up_delay),
            down_delay: delay(own.down_delay, inherited.down_delay),
        }
    }

    /// Whether the uplinks are one link for the network outside.
    pub fn is_aggregate(&self) -> bool {
        matches!(self.balance, Balance::IpHash | Balance::Lacp)
    }

    /// Whether an uplink that has recovered is used again at once.
    pub fn fails_back(&self) -> bool {
        self.failback || self.is_aggregate()
    }

    /// What makes it another team if it changes: how the traffic is shared out, among which uplinks.
    pub fn identity(&self) -> String {
        json!([self.balance, self.active, self.standby, self.failback]).to_string()
    }

    /// All its uplinks, in the order in which they are used.
    pub fn members(&self) -> impl Iterator<Item = &Name> + Clone {
        self.active.iter().chain(&self.standby)
    }

    /// In the file's words, nothing left out.
    pub fn settings(&self) -> Value {
        let time = |time: Duration| super::units::Duration::from_millis(time.as_millis() as u64).to_string();
        let mut settings = json!({
            "balance": self.balance,
            "active": self.active,
            "standby": self.standby,
            "detect": self.detect,
            "failback": self.failback,
            "notify": self.notify,
            "up-delay": time(self.up_delay),
            "down-delay": time(self.down_delay),
        });
        if self.balance == Balance::Lacp {
            settings["lacp"] = json!({
                "mode": if self.lacp.active { LacpMode::Active } else { LacpMode::Passive },
                "rate": if self.lacp.fast { LacpRate::Fast } else { LacpRate::Slow },
                "fallback": self.lacp.fallback,
            });
        }
        settings
    }
}

/// What is wrong with one `teaming` on its own.
pub(super) fn check(
    teaming: &Teaming,
    uplinks: &IndexMap<Name, Uplink>,
    path: &Path,
    errors: &mut Vec<ConfigError>,
) {
    if uplinks.is_empty() {
        let switch = path.segments().iter().take(2);
        let uplinks = switch.fold(Path::root(), |path, segment| match segment {
            super::path::Segment::Key(key) => path.key(key),
            super::path::Segment::Index(index) => path.index(*index),
        });
        errors.push(
            ConfigError::new(path.clone(), "there are no uplinks to be shared")
                .depends(uplinks.key("uplinks"))
                .help("name the devices under `uplinks` of the switch, such as `uplinks: { up1: { device: eth1 } }`"),
        );
        return;
    }
    let mut named: HashSet<&Name> = HashSet::new();
    for (key, names) in [("active", &teaming.active), ("standby", &teaming.standby)] {
        for (index, name) in names.iter().flatten().enumerate() {
            let path = path.key(key).index(index);
            if !uplinks.contains_key(name) {
                let mut error = ConfigError::new(path, format!("there is no uplink `{name}` in this switch"));
                error.help = suggest(name.as_str(), "known uplinks", uplinks.keys().map(Name::as_str));
                errors.push(error);
            } else if !named.insert(name) {
                errors.push(ConfigError::new(
                    path,
                    format!("the uplink `{name}` is named twice"),
                ));
            }
        }
    }
}

/// What is wrong with a team as its ports have it.
pub(super) fn check_effective(team: &EffectiveTeaming, path: &Path, errors: &mut Vec<ConfigError>) {
    if team.is_aggregate() && !team.standby.is_empty() {
        errors.push(
            ConfigError::new(
                path.key("balance"),
                format!(
                    "`{}` is for uplinks that are one aggregate outside, and an aggregate has no `standby`",
                    if team.balance == Balance::Lacp {
                        "lacp"
                    } else {
                        "ip-hash"
                    }
                ),
            )
            .depends(path.key("standby"))
            .help("name all uplinks of the aggregate in `active`"),
        );
    }
}

/// LACP makes one link of a switch's uplinks, for all of its groups: what a group may not say of its own.
pub(super) fn check_lacp(
    switch: &EffectiveTeaming,
    group: &Teaming,
    path: &Path,
    errors: &mut Vec<ConfigError>,
) {
    let keys = [
        ("balance", group.balance.is_some()),
        ("active", group.active.is_some()),
        ("standby", group.standby.is_some()),
        ("lacp", group.lacp.is_some()),
    ];
    let is_lacp = switch.balance == Balance::Lacp;
    let wrong = keys.iter().find(|(key, given)| {
        *given && (is_lacp || *key == "lacp" || (*key == "balance" && group.balance == Some(Balance::Lacp)))
    });
    if let Some((key, _)) = wrong {
        errors.push(
            ConfigError::new(
                path.key(key),
                "with LACP the uplinks of a switch are one link, for all of its port groups",
            )
            .help("say so in `teaming` of the switch, and in none of its port groups"),
        );
    }
}
