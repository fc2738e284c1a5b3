//! Closes queues in the background: the kernel takes tens of milliseconds for a TAP or an AF_PACKET socket, and who removes a hundred ports
//! must not keep everyone else waiting for so long. One thread, because the kernel takes them one after the other anyway (its RTNL lock).
//!
//! Whoever wants to open the same device again waits for its [`Closing`].

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};

use crate::io::Queue;

/// The queues of a port that are being closed.
#[derive(Clone, Debug)]
pub struct Closing(Receiver<()>);

impl Closing {
    /// Returns when they are closed.
    pub fn wait(&self) {
        // Nothing is sent; it ends when the other side is dropped.
        let _: Result<(), _> = self.0.recv();
    }

    /// Whether they are closed.
    pub fn is_done(&self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Disconnected)
    }
}

struct Job {
    _queues: Vec<Box<dyn Queue>>,
    /// Dropped after the queues, as fields are in their order.
    _done: Sender<()>,
}

/// The thread, from the first time on that there is something to close.
#[derive(Default)]
pub(crate) struct Closer(Mutex<Option<Thread>>);

struct Thread {
    jobs: Sender<Job>,
    handle: JoinHandle<()>,
}

impl Thread {
    fn start() -> io::Result<Self> {
        let (jobs, receiver) = unbounded::<Job>();
        let handle = std::thread::Builder::new()
            .name("closer".to_owned())
            .spawn(move || receiver.into_iter().for_each(drop))?;
        Ok(Self { jobs, handle })
    }
}

impl Closer {
    pub(crate) fn close(&self, queues: Vec<Box<dyn Queue>>) -> Closing {
        let (done, closing) = bounded(0);
        if !queues.is_empty() {
            let job = Job {
                _queues: queues,
                _done: done,
            };
            // No method leaves it half-changed.
            let mut thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if thread.is_none() {
                *thread = Thread::start().ok();
            }
            if let Some(thread) = &*thread {
                // Without a thread they are closed here.
                let _ = thread.jobs.send(job);
            }
        }
        Closing(closing)
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let thread = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Thread { jobs, handle }) = thread {
            drop(jobs);
            // It has only dropped queues; what a panic there left is closed with the process.
            let _ = handle.join();
        }
    }
}
