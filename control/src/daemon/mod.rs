//! The daemon: it joins what the owner wants (configuration, store) to what is (devices, netlink) and publishes the
//! result to the workers.
//!
//! Threads: everything here runs on the one thread of the event loop. [`Shared`] is a lock only because the API's
//! library asks for `Send`; it is never contended and never held across an `await`, so there is one apply at a time,
//! and a view always sees a whole state. The workers are reached through [`Datapath`], which waits for them at most the
//! length of a batch.
//!
//! Nothing runs periodically but the sweep of the MAC tables ([`SWEEP`]); everything else waits for an event or for the
//! earliest of its deadlines ([`Daemon::deadline`]).

mod aggregates;
mod announce;
mod apply;
mod edit;
mod file;
mod host;
mod memory;
mod migrate;
mod moves;
mod ports;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datapath::{Closing, Datapath, Event};
use switch_core::id::PortId;
use switch_core::snapshot::Snapshot;
use switch_core::team::Role;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::apply::Request;
pub use self::file::ConfigFile;
pub use self::host::HostSettings;
pub use self::ports::{DeviceSpec, Kernel, NETNS_DIR, Opener};
pub use self::views::TraceError;

use self::announce::Announcer;
use self::apply::Pending;
use self::memory::{Memory, Remembered};
use self::migrate::Imports;
use self::moves::{Move, MoveLog, Told};
use self::ports::Runtime;
use crate::api::model::Problem;
use crate::config::units::Name;
use crate::config::validate::WorkerPlan;
use crate::config::{Registry, ValidConfig, compile};
use crate::events::{EventLog, Kind};
use crate::lacp::Aggregate;
use crate::links::{Change, Links};
use crate::metrics::ApplyCounts;
use crate::store::{Generation, NewGeneration, Store, StoreError, Summary};
use crate::teams::{Changed, Teams};

/// How often MAC addresses that nobody uses any more are taken out of the tables (lookups look at the age themselves;
/// this only frees the room), and that namespaces named by a path, and our sockets, are looked at.
pub const SWEEP: Duration = Duration::from_secs(5);

/// How often the load of the workers is looked at, where there are several. A queue moves at the second look at the earliest.
const BALANCE: Duration = Duration::from_secs(5);

/// Why the daemon does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such port, group, generation.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// The configuration has errors; nothing was changed.
    #[error("the configuration has {}; nothing was changed", count_errors(.0.len()))]
    Invalid(Vec<Problem>),
    /// The store failed; nothing was changed.
    #[error("the configuration cannot be stored, and nothing was changed: {0}")]
    Store(#[from] StoreError),
    /// The history cannot be read.
    #[error("{0}")]
    Read(#[source] StoreError),
}

/// `an error`, `2 errors`.
pub(crate) fn count_errors(count: usize) -> String {
    if count == 1 {
        "an error".to_owned()
    } else {
        format!("{count} errors")
    }
}

/// Where the desired state and its history are kept: the embedded [`Store`], but for tests.
pub trait Generations: Send {
    /// Commits a generation; returns its number once it is durable.
    fn commit(&self, new: &NewGeneration) -> Result<u64, StoreError>;
    /// One generation.
    fn get(&self, generation: u64) -> Result<Option<Generation>, StoreError>;
    /// All generations kept, the newest first.
    fn history(&self) -> Result<Vec<Summary>, StoreError>;
}

impl Generations for Store {
    fn commit(&self, new: &NewGeneration) -> Result<u64, StoreError> {
        self.commit(new)
    }

    fn get(&self, generation: u64) -> Result<Option<Generation>, StoreError> {
        self.get(generation)
    }

    fn history(&self) -> Result<Vec<Summary>, StoreError> {
        self.history()
    }
}

/// The daemon, shared by the tasks of the event loop.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Daemon>>);

impl Shared {
    /// Shares a daemon.
    pub fn new(daemon: Daemon) -> Self {
        Self(Arc::new(Mutex::new(daemon)))
    }

    /// The daemon, for as long as no `await` comes.
    pub fn lock(&self) -> MutexGuard<'_, Daemon> {
        // After a panic in one request the others go on: the snapshot in force is whole in any case, and what the
        // panic left undone is done by the next apply, which compares with what is attached.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What runs.
pub struct Daemon {
    datapath: Arc<Datapath>,
    opener: Box<dyn Opener>,
    store: Box<dyn Generations>,
    events: Arc<EventLog>,
    /// Told when [`Daemon::deadline`] may have come nearer.
    wake: Arc<Notify>,
    config: Arc<ValidConfig>,
    /// Of the configuration in force.
    generation: u64,
    /// The configuration in force is not confirmed yet.
    pending: Option<Pending>,
    /// Number of the last snapshot; grows with each.
    snapshots: u64,
    registry: Registry,
    /// The workers that the datapath was started with.
    workers: WorkerPlan,
    ports: HashMap<String, Runtime>,
    links: Links,
    host: HostSettings,
    file: Option<ConfigFile>,
    applies: ApplyCounts,
    moves: MoveLog,
    teams: Teams,
    announcer: Announcer,
    /// By switch, where there is LACP.
    aggregates: HashMap<Name, Aggregate>,
    /// The uplinks that are in use by agreement, as last settled.
    agreed: BTreeSet<String>,
    imports: Imports,
    memory: Memory,
    /// Events of the workers that were lost, as last told.
    lost_events: u64,
    next_sweep: Instant,
    /// When the workers' load is looked at next; never with one worker.
    next_balance: Option<Instant>,
    /// What the queues of each port that is attached were opened for.
    open_specs: HashMap<PortId, DeviceSpec>,
    /// Devices that are being closed.
    closing: Vec<(DeviceSpec, Closing)>,
}

/// The parts of a daemon.
pub struct Parts {
    /// The running datapath, without ports.
    pub datapath: Arc<Datapath>,
    /// Opens the devices.
    pub opener: Box<dyn Opener>,
    /// The configurations.
    pub store: Box<dyn Generations>,
    /// Where to say what happens.
    pub events: Arc<EventLog>,
    /// The netdevs.
    pub links: Links,
    /// What is changed on the host's own side of devices.
    pub host: HostSettings,
    /// Where is written down what is remembered over a restart beside the configuration.
    pub memory: PathBuf,
    /// The configuration file, which is applied again on demand.
    pub file: Option<ConfigFile>,
    /// The workers that the datapath was started with.
    pub workers: WorkerPlan,
    /// Secret seed of the MAC tables.
    pub seed: u64,
}

impl Daemon {
    /// A daemon without a configuration.
    pub fn new(parts: Parts) -> Self {
        let memory = Memory::open(parts.memory);
        let remembered = memory.remembered();
        let mut registry = Registry::new(parts.seed);
        registry.remember_activated(remembered.activated.iter().map(String::as_str));
        let next_balance = (parts.datapath.workers() > 1).then(|| Instant::now() + BALANCE);
        Self {
            datapath: parts.datapath,
            opener: parts.opener,
            store: parts.store,
            events: parts.events,
            wake: Arc::default(),
            config: Arc::new(ValidConfig::empty()),
            generation: 0,
            pending: None,
            snapshots: 0,
            registry,
            workers: parts.workers,
            ports: HashMap::new(),
            links: parts.links,
            host: parts.host,
            file: parts.file,
            applies: ApplyCounts::default(),
            moves: MoveLog::default(),
            announcer: Announcer::new(&remembered.teams),
            aggregates: HashMap::new(),
            agreed: BTreeSet::new(),
            imports: Imports::default(),
            teams: Teams::new(remembered.teams.clone()),
            memory,
            lost_events: 0,
            next_sweep: Instant::now() + SWEEP,
            next_balance,
            open_specs: HashMap::new(),
            closing: Vec::new(),
        }
    }

    /// Where it says what happens.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.events
    }

    /// Told when [`Daemon::deadline`] may have come nearer.
    pub fn wake(&self) -> &Arc<Notify> {
        &self.wake
    }

    /// When [`Daemon::tick`] has something to do.
    pub fn deadline(&self) -> Instant {
        let retries = self.ports.values().filter_map(Runtime::retry_at);
        let confirm = self.pending.as_ref().map(|pending| pending.deadline);
        retries
            .chain(confirm)
            .chain(self.moves.deadline())
            .chain(self.teams.deadline())
            .chain(self.announcer.deadline())
            .chain(self.aggregates_due(Instant::now()))
            .chain(self.next_balance)
            .fold(self.next_sweep, Ord::min)
    }

    /// Does what is due: goes back from an unconfirmed configuration, opens devices again, settles teams, announces, sweeps the MAC tables.
    pub fn tick(&mut self) {
        let now = Instant::now();
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.deadline <= now)
        {
            self.expire();
        }
        for told in self.moves.take_due(now) {
            self.tell_move(told);
        }
        self.reconcile(now);
        let agreed = self.tick_aggregates(now);
        if agreed || self.teams.deadline().is_some_and(|due| due <= now) {
            self.publish(Vec::new());
        }
        self.announcer.send(&self.datapath, now);
        if self.next_balance.is_some_and(|next| next <= now) {
            self.next_balance = Some(now + BALANCE);
            self.rebalance();
        }
        if self.next_sweep <= now {
            self.next_sweep = now + SWEEP;
            self.sweep();
            // An event of a worker may have been lost.
            if self
                .config
                .ports()
                .iter()
                .any(|port| self.registry.has_woken(port))
            {
                self.publish(Vec::new());
            }
            self.names_changed();
        }
    }

    fn sweep(&mut self) {
        let now = self.datapath.now();
        for switch in self.config.switches() {
            if let Some(fdb) = self.registry.fdb(switch.name.as_str()) {
                fdb.age(now, switch.ageing);
            }
        }
    }

    /// Takes changes of the netdevs up.
    pub fn links_changed(&mut self, changes: Vec<Change>) {
        let mut differs = false;
        for change in changes {
            match &change {
                Change::New(link) => self.ports.values_mut().for_each(|port| port.tell(&link.name)),
                Change::All(_) => self.ports.values_mut().for_each(Runtime::tell_all),
                Change::Gone { .. } => {}
            }
            differs |= self.links.apply(change);
        }
        if differs {
            self.reconcile(Instant::now());
        }
    }

    /// Takes the events of the workers.
    pub fn take_events(&mut self) {
        let (mut failed, mut changed) = (false, false);
        let now = Instant::now();
        while let Some(event) = self.datapath.try_event() {
            match event {
                Event::MacMoved { vid, mac, from, to } => {
                    let moved = Move { vid, mac, from, to };
                    if let Some(told) = self.moves.moved(now, moved) {
                        self.tell_move(told);
                    }
                }
                Event::Peer { peer, state } => changed |= self.peer_told(peer, state),
                Event::PortFailed { port, errno } => {
                    self.port_failed(port, errno, now);
                    failed = true;
                }
                Event::SendFailed { port, errno } => {
                    let message = format!(
                        "sending to {} fails: {}",
                        self.port_name(port),
                        std::io::Error::from_raw_os_error(errno)
                    );
                    self.tell(Kind::SendFailed, Some(port), message);
                }
                Event::Activated { .. } => changed = true,
                Event::Slow { port, frame } => changed |= self.slow_received(port, &frame, now),
                Event::LeftAlone { port, times } => {
                    let message = format!(
                        "the guest of {} kept the switch waiting for its memory for {} ms; it is left alone for {} ms",
                        self.port_name(port),
                        times.waited.as_millis(),
                        times.rest.as_millis()
                    );
                    self.tell(Kind::LeftAlone, Some(port), message);
                }
            }
        }
        // A window of moves may have begun.
        self.wake.notify_one();
        let lost = self.datapath.lost_events();
        if lost > self.lost_events {
            let message = format!("{} events of the workers were lost", lost - self.lost_events);
            self.tell_of(Kind::Lost, None, message);
            self.lost_events = lost;
        }
        if changed {
            self.publish(Vec::new());
        }
        if failed {
            self.reconcile(now);
        }
    }

    fn tell_move(&self, told: Told) {
        let seconds = moves::WINDOW.as_secs();
        let (moved, message) = match told {
            Told::First(moved) => {
                let (from, to) = (self.port_name(moved.from), self.port_name(moved.to));
                (moved, format!("{moved} moved from {from} to {to}"))
            }
            Told::More(moved, count) => {
                let (from, to) = (self.port_name(moved.from), self.port_name(moved.to));
                let times = if count == 1 {
                    "once"
                } else {
                    &format!("{count} times")
                };
                (
                    moved,
                    format!("{moved} moved {times} in {seconds} s between {from} and {to}"),
                )
            }
            Told::Others(moved, count) => (
                moved,
                format!(
                    "other addresses moved in {seconds} s (moves seen: {count}), the last to {}: {moved}",
                    self.port_name(moved.to)
                ),
            ),
        };
        self.tell(Kind::MacMoved, Some(moved.to), message);
    }

    fn tell(&self, kind: Kind, port: Option<PortId>, message: String) {
        let port = port.map(|port| self.port_name(port));
        self.tell_of(kind, port.as_deref(), message);
    }

    fn tell_of(&self, kind: Kind, port: Option<&str>, message: String) {
        match kind {
            Kind::PortDown | Kind::SendFailed | Kind::ApplyFailed | Kind::Lost => tracing::warn!("{message}"),
            Kind::MacMoved => tracing::debug!("{message}"),
            _ => tracing::info!("{message}"),
        }
        self.events.push(kind, port, message);
    }

    /// The name of a port, or its number if it is gone.
    pub fn port_name(&self, id: PortId) -> String {
        match self.registry.port_name(id) {
            Some(name) => name.as_str().to_owned(),
            None => format!("port number {}", id.get()),
        }
    }

    /// Compiles the configuration in force with the state of its ports, and gives it to the workers.
    /// `queues` are those of ports that are new to the datapath.
    fn publish(&mut self, queues: Vec<(String, ports::Queues)>) {
        self.snapshots += 1;
        let now = Instant::now();
        self.tell_activated();
        self.look_at_aggregates(now);
        let ports = &self.ports;
        let up = |name: &str| ports.get(name).is_some_and(Runtime::is_up);
        let agreed: BTreeSet<String> = self.uplinks_agreed();
        let usable = |name: &str| up(name) && agreed.contains(name);
        let changed = self.teams.update(&self.config, &usable, now);
        let snapshot = compile(&self.config, self.snapshots, &mut self.registry, &up, &self.teams);
        for (name, queues) in queues {
            if let Some(id) = self.registry.port_id(&name) {
                let placement = self.config.port(&name).map(ports::placement);
                self.datapath
                    .attach_to(id, queues, &placement.unwrap_or_default());
                if let Some(runtime) = self.ports.get(&name) {
                    self.open_specs.insert(id, runtime.spec.clone());
                }
            }
        }
        let before = self.datapath.snapshot();
        let snapshot = Arc::new(snapshot);
        self.datapath.publish(Arc::clone(&snapshot));
        self.announce(&before, &snapshot, now);
        let config = Arc::clone(&self.config);
        self.imports.retain(|name| config.port(name).is_some());
        self.take_up_imports();
        changed.iter().for_each(|changed| self.tell_team(changed));
        self.memory.remember(Remembered {
            teams: self.teams.memory().clone(),
            activated: self.registry.activated(),
        });
        let gone = self.registry.settle();
        self.retire(&gone);
        self.announcer.forget(&gone);
        for gone in gone {
            self.datapath.reset_stats(gone);
            self.registry.release(gone);
        }
    }

    /// Says whose guests have announced themselves since the last snapshot.
    fn tell_activated(&self) {
        for port in self.config.ports() {
            if self.registry.has_woken(port) {
                let name = port.name.as_str();
                let message = format!("the guest of {name} has announced itself; the port is active");
                self.tell_of(Kind::Activated, Some(name), message);
            }
        }
    }

    /// Announces what is reached by another uplink than before.
    fn announce(&mut self, before: &Snapshot, after: &Snapshot, now: Instant) {
        if after.ports().all(|port| port.role != Role::Outside) {
            return;
        }
        let Self {
            announcer,
            config,
            datapath,
            registry,
            teams,
            ..
        } = self;
        let wants = |id: PortId| {
            let port = config.port(registry.port_name(id)?.as_str())?;
            let team = teams.team(&config.switch_of(port).name, port.group.as_ref()?)?;
            team.notifies().then_some(port)
        };
        announcer.compare(before, after, datapath, wants, teams);
        announcer.send(datapath, now);
        self.wake.notify_one();
    }

    /// Says in the event log that a team uses other uplinks.
    fn tell_team(&self, changed: &Changed) {
        let names = |names: &[Name]| match names {
            [] => "no uplink".to_owned(),
            [name] => format!("the uplink {name}"),
            names => format!(
                "the uplinks {}",
                names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
            ),
        };
        let gone = changed.before.iter().filter(|name| !changed.now.contains(name));
        let (switch, group) = &changed.team;
        let reasons = gone.filter_map(|name| {
            let name = name.as_str();
            if let Some(reason) = self.ports.get(name)?.reason() {
                return Some(format!("; {name} is down: {reason}"));
            }
            // Its link is up, but its neighbour is not.
            let lacp = self.aggregates.get(switch)?.describe(name)?;
            Some(format!("; {name}: {lacp}"))
        });
        let message = format!(
            "port group {group} of {switch} uses {}, before: {}{}",
            names(&changed.now),
            names(&changed.before),
            reasons.collect::<String>()
        );
        self.tell_of(Kind::TeamChanged, None, message);
    }

    /// Moves a queue to another worker if that relieves one that is short of time.
    fn rebalance(&self) {
        if let Some((port, queue, worker)) = self.datapath.rebalance() {
            let message = format!(
                "queue {queue} of {} is served by worker {worker} from now on",
                self.port_name(port)
            );
            self.tell(Kind::QueueMoved, Some(port), message);
        }
    }

    /// Waits for the devices that are being closed in the background.
    fn wait_closed(&self) {
        self.closing.iter().for_each(|(_, closing)| closing.wait());
    }

    /// Gives everything back as it was found. The store keeps the configuration for the next start.
    pub fn stop(&mut self) {
        self.tell_of(Kind::Stop, None, "vswitchd stops".to_owned());
        if self.pending.is_some() {
            tracing::warn!(
                "generation {} was not confirmed; the next start takes up the one before",
                self.generation
            );
        }
        // The next start goes on from what is written down now.
        self.memory.close();
        self.config = Arc::new(ValidConfig::empty());
        self.ports.clear();
        self.publish(Vec::new());
        // What was changed on devices is put back when they are closed.
        self.wait_closed();
        self.host.restore_all();
    }
}
