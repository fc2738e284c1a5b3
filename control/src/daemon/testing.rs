//! A daemon over a real datapath and a real store, whose devices are fakes that say in a log what is done to them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use datapath::frame::Frame;
use datapath::io::{OpenError, Outgoing, PeerSink, Queue};
use datapath::pool::Pool;
use datapath::{Datapath, Options};
use switch_core::offload::Capabilities;

use super::ports::Queues;
use super::{Daemon, DeviceSpec, Generations, HostSettings, Opener, Parts};
use crate::config::validate::WorkerPlan;
use crate::events::EventLog;
use crate::links::{Link, Links};
use crate::store::{Generation, NewGeneration, Store, StoreError, Summary};

/// What was done, in order.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// A queue that never has frames.
struct FakeQueue {
    name: String,
    log: Log,
    ours: UnixStream,
    _theirs: UnixStream,
}

impl Queue for FakeQueue {
    fn receive(&mut self, _: &mut Pool, _: &mut Vec<Frame>) -> io::Result<bool> {
        Ok(false)
    }

    fn transmit(&mut self, _: &mut [Frame], _: &mut [Outgoing]) {}

    fn readiness(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        self.log.lock().unwrap().push(format!("close {}", self.name));
    }
}

struct FakeOpener {
    log: Log,
    busy: Arc<Mutex<HashSet<String>>>,
    missing: Arc<Mutex<HashSet<String>>>,
    peers: Arc<Mutex<HashMap<String, PeerSink>>>,
}

impl Opener for FakeOpener {
    fn open(&self, spec: &DeviceSpec, peer: PeerSink) -> Result<Queues, OpenError> {
        let device = spec.place().to_string();
        if self.busy.lock().unwrap().contains(&device) {
            return Err(OpenError::Busy { device });
        }
        if self.missing.lock().unwrap().contains(&device) {
            return Err(OpenError::Missing { device });
        }
        self.log.lock().unwrap().push(format!("open {device}"));
        self.peers.lock().unwrap().insert(device.clone(), peer);
        let (ours, theirs) = UnixStream::pair().unwrap();
        Ok(vec![Box::new(FakeQueue {
            name: device,
            log: Arc::clone(&self.log),
            ours,
            _theirs: theirs,
        })])
    }
}

/// A store that says in the log when it commits and which snapshot is in force then, and fails when told to.
struct LoggedStore {
    store: Store,
    log: Log,
    fail: Arc<Mutex<bool>>,
    datapath: Arc<Datapath>,
}

impl Generations for LoggedStore {
    fn commit(&self, new: &NewGeneration) -> Result<u64, StoreError> {
        let ports = self.datapath.snapshot().ports().count();
        self.log
            .lock()
            .unwrap()
            .push(format!("commit with {ports} ports in force"));
        if *self.fail.lock().unwrap() {
            return Err(StoreError::Io {
                path: self.store.path().to_owned(),
                doing: "written",
                what: "no space left on device".to_owned(),
            });
        }
        self.store.commit(new)
    }

    fn get(&self, generation: u64) -> Result<Option<Generation>, StoreError> {
        self.store.get(generation)
    }

    fn history(&self) -> Result<Vec<Summary>, StoreError> {
        self.store.history()
    }
}

/// A daemon and what a test holds of it.
pub(crate) struct World {
    pub(crate) daemon: Daemon,
    pub(crate) log: Log,
    pub(crate) busy: Arc<Mutex<HashSet<String>>>,
    pub(crate) missing: Arc<Mutex<HashSet<String>>>,
    /// By what was opened.
    pub(crate) peers: Arc<Mutex<HashMap<String, PeerSink>>>,
    pub(crate) fail: Arc<Mutex<bool>>,
    pub(crate) datapath: Arc<Datapath>,
    pub(crate) state: tempfile::TempDir,
}

impl World {
    /// A daemon without a configuration.
    pub(crate) fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let log = Log::default();
        let busy = Arc::default();
        let missing = Arc::default();
        let peers = Arc::default();
        let fail = Arc::new(Mutex::new(false));
        let options = Options {
            workers: 1,
            cores: Vec::new(),
        };
        let datapath = Arc::new(Datapath::start(&options, Box::new(|| {})).unwrap());
        let daemon = Daemon::new(Parts {
            datapath: Arc::clone(&datapath),
            opener: Box::new(FakeOpener {
                log: Arc::clone(&log),
                busy: Arc::clone(&busy),
                missing: Arc::clone(&missing),
                peers: Arc::clone(&peers),
            }),
            store: Box::new(LoggedStore {
                store: Store::open(state.path()).unwrap(),
                log: Arc::clone(&log),
                fail: Arc::clone(&fail),
                datapath: Arc::clone(&datapath),
            }),
            events: Arc::new(EventLog::default()),
            links: Links::default(),
            host: HostSettings::recover(state.path()),
            memory: state.path().join("memory.json"),
            file: None,
            workers: WorkerPlan::Count(1),
            seed: 1,
        });
        Self {
            daemon,
            log,
            busy,
            missing,
            peers,
            fail,
            datapath,
            state,
        }
    }

    /// What was done since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        self.daemon.wait_closed();
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

/// A netdev that is up.
pub(crate) fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        up: true,
        carrier: true,
        mtu: 1500,
        address: None,
        controller: None,
    }
}
