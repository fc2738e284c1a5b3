//! Which worker serves which queue: a first guess when a port is attached, and corrections by what was measured.
//!
//! Pure: the datapath measures, asks, and carries out ([`crate::Datapath::rebalance`]).
//!
//! The first queue of a port carries most of its frames, or all (a guest with one pair of rings), so queues count less the higher their
//! number is. A correction is one move at a time, of a queue that nobody has pinned, away from a worker that is short of time, and
//! only if the busier of the two is clearly less busy afterwards: a move costs caches, and frames between the workers. What a queue costs is
//! its share of its worker's time by the frames received there. A queue that was moved stays for a while.

/// Busy share of a worker, of 1, below which nothing is moved away from it.
const SHORT_OF_TIME: f64 = 0.7;

/// By how much the busier of both must be relieved, as a share of a worker's time.
const WORTH_IT: f64 = 0.1;

/// Measurements in a row, at the least, that ask for a move before it is made.
const IN_A_ROW: u32 = 2;

/// Measurements for which a queue that was moved stays.
const STAYS: u32 = 12;

/// What a received frame costs: the decision, and the moving of its octets.
#[inline]
pub(crate) fn work(octets: usize) -> u64 {
    1 + octets as u64 / 2048
}

/// What queue `number` of a port is expected to cost beside others.
fn expected(number: usize) -> u64 {
    64 / (number as u64 + 1).min(64)
}

/// Chooses a worker for each of a new port's `count` queues. `loads` is what the queues of each worker are expected to cost, and is changed to
/// include the new ones. The queues of a port spread over as many workers as can be.
pub(crate) fn spread(loads: &mut [u64], count: usize) -> Vec<u16> {
    let mut own = vec![0usize; loads.len()];
    (0..count)
        .map(|number| {
            let worker = (0..loads.len())
                .min_by_key(|worker| (own[*worker], loads[*worker]))
                .unwrap_or(0);
            own[worker] += 1;
            loads[worker] += expected(number);
            worker as u16
        })
        .collect()
}

/// What the queues that each of `workers` workers has are expected to cost; `queues` are numbers and workers.
pub(crate) fn loads(workers: usize, queues: impl Iterator<Item = (usize, u16)>) -> Vec<u64> {
    let mut loads = vec![0; workers];
    for (number, worker) in queues {
        if let Some(load) = loads.get_mut(usize::from(worker)) {
            *load += expected(number);
        }
    }
    loads
}

/// A queue as it was measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured<K> {
    /// Which it is.
    pub key: K,
    /// Who has it.
    pub worker: u16,
    /// What it has cost since the measurement before, in units of [`work`].
    pub work: u64,
    /// It may be moved.
    pub free: bool,
}

/// What is remembered between measurements.
#[derive(Debug)]
pub(crate) struct Balance<K> {
    asked: u32,
    /// Queues that were moved, and how many measurements ago.
    moved: Vec<(K, u32)>,
}

impl<K> Default for Balance<K> {
    fn default() -> Self {
        Self {
            asked: 0,
            moved: Vec::new(),
        }
    }
}

impl<K: Copy + PartialEq> Balance<K> {
    /// Says which queue to move, and to which worker. `busy` is the share of its time that each worker was busy since the measurement before.
    pub(crate) fn measure(&mut self, busy: &[f64], queues: &[Measured<K>]) -> Option<(K, u16)> {
        for (_, age) in &mut self.moved {
            *age += 1;
        }
        self.moved.retain(|(_, age)| *age < STAYS);
        let found = self.best(busy, queues);
        self.asked = if found.is_some() { self.asked + 1 } else { 0 };
        let (key, worker) = found.filter(|_| self.asked >= IN_A_ROW)?;
        self.asked = 0;
        self.moved.push((key, 0));
        Some((key, worker))
    }

    fn best(&self, busy: &[f64], queues: &[Measured<K>]) -> Option<(K, u16)> {
        let by_load = |a: &usize, b: &usize| busy[*a].total_cmp(&busy[*b]);
        let from = (0..busy.len()).max_by(by_load)?;
        let to = (0..busy.len()).min_by(by_load)?;
        if busy[from] < SHORT_OF_TIME {
            return None;
        }
        let own = || queues.iter().filter(|queue| usize::from(queue.worker) == from);
        let all: u64 = own().map(|queue| queue.work).sum();
        let after = |queue: &Measured<K>| {
            let share = busy[from] * queue.work as f64 / all.max(1) as f64;
            (busy[from] - share).max(busy[to] + share)
        };
        let (after, queue) = own()
            .filter(|queue| queue.free && self.moved.iter().all(|(key, _)| *key != queue.key))
            .map(|queue| (after(queue), queue))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (after + WORTH_IT <= busy[from]).then_some((queue.key, to as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(key: u32, worker: u16, work: u64) -> Measured<u32> {
        Measured {
            key,
            worker,
            work,
            free: true,
        }
    }

    #[test]
    fn queues_spread_over_the_workers_and_first_queues_too() {
        let mut loads = vec![0; 3];
        let first: Vec<u16> = (0..6).map(|_| spread(&mut loads, 3)[0]).collect();
        for worker in 0..3 {
            assert_eq!(
                first.iter().filter(|first| **first == worker).count(),
                2,
                "{first:?}"
            );
        }
        let mut all = spread(&mut loads, 6);
        all.sort_unstable();
        assert_eq!(all, [0, 0, 1, 1, 2, 2]);
        assert_eq!(spread(&mut [0], 4), [0; 4]);
    }

    #[test]
    fn a_queue_moves_only_if_it_was_asked_for_twice_and_helps() {
        let queues = [queue(1, 0, 500), queue(2, 0, 500), queue(3, 1, 10)];
        let mut balance = Balance::default();
        assert_eq!(balance.measure(&[0.9, 0.1], &queues), None, "once may be chance");
        assert!(matches!(balance.measure(&[0.9, 0.1], &queues), Some((1 | 2, 1))));

        let mut balance = Balance::default();
        for _ in 0..10 {
            // Nobody is short of time; both are; all of the work is one queue's; the queue is pinned.
            assert_eq!(balance.measure(&[0.6, 0.0], &queues), None);
            assert_eq!(balance.measure(&[0.95, 0.9], &queues), None);
            assert_eq!(balance.measure(&[1.0, 0.0], &[queue(1, 0, 9)]), None);
            let pinned = queues.clone().map(|queue| Measured { free: false, ..queue });
            assert_eq!(balance.measure(&[0.9, 0.1], &pinned), None);
        }
    }

    #[test]
    fn what_was_moved_stays_and_an_imbalance_ends() {
        // Eight queues of one cost on one of two workers, whose time is what their queues cost.
        let mut workers = [0u16; 8];
        let mut balance = Balance::default();
        let mut moves = 0;
        for _ in 0..100 {
            let queues: Vec<_> = (0..8).map(|key| queue(key, workers[key as usize], 100)).collect();
            let share = |worker| workers.iter().filter(|own| **own == worker).count() as f64 / 8.0;
            if let Some((key, to)) = balance.measure(&[share(0), share(1)], &queues) {
                assert_ne!(workers[key as usize], to);
                workers[key as usize] = to;
                moves += 1;
            }
        }
        assert!((2..=4).contains(&moves), "{moves} moves");
        let left = workers.iter().filter(|worker| **worker == 0).count();
        assert!((4..=6).contains(&left), "{workers:?}");
    }
}
