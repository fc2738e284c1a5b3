//! The start, the tasks and the end of `vswitchd`.
//!
//! Threads: the datapath's workers, and one for everything here (a tokio runtime of one thread). Tasks of that thread:
//! the API, Prometheus, netlink, the workers' events, deadlines, signals. If one of them ends or panics the daemon
//! stops in good order with an error, so that whoever supervises it starts it again; a panic while one request is
//! answered costs that connection.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datapath::{Datapath, StartError};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::auth::Authority;
use crate::api::handlers::App;
use crate::api::model::Problem;
use crate::api::routes;
use crate::api::server::{ListenError, Socket, listen_tcp, serve_tcp};
use crate::config::diff::diff;
use crate::config::{ValidConfig, text};
use crate::daemon::{
    ConfigFile, Daemon, Failure, HostSettings, Kernel, NETNS_DIR, Parts, Shared, count_errors,
};
use crate::descriptors;
use crate::events::{EventLog, Kind};
use crate::links::{LinkError, Monitor};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// How long to wait before netdevs are listed again, after that failed.
const LIST_AGAIN: Duration = Duration::from_secs(1);

/// How long a namespace may take from its name to itself.
const NETNS_SETTLES: Duration = Duration::from_millis(50);

/// What `vswitchd` was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file.
    pub config: PathBuf,
    /// The file was named by the administrator, so it must be there.
    pub config_named: bool,
    /// The state directory.
    pub state: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Its permissions.
    pub socket_mode: u32,
    /// Where Prometheus asks; `None`: nowhere.
    pub metrics: Option<String>,
}

/// Why the daemon does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file has errors.
    #[error("{} has {}; nothing was changed", .path.display(), count_errors(.problems.len()))]
    Config {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
        /// All errors.
        problems: Vec<Problem>,
    },
    /// The stored configuration is not right for this version.
    #[error(
        "generation {generation} in the store has {}, the first being {}: {}; give a right configuration with --config, or move {} away to begin without history",
        count_errors(.problems.len()), .problems[0].path, .problems[0].message, .path.display()
    )]
    Stored {
        /// Which.
        generation: u64,
        /// The store.
        path: PathBuf,
        /// All errors; at least one.
        problems: Vec<Problem>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The workers.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Netlink.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// The first apply.
    #[error(transparent)]
    Apply(#[from] Failure),
    /// Signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signals(#[source] io::Error),
    /// The metrics cannot be made.
    #[error("the metrics cannot be made: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A task ended that must not.
    #[error("an inner part of vswitchd has failed ({0}); the configuration is kept for the next start")]
    Task(String),
}

/// What the start takes up.
struct Choice {
    /// What the store has, if anything.
    stored: Option<(ValidConfig, u64)>,
    /// What the file says, if it counts.
    file: Option<ValidConfig>,
}

/// Reads the file; `None` if it is not there and need not be.
fn read_file(settings: &Settings, file: &ConfigFile) -> Result<Option<String>, RunError> {
    match file.read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !settings.config_named => Ok(None),
        Err(source) => Err(RunError::File {
            path: settings.config.clone(),
            source,
        }),
    }
}

/// Reads and validates the text of a configuration file.
pub fn load_file(path: &Path, text: String) -> Result<ValidConfig, RunError> {
    text::load(&text).map_err(|problems| RunError::Config {
        path: path.to_owned(),
        text,
        problems,
    })
}

fn choose(settings: &Settings, file: &ConfigFile, store: &Store) -> Result<Choice, RunError> {
    let said = match read_file(settings, file)? {
        Some(text) => Some(load_file(&settings.config, text)?),
        None => None,
    };
    let Some(current) = store.current()? else {
        return Ok(Choice {
            stored: None,
            file: said,
        });
    };
    let generation = current.summary.generation;
    let (changed, unchanged) = match said {
        Some(config) if file.has_changed(&config) => (Some(config), None),
        said => (None, said),
    };
    match text::load_value(&current.config) {
        Ok(stored) => {
            // Whoever names a file expects to see it in force.
            if unchanged.is_some_and(|said| !diff(stored.config(), said.config()).is_empty()) {
                let path = settings.config.display();
                tracing::warn!(
                    "generation {generation} is taken up, not {path}, which is as it was when it was last applied; \
                     `vswitchctl apply -f {path}` puts it in force"
                );
            }
            Ok(Choice {
                stored: Some((stored, generation)),
                file: changed,
            })
        }
        // A file that counts replaces what this version can't read.
        Err(_) if changed.is_some() => Ok(Choice {
            stored: None,
            file: changed,
        }),
        Err(problems) => Err(RunError::Stored {
            generation,
            path: settings.state.clone(),
            problems,
        }),
    }
}

/// Unknown to guests, another at each start.
fn seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// Runs until a signal or an error ends it.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    descriptors::raise_limit();
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let store = Store::open(&settings.state)?;
    let file = ConfigFile::new(&settings.config, &settings.state);
    let choice = choose(&settings, &file, &store)?;
    let authority = Authority::of_host();
    // Before any port: whatever ports take, there is a way to say less.
    let socket = Socket::bind(&settings.socket, settings.socket_mode, &authority)?;
    let tcp = match &settings.metrics {
        Some(address) => Some(listen_tcp(address).await?),
        None => None,
    };
    let (monitor, links) = Monitor::start().await?;

    let happened = Arc::new(Notify::new());
    let in_force = choice
        .file
        .as_ref()
        .or(choice.stored.as_ref().map(|(config, _)| config));
    let workers = in_force.map_or_else(
        || ValidConfig::empty().workers().clone(),
        |config| config.workers().clone(),
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let datapath = Datapath::start(&workers.options(cores), {
        let happened = Arc::clone(&happened);
        Box::new(move || happened.notify_one())
    })?;
    let events = Arc::new(EventLog::default());
    let mut daemon = Daemon::new(Parts {
        datapath: Arc::new(datapath),
        opener: Box::new(Kernel::default()),
        store: Box::new(store),
        events: Arc::clone(&events),
        links,
        host: HostSettings::recover(&settings.state),
        memory: settings.state.join("memory.json"),
        file: Some(file),
        workers,
        seed: seed(),
    });
    events.push(Kind::Start, None, "vswitchd has started".to_owned());
    daemon.start(choice.stored, choice.file)?;
    let daemon = Shared::new(daemon);

    let metrics = Metrics::new(Box::new({
        let daemon = daemon.clone();
        move || daemon.lock().sample()
    }))?;
    let app = App {
        daemon: daemon.clone(),
        events,
        metrics: Arc::new(metrics),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(socket, app.clone(), authority));
    if let Some(tcp) = tcp {
        tasks.spawn(async move {
            serve_tcp(tcp, routes::metrics_router(app)).await;
            "the listener for Prometheus ended".to_owned()
        });
    }
    tasks.spawn(watch_links(monitor, daemon.clone()));
    tasks.spawn(watch_namespaces(daemon.clone()));
    tasks.spawn(watch_workers(happened, daemon.clone()));
    tasks.spawn(keep_deadlines(daemon.clone()));
    notify_supervisor(&[sd_notify::NotifyState::Ready]);
    tracing::info!(socket = %settings.socket.display(), "ready");

    let result = loop {
        tokio::select! {
            ended = tasks.join_next() => break Err(RunError::Task(match ended {
                Some(Ok(why)) => why,
                Some(Err(error)) => error.to_string(),
                None => "no task is left".to_owned(),
            })),
            signal = signals.next() => match signal {
                Asked::Stop => break Ok(()),
                Asked::Reload => daemon.lock().reload(),
            },
        }
    };
    notify_supervisor(&[sd_notify::NotifyState::Stopping]);
    // The API ends first: its socket goes, and nobody changes anything any more.
    tasks.shutdown().await;
    daemon.lock().stop();
    result
}

async fn serve(socket: Socket, app: App, authority: Authority) -> String {
    socket.serve(routes::router(app), authority).await;
    "the API's listener ended".to_owned()
}

async fn watch_links(mut monitor: Monitor, daemon: Shared) -> String {
    loop {
        match monitor.next().await {
            Ok(changes) if changes.is_empty() => return "netlink was closed".to_owned(),
            Ok(changes) => daemon.lock().links_changed(changes),
            Err(error) => {
                tracing::warn!("{error}; it is tried again");
                tokio::time::sleep(LIST_AGAIN).await;
            }
        }
    }
}

/// Named namespaces come and go without a word on netlink. Where they cannot be watched, they are looked at in the sweep.
async fn watch_namespaces(daemon: Shared) -> String {
    if let Err(error) = follow_namespaces(&daemon).await {
        tracing::warn!("{NETNS_DIR} cannot be watched: {error}");
    }
    std::future::pending().await
}

async fn follow_namespaces(daemon: &Shared) -> io::Result<()> {
    let dir = Path::new(NETNS_DIR);
    let named = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let mut watched = inotify.add_watch(dir, named).is_ok();
    if !watched {
        // The directory is made with the first name.
        inotify.add_watch(dir.parent().unwrap_or(dir), AddWatchFlags::IN_CREATE)?;
    }
    #[expect(
        deprecated,
        reason = "what it warns of, a descriptor that changes hands, an `OwnedFd` cannot do"
    )]
    let readiness = AsyncFd::new(inotify.as_fd().try_clone_to_owned()?)?;
    loop {
        let mut ready = readiness.readable().await?;
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        ready.clear_ready();
        if !watched {
            watched = inotify.add_watch(dir, named).is_ok();
        }
        // `ip netns add` makes the name first and the namespace after it.
        tokio::time::sleep(NETNS_SETTLES).await;
        daemon.lock().names_changed();
    }
}

async fn watch_workers(happened: Arc<Notify>, daemon: Shared) -> String {
    loop {
        happened.notified().await;
        daemon.lock().take_events();
    }
}

async fn keep_deadlines(daemon: Shared) -> String {
    let wake = Arc::clone(daemon.lock().wake());
    loop {
        let deadline = daemon.lock().deadline();
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => daemon.lock().tick(),
            () = wake.notified() => {}
        }
    }
}

fn notify_supervisor(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the supervisor was not told: {error}");
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewGeneration;

    const FILE: &str = "version: 1\nswitches: { vs0: { mtu: 1500 } }\n";
    const STORED: &str = "version: 1\nswitches: { vs0: { mtu: 9000 } }\n";

    struct Place {
        settings: Settings,
        file: ConfigFile,
        store: Store,
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new(named: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let settings = Settings {
                config: dir.path().join("switch.yaml"),
                config_named: named,
                state: dir.path().to_owned(),
                socket: dir.path().join("ctl.sock"),
                socket_mode: 0o600,
                metrics: None,
            };
            Self {
                file: ConfigFile::new(&settings.config, &settings.state),
                store: Store::open(&settings.state).unwrap(),
                settings,
                dir,
            }
        }

        fn store(&self, config: serde_json::Value) {
            let new = NewGeneration {
                config,
                unix_millis: 0,
                author: "uid 0".to_owned(),
                comment: "apply".to_owned(),
                changes: 1,
            };
            self.store.commit(&new).unwrap();
        }

        /// The MTU of the stored configuration and that of the file, as far as they count.
        fn chosen(&self) -> Result<(Option<u16>, Option<u16>), RunError> {
            let choice = choose(&self.settings, &self.file, &self.store)?;
            let mtu = |config: &ValidConfig| config.switches()[0].mtu;
            Ok((
                choice.stored.as_ref().map(|(config, _)| mtu(config)),
                choice.file.as_ref().map(mtu),
            ))
        }

        fn write(&self, text: &str) {
            std::fs::write(self.dir.path().join("switch.yaml"), text).unwrap();
        }
    }

    fn value(text: &str) -> serde_json::Value {
        text::load(text).unwrap().config().to_value()
    }

    #[test]
    fn the_file_counts_when_it_is_new_and_when_it_was_edited() {
        let place = Place::new(false);
        assert_eq!(place.chosen().unwrap(), (None, None));
        place.write(FILE);
        assert_eq!(place.chosen().unwrap(), (None, Some(1500)));
        place.file.note(&text::load(FILE).unwrap());
        place.store(value(STORED));
        assert_eq!(place.chosen().unwrap(), (Some(9000), None));
        place.write(&FILE.replace("1500", "1600"));
        assert_eq!(place.chosen().unwrap(), (Some(9000), Some(1600)));
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        assert!(matches!(Place::new(true).chosen(), Err(RunError::File { .. })));
    }

    #[test]
    fn a_wrong_file_stops_the_start_even_if_the_store_is_right() {
        let place = Place::new(false);
        place.store(value(STORED));
        place.write("version: 1\nswitches: { vs0: { mtu: 1 }, vs1: { mtuu: 1500 } }\n");
        match place.chosen() {
            Err(RunError::Config { problems, .. }) => assert_eq!(problems.len(), 2, "{problems:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stored_configuration_that_is_wrong_by_now_is_named() {
        let place = Place::new(false);
        place.store(serde_json::json!({ "version": 1, "switches": { "vs0": { "mtu": 1 } } }));
        let error = place.chosen().unwrap_err();
        let sentence = error.to_string();
        assert!(
            sentence.contains("generation 1") && sentence.contains("switches.vs0.mtu"),
            "{sentence}"
        );
        // A file that counts is the way out.
        place.write(FILE);
        assert_eq!(place.chosen().unwrap(), (None, Some(1500)));
    }
}
