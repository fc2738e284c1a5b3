//! The way of a configuration into force.
//!
//! The order, and why it is right:
//!
//! 1. The text is read, validated and compared with what is in force. Nothing is touched; all errors are told at once.
//! 2. The devices of new ports are opened. Nothing reads them yet. One that cannot be opened is no reason to refuse:
//!    its port is down and says why, and it is opened later. From here on nothing of the world outside can refuse.
//! 3. The configuration is committed to the store. This is the only step left that can fail; if it does, the devices
//!    just opened are closed again, and nothing has changed: not what the workers do, not what the next start takes up.
//! 4. The swap: the new ports' queues are handed over and one snapshot is published. Neither can fail.
//! 5. Once no worker reads the old snapshot, the ports that went are detached and forgotten.
//!
//! So the store is never behind what the workers do: what was reported as applied is what a restart takes up, whenever
//! the process is killed. Killed between 3 and 4, the next start takes up a configuration whose applicant got no
//! answer, and which was whole. The other order (swap, then commit) would need a way back from a swap.
//!
//! A device whose own settings change must be closed before it can be opened again; it is, after step 3.
//!
//! A configuration that waits for its confirmation is in force but not in the store: if nobody confirms it, or the
//! process is killed, the one before is what there is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datapath::io::OpenError;
use tokio::time::Instant;

use super::ports::{DeviceSpec, Queues, Runtime, missing_netns, placement};
use super::{Daemon, Failure};
use crate::api::model::{ApplyReport, Change, PendingConfirm};
use crate::config::diff::diff;
use crate::config::model::Driver;
use crate::config::validate::{Attachment, EffectivePort, WorkerPlan};
use crate::config::{ValidConfig, text};
use crate::events::Kind;
use crate::links::Links;
use crate::metrics::ApplyCounts;
use crate::store::{NewGeneration, StoreError};

/// The longest time that a configuration may wait for its confirmation.
const LONGEST_CONFIRM: Duration = Duration::from_secs(24 * 3600);

/// How the history calls the configuration file.
const FILE: &str = "file";

/// Who wants a configuration, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Who asks, for the history: `uid 0`, `file`.
    pub author: String,
    /// What is asked, for the history: `apply switch.yaml`.
    pub comment: String,
    /// Say what would change, and change nothing.
    pub dry_run: bool,
    /// Go back unless a confirmation comes in time.
    pub confirm: Option<Duration>,
}

/// A configuration that is in force and not confirmed.
pub(super) struct Pending {
    pub(super) deadline: Instant,
    /// What there was, and is again if nobody confirms.
    before: Arc<ValidConfig>,
    before_generation: u64,
    pub(super) since: SystemTime,
    pub(super) request: Request,
    pub(super) changes: usize,
}

/// What an apply does to the devices.
#[derive(Default)]
struct Plan {
    /// All ports of the new configuration; those that keep their device keep their runtime.
    ports: HashMap<String, Runtime>,
    /// New or with another device, none of which is in use now.
    fresh: Vec<String>,
    /// Their netdev is in use now, by this port or another, with other settings.
    again: Vec<String>,
    /// Ports that lose their device before the swap, because it is to be opened again.
    close: BTreeSet<String>,
}

impl Daemon {
    /// Applies the text of a configuration.
    pub fn apply_text(&mut self, text: &str, request: Request) -> Result<ApplyReport, Failure> {
        let config =
            text::load(text).map_err(|problems| self.refuse(&request, Failure::Invalid(problems)))?;
        let dry_run = request.dry_run;
        if let Some(failure) = self.cuts_off(&config, &request) {
            return Err(self.refuse(&request, failure));
        }
        let report = self.apply(config.clone(), request)?;
        if let Some(file) = self.file.as_ref().filter(|_| !dry_run) {
            file.note_if_same(&config);
        }
        Ok(report)
    }

    /// Whoever applies an uplink with the host's addresses may cut himself off: that wants a confirmation.
    fn cuts_off(&self, config: &ValidConfig, request: &Request) -> Option<Failure> {
        if request.dry_run || request.confirm.is_some() {
            return None;
        }
        let is_new = |port: &EffectivePort| {
            let known = self.config.port(port.name.as_str());
            known.is_none_or(|known| known.attachment.device() != port.attachment.device())
        };
        let mut taken = host_addresses(config).into_iter();
        let taken = taken.find(|(port, _)| port.is_uplink() && port.enabled && is_new(port))?;
        Some(Failure::Conflict(format!(
            "{}; apply it with `--confirm 60s`, so that it is taken back unless you confirm it by then, or give the addresses to a TAP port of the switch first; nothing was changed",
            cut_off(taken)
        )))
    }

    /// Applies the configuration file again. What is wrong with it is logged, and changes nothing.
    pub fn reload(&mut self) {
        let Some(file) = self.file.clone() else { return };
        let path = file.path().display().to_string();
        let request = Request {
            author: FILE.to_owned(),
            comment: format!("reload {path}"),
            ..Request::default()
        };
        let result = match file.read() {
            Ok(text) => self.apply_text(&text, request),
            Err(error) => Err(Failure::NotFound(format!("cannot be read: {error}"))),
        };
        match result {
            Ok(report) => {
                let what = if report.applied { "applied" } else { "unchanged" };
                tracing::info!(generation = report.generation, "{path}: {what}");
                for warning in report.warnings {
                    tracing::warn!("{warning}");
                }
            }
            Err(failure) => {
                tracing::error!("{path}: {failure}");
                if let Failure::Invalid(problems) = failure {
                    for problem in problems {
                        tracing::error!(
                            "{path}:{}:{}: {}: {}",
                            problem.line,
                            problem.column,
                            problem.path,
                            problem.message
                        );
                    }
                }
            }
        }
    }

    /// Takes up at the start what the store has, or what the file says if it counts.
    pub fn start(
        &mut self,
        stored: Option<(ValidConfig, u64)>,
        file: Option<ValidConfig>,
    ) -> Result<(), Failure> {
        let Some(said) = file else {
            match stored {
                Some((config, generation)) => self.take_up(config, generation),
                None => {
                    tracing::warn!("there is no configuration yet; `vswitchctl apply -f FILE` brings one");
                }
            }
            return Ok(());
        };
        // Compared with what is stored, applied to a switch without ports.
        if let Some((config, generation)) = &stored {
            self.config = Arc::new(config.clone());
            self.generation = *generation;
        }
        let path = self
            .file
            .as_ref()
            .map(|file| file.path().display().to_string())
            .unwrap_or_default();
        let report = self.apply(
            said.clone(),
            Request {
                author: FILE.to_owned(),
                comment: format!("apply {path}"),
                ..Request::default()
            },
        )?;
        if !report.applied
            && let Some((config, generation)) = stored
        {
            self.take_up(config, generation);
        }
        if let Some(file) = &self.file {
            file.note(&said);
        }
        Ok(())
    }

    /// Applies a configuration that was built or changed as a JSON value.
    pub(super) fn apply_value(
        &mut self,
        value: &serde_json::Value,
        request: Request,
    ) -> Result<ApplyReport, Failure> {
        let config =
            text::load_value(value).map_err(|problems| self.refuse(&request, Failure::Invalid(problems)))?;
        self.apply(config, request)
    }

    fn refuse(&mut self, request: &Request, failure: Failure) -> Failure {
        if !request.dry_run {
            match failure {
                Failure::Store(_) => self.applies.failed += 1,
                _ => self.applies.refused += 1,
            }
            let mut message = format!("{} by {}: {failure}", request.comment, request.author);
            // Whoever reads the events later has not seen the list.
            if let Failure::Invalid(problems) = &failure
                && let Some(first) = problems.first()
            {
                let _ = write!(message, "; {}: {}", first.path, first.message);
            }
            self.tell_of(Kind::ApplyFailed, None, message);
        }
        failure
    }

    /// Applies a right configuration.
    pub fn apply(&mut self, config: ValidConfig, request: Request) -> Result<ApplyReport, Failure> {
        if let Some(confirm) = request.confirm
            && (confirm.is_zero() || confirm > LONGEST_CONFIRM)
        {
            return Err(Failure::BadRequest(format!(
                "a confirmation is waited for from 1 second to {} hours",
                LONGEST_CONFIRM.as_secs() / 3600
            )));
        }
        if self.pending.is_some() && !request.dry_run {
            return Err(Failure::Conflict(format!(
                "generation {} waits for its confirmation; confirm it or roll back first",
                self.generation
            )));
        }
        let changes = diff(self.config.config(), config.config());
        if changes.is_empty() || request.dry_run {
            if !request.dry_run {
                self.applies.unchanged += 1;
            }
            return Ok(ApplyReport {
                generation: self.generation,
                applied: false,
                warnings: self.warnings(&config, request.dry_run),
                changes,
            });
        }

        let now = Instant::now();
        let mut plan = self.plan(&config);
        let mut queues = self.open_all(&plan.fresh, &mut plan.ports, now);
        let generation = match request.confirm {
            None => match self.commit(&config, &request, changes.len()) {
                Ok(generation) => generation,
                Err(error) => {
                    drop(queues);
                    return Err(self.refuse(&request, Failure::Store(error)));
                }
            },
            Some(_) => self.generation + 1,
        };
        let before = Arc::clone(&self.config);
        let before_generation = self.generation;
        self.take_over(config, generation, plan, &mut queues, now);

        self.applies.applied += 1;
        let by = format!("{} by {}", request.comment, request.author);
        match request.confirm {
            None => self.tell_of(Kind::Apply, None, format!("generation {generation}: {by}")),
            Some(confirm) => {
                self.tell_of(
                    Kind::ConfirmWanted,
                    None,
                    format!(
                        "generation {generation}: {by}; it is taken back in {} s unless it is confirmed",
                        confirm.as_secs()
                    ),
                );
                self.pending = Some(Pending {
                    deadline: now + confirm,
                    before,
                    before_generation,
                    since: SystemTime::now(),
                    request,
                    changes: changes.len(),
                });
                self.wake.notify_one();
            }
        }
        let config = Arc::clone(&self.config);
        Ok(ApplyReport {
            generation,
            applied: true,
            changes,
            warnings: self.warnings(&config, false),
        })
    }

    /// Takes up at the start what the store has.
    pub fn take_up(&mut self, config: ValidConfig, generation: u64) {
        let now = Instant::now();
        let mut plan = self.plan(&config);
        let mut queues = self.open_all(&plan.fresh, &mut plan.ports, now);
        self.take_over(config, generation, plan, &mut queues, now);
    }

    /// What becomes of each port's device.
    fn plan(&self, config: &ValidConfig) -> Plan {
        let workers = self.datapath.workers();
        let mut plan = Plan::default();
        for port in config.ports() {
            let name = port.name.as_str();
            let spec = DeviceSpec::of(port, config.switch_of(port), workers);
            let known = self.ports.get(name).filter(|runtime| runtime.spec == spec);
            let mut runtime = match known {
                Some(runtime) => runtime.clone(),
                None => {
                    let mut users = self
                        .ports
                        .iter()
                        .filter(|(_, other)| other.spec.place() == spec.place())
                        .peekable();
                    if users.peek().is_some() {
                        plan.again.push(name.to_owned());
                        plan.close.extend(users.map(|(user, _)| user.clone()));
                    } else {
                        plan.fresh.push(name.to_owned());
                    }
                    Runtime::new(spec)
                }
            };
            runtime.set_enabled(port.enabled);
            plan.ports.insert(name.to_owned(), runtime);
        }
        plan
    }

    fn open_all(
        &mut self,
        names: &[String],
        ports: &mut HashMap<String, Runtime>,
        now: Instant,
    ) -> Vec<(String, Queues)> {
        let mut opened = Vec::new();
        for name in names {
            if let Some(runtime) = ports.get_mut(name)
                && let Some(queues) = self.open(runtime, now)
            {
                opened.push((name.clone(), queues));
            }
        }
        opened
    }

    /// Steps 4 and 5: cannot fail.
    fn take_over(
        &mut self,
        config: ValidConfig,
        generation: u64,
        mut plan: Plan,
        queues: &mut Vec<(String, Queues)>,
        now: Instant,
    ) {
        for name in &plan.close {
            if let Some(mut runtime) = self.ports.remove(name) {
                self.detach(name, &mut runtime);
            }
        }
        queues.extend(self.open_all(&plan.again, &mut plan.ports, now));
        let before = std::mem::replace(&mut self.ports, plan.ports);
        for (name, old) in &before {
            if self.ports.get(name).is_none_or(|new| new.spec != old.spec) {
                self.host.give_back(&old.spec);
            }
        }
        for (name, _) in queues.iter() {
            if let Some(runtime) = self.ports.get(name) {
                self.host.take(&runtime.spec, &self.links);
            }
        }
        // A port whose new device could not be opened must not go on with the old one.
        let opened: BTreeSet<&str> = queues.iter().map(|(name, _)| name.as_str()).collect();
        for name in plan.fresh.iter().filter(|name| !opened.contains(name.as_str())) {
            if before.contains_key(name)
                && let Some(id) = self.registry.port_id(name)
            {
                self.datapath.detach(id);
            }
        }
        let old = std::mem::replace(&mut self.config, Arc::new(config));
        self.generation = generation;
        self.publish(std::mem::take(queues));
        self.place_anew(&old);
        let mut names: Vec<&String> = plan.fresh.iter().chain(&plan.again).collect();
        names.sort();
        for name in names {
            self.tell_state(name);
        }
        self.wake.notify_one();
    }

    /// Moves the queues of ports that are to be served by other workers than before.
    fn place_anew(&self, old: &ValidConfig) {
        let before: HashMap<&str, &[usize]> = old
            .ports()
            .iter()
            .map(|port| (port.name.as_str(), port.workers.as_slice()))
            .collect();
        for port in self.config.ports() {
            let name = port.name.as_str();
            if before.get(name).is_some_and(|workers| *workers != port.workers)
                && let Some(id) = self.registry.port_id(name)
            {
                self.datapath.place(id, &placement(port));
            }
        }
    }

    /// What the administrator should know about a configuration: ports that carry nothing, and what waits for a restart.
    fn warnings(&self, config: &ValidConfig, planned: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if *config.workers() != self.workers {
            warnings.push(format!(
                "`workers` takes effect at the next start of vswitchd; {} run now",
                self.datapath.workers()
            ));
        }
        if let WorkerPlan::Cores(cores) = config.workers() {
            let missing = cores.iter().filter(|core| {
                matches!(
                    std::fs::exists(format!("/sys/devices/system/cpu/cpu{core}")),
                    Ok(false)
                )
            });
            warnings.extend(missing.map(|core| {
                format!("`workers.cores` names core {core}, which this host does not have; its worker will run anywhere")
            }));
        }
        let running = self.datapath.workers();
        for port in config.ports() {
            warnings.extend(without_effect(port).map(|what| format!("port {}: {what}", port.name)));
            if let Some(worker) = port.workers.iter().find(|worker| **worker >= running) {
                warnings.push(format!(
                    "port {} asks for worker {worker}, and {running} run, numbered from 0; worker {} serves it",
                    port.name,
                    worker % running
                ));
            }
            let name = port.name.as_str();
            let reason = match self.ports.get(name) {
                Some(runtime) if !planned => runtime.reason(),
                _ => match DeviceSpec::of(port, config.switch_of(port), self.datapath.workers()) {
                    DeviceSpec::Packet(spec) => missing(&self.links, &spec.device),
                    DeviceSpec::Tap(spec) => missing_netns(&spec).map(|error| error.to_string()),
                    DeviceSpec::VhostUser(_) | DeviceSpec::Stream(_) => None,
                },
            };
            if let Some(reason) = reason.filter(|_| port.enabled) {
                warnings.push(format!("port {name} is down: {reason}"));
            }
        }
        warnings.extend(self.uplink_warnings(config));
        warnings.extend(host_addresses(config).into_iter().map(cut_off));
        warnings
    }

    /// What is amiss with the devices of uplinks.
    fn uplink_warnings(&self, config: &ValidConfig) -> Vec<String> {
        let mut warnings = Vec::new();
        for port in config.ports().iter().filter(|port| port.is_uplink()) {
            let (device, mtu) = (port.attachment.device(), config.switch_of(port).mtu);
            let Some(link) = self.links.named(device) else {
                continue;
            };
            if link.mtu < mtu.into() {
                warnings.push(format!(
                    "uplink {}: the MTU of {device} is {}, and that of the switch {mtu}; longer frames cannot leave: ip link set {device} mtu {mtu}",
                    port.name, link.mtu
                ));
            }
            if let Some(controller) = link.controller {
                let name = self
                    .links
                    .of_index(controller)
                    .map_or("another device", |link| &link.name);
                warnings.push(format!(
                    "uplink {}: {device} is a port of {name}, which forwards its frames too; take it out: ip link set {device} nomaster",
                    port.name
                ));
            }
        }
        warnings
    }

    fn commit(&mut self, config: &ValidConfig, request: &Request, changes: usize) -> Result<u64, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.store.commit(&NewGeneration {
            config: config.config().to_value(),
            unix_millis: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            author: request.author.clone(),
            comment: request.comment.clone(),
            changes,
        })
    }

    /// Keeps the configuration that waits for its confirmation.
    pub fn confirm(&mut self) -> Result<ApplyReport, Failure> {
        let Some(pending) = &self.pending else {
            return Err(Failure::Conflict(
                "no configuration waits for a confirmation".to_owned(),
            ));
        };
        let (request, changes) = (pending.request.clone(), pending.changes);
        let config = Arc::clone(&self.config);
        // On failure it goes on waiting; the old configuration comes back in time.
        self.generation = self.commit(&config, &request, changes)?;
        self.pending = None;
        self.tell_of(
            Kind::Confirmed,
            None,
            format!("generation {} is confirmed", self.generation),
        );
        Ok(ApplyReport {
            generation: self.generation,
            applied: true,
            changes: Vec::new(),
            warnings: self.warnings(&config, false),
        })
    }

    /// Nobody has confirmed in time.
    pub(super) fn expire(&mut self) {
        let generation = self.generation;
        if self.take_back().is_some() {
            let message = format!(
                "generation {generation} was not confirmed in time; generation {} is in force again",
                self.generation
            );
            self.tell_of(Kind::Rollback, None, message);
        }
    }

    /// Puts the configuration before the unconfirmed one in force again; what changed by that.
    fn take_back(&mut self) -> Option<Vec<Change>> {
        let pending = self.pending.take()?;
        let changes = diff(self.config.config(), pending.before.config());
        self.take_up(ValidConfig::clone(&pending.before), pending.before_generation);
        Some(changes)
    }

    /// Applies an older generation again, as a new one. Without a number: the one before; where a configuration waits
    /// for its confirmation, that one is taken back.
    pub fn rollback(&mut self, generation: Option<u64>, author: String) -> Result<ApplyReport, Failure> {
        let back_to = self.pending.as_ref().map(|pending| pending.before_generation);
        if back_to.is_some() {
            if generation.is_none() || generation == back_to {
                let changes = self.withdraw(&author);
                let config = Arc::clone(&self.config);
                return Ok(ApplyReport {
                    generation: self.generation,
                    applied: true,
                    changes,
                    warnings: self.warnings(&config, false),
                });
            }
            if generation == Some(self.generation) {
                return Err(Failure::Conflict(format!(
                    "generation {} is in force and waits for its confirmation; `vswitchctl confirm` keeps it",
                    self.generation
                )));
            }
        }
        let wanted =
            match generation {
                Some(generation) => generation,
                None => self.generation.checked_sub(1).filter(|g| *g > 0).ok_or_else(|| {
                    Failure::Conflict("there is no configuration before this one".to_owned())
                })?,
            };
        // Read before the unconfirmed one is taken back: a rollback to what is not there changes nothing.
        let config = self.stored(wanted)?;
        self.withdraw(&author);
        let report = self.apply(
            config,
            Request {
                author,
                comment: format!("rollback to {wanted}"),
                ..Request::default()
            },
        )?;
        if report.applied {
            let message = format!("generation {} is generation {wanted} again", report.generation);
            self.tell_of(Kind::Rollback, None, message);
        }
        Ok(report)
    }

    /// Takes the unconfirmed configuration back, if there is one, because somebody asked for it.
    fn withdraw(&mut self, author: &str) -> Vec<Change> {
        let unconfirmed = self.generation;
        let Some(changes) = self.take_back() else {
            return Vec::new();
        };
        let message = format!(
            "generation {unconfirmed} was taken back by {author}; generation {} is in force again",
            self.generation
        );
        self.tell_of(Kind::Rollback, None, message);
        changes
    }

    /// How applies ended.
    pub(super) fn apply_counts(&self) -> ApplyCounts {
        self.applies
    }

    /// The configuration that waits for its confirmation.
    pub fn pending(&self) -> Option<PendingConfirm> {
        self.pending.as_ref().map(|pending| PendingConfirm {
            generation: self.generation,
            back_to: pending.before_generation,
            seconds_left: (pending.deadline.duration_since(Instant::now()).as_millis() as u64).div_ceil(1000),
        })
    }
}

/// Settings of a port that do nothing for its kind of device.
fn without_effect(port: &EffectivePort) -> Option<&'static str> {
    match &port.attachment {
        Attachment::Device {
            busy_poll: true,
            driver: Driver::AfPacket,
            ..
        } => Some("`busy-poll` has no effect with `driver: af-packet`; it is for AF_XDP"),
        Attachment::Stream { .. } if port.workers.len() > 1 => {
            Some("a `stream` port is one connection, which one worker serves: the first of `workers`")
        }
        _ => None,
    }
}

/// Devices of a configuration that the host itself has been using, each with its port and the host's addresses there.
fn host_addresses(config: &ValidConfig) -> Vec<(&EffectivePort, String)> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = entry.address else { continue };
        let text = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().to_string(),
            // Link-local addresses are the kernel's own doing.
            (_, Some(v6)) if !v6.ip().is_unicast_link_local() => v6.ip().to_string(),
            _ => continue,
        };
        found.entry(entry.interface_name).or_default().insert(text);
    }
    let devices = config.ports().iter().filter_map(|port| match &port.attachment {
        Attachment::Device { device, .. } => Some((port, found.get(device.as_str())?)),
        _ => None,
    });
    devices
        .map(|(port, addresses)| {
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            (port, addresses.join(", "))
        })
        .collect()
}

/// The host will not be reached by these addresses any more.
fn cut_off((port, addresses): (&EffectivePort, String)) -> String {
    let what = if port.is_uplink() { "uplink" } else { "port" };
    format!(
        "{what} {} takes device {}, which has addresses of this host ({addresses}); while it is {}, the host is not reached by them",
        port.name,
        port.attachment.device(),
        if port.is_uplink() { "an uplink" } else { "a port" },
    )
}

/// Why a device that nobody has tried to attach yet would carry nothing.
fn missing(links: &Links, device: &str) -> Option<String> {
    match links.named(device) {
        Some(link) => link.trouble(),
        None => Some(
            OpenError::Missing {
                device: device.to_owned(),
            }
            .to_string(),
        ),
    }
}
