//! Traffic between two stations, from one thread: how much gets through, and how long it takes.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::station::{BURST, Flows, Station, clock};

/// Frames under way in each direction of a closed loop: as many as testpmd's `tx_first 8` sends.
const WINDOW: u64 = 256;

/// The same for super-frames, of which a queue holds fewer.
const FEW: u64 = 24;

/// A closed loop that has stood still for so long has lost its frames, and is started anew.
const STALL: Duration = Duration::from_millis(20);

/// Before a figure is taken.
const WARM: Duration = Duration::from_millis(300);

/// How long the stations of many flows may take to become known.
const LEARN: Duration = Duration::from_secs(8);

/// With more flows than this, warming up takes [`LEARN`]: Open vSwitch raises its limit of flows step by step, and has all
/// of 64 thousand in its table only then.
const MANY: usize = 4096;

/// The share of a closed loop's rate that a latency is taken at.
const LOAD: f64 = 0.9;

/// Most that a histogram tells apart: ten seconds.
const LONGEST: u64 = 10_000_000_000;

/// How traffic is paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Each frame that arrives lets the next one go: as much as the switch can do.
    Closed,
    /// At 90 % of the last closed loop's rate, whatever arrives.
    Load,
    /// One frame after a pause of so many milliseconds, one way.
    Idle(u64),
    /// So many frames a second, one way.
    Steady(u32),
    /// Nothing, for so many milliseconds.
    Wait(u64),
}

/// One measurement, as the programs' arguments say it: `closed:2:64` is two stations and 64 octets on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// How the frames follow each other.
    pub pace: Pace,
    /// How many stations there are on both sides together.
    pub macs: usize,
    /// Length of a frame on the wire.
    pub octets: usize,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pace {
            Pace::Closed => write!(f, "closed")?,
            Pace::Load => write!(f, "load")?,
            Pace::Idle(millis) => write!(f, "idle-{millis}")?,
            Pace::Steady(rate) => write!(f, "steady-{rate}")?,
            Pace::Wait(millis) => write!(f, "wait-{millis}")?,
        }
        write!(f, ":{}:{}", self.macs, self.octets)
    }
}

impl FromStr for Phase {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let [pace, macs, octets] = parts[..] else {
            bail!("a phase is PACE:STATIONS:OCTETS, not {text}");
        };
        let pace = match pace.split_once('-') {
            None if pace == "closed" => Pace::Closed,
            None if pace == "load" => Pace::Load,
            Some(("idle", millis)) => Pace::Idle(millis.parse()?),
            Some(("steady", rate)) => Pace::Steady(rate.parse()?),
            Some(("wait", millis)) => Pace::Wait(millis.parse()?),
            _ => bail!(
                "a pace is closed, load, idle-MILLISECONDS, steady-RATE or wait-MILLISECONDS, not {pace}"
            ),
        };
        Ok(Self {
            pace,
            macs: macs.parse()?,
            octets: octets.parse()?,
        })
    }
}

/// What a phase gave.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// Frames that arrived a second, both ways together.
    pub rate: f64,
    /// Share of the frames that did not arrive.
    pub lost: f64,
    /// Time under way, seconds; 0 where it was not measured.
    pub p50: f64,
    /// Of a hundred frames the slowest.
    pub p99: f64,
    /// The slowest of all.
    pub max: f64,
}

/// Two stations, one behind each port.
#[derive(Debug)]
pub struct Load<S> {
    stations: [S; 2],
    flows: [Flows; 2],
    window: u64,
}

impl<S: Station> Load<S> {
    /// Between these, with these flows from each.
    pub fn new(stations: [S; 2], flows: [Flows; 2]) -> Self {
        let window = if flows[0].segment.is_some() { FEW } else { WINDOW };
        Self {
            stations,
            flows,
            window,
        }
    }

    /// The stations again.
    pub fn end(self) -> [S; 2] {
        self.stations
    }

    /// Waits until what is under way has come or is lost.
    fn drain(&mut self) -> Result<()> {
        let mut last = Instant::now();
        while last.elapsed() < STALL {
            if self.receive(0, |_, _| ())? + self.receive(1, |_, _| ())? > 0 {
                last = Instant::now();
            }
        }
        Ok(())
    }

    fn receive(&mut self, from: usize, each: impl FnMut(u64, u64)) -> Result<u64> {
        Ok(self.stations[1 - from].receive(each)? as u64)
    }

    fn send(&mut self, from: usize, most: u64, stamp: impl FnMut() -> u64) -> Result<u64> {
        let most = usize::try_from(most)?.min(BURST);
        Ok(self.stations[from].send(&mut self.flows[from], most, stamp)? as u64)
    }

    /// Lets every station be heard, so that the switch knows them all, and then for a moment more.
    pub fn warm_up(&mut self) -> Result<()> {
        let passes = 2 * self.flows[0].count() as u64;
        let start = Instant::now();
        let mut arrived = [0; 2];
        loop {
            let outcome = self.closed_loop(WARM)?;
            arrived = [arrived[0] + outcome.0[0], arrived[1] + outcome.0[1]];
            let long = self.flows[0].count() <= MANY || start.elapsed() >= LEARN;
            if long && arrived.iter().all(|&frames| frames >= passes) {
                break;
            }
            ensure!(
                start.elapsed() < 2 * LEARN,
                "only {arrived:?} frames have arrived within {} s",
                2 * LEARN.as_secs()
            );
        }
        self.drain()
    }

    /// As much as the switch can do.
    pub fn closed(&mut self, time: Duration) -> Result<Outcome> {
        let (arrived, lost, took) = self.closed_loop(time)?;
        self.drain()?;
        let frames = (arrived[0] + arrived[1]) as f64;
        Ok(Outcome {
            rate: frames / took.as_secs_f64(),
            lost: lost as f64 / (frames + lost as f64).max(1.0),
            ..Outcome::default()
        })
    }

    /// Frames that arrived in each direction, frames that were lost, and how long it took.
    fn closed_loop(&mut self, time: Duration) -> Result<([u64; 2], u64, Duration)> {
        /// Turns between two looks at the clock.
        const TURNS: u32 = 64;
        let mut under_way = [0_u64; 2];
        let mut arrived = [0_u64; 2];
        let mut lost = 0;
        let start = Instant::now();
        let mut progress = (0, start);
        loop {
            for _ in 0..TURNS {
                for from in [0, 1] {
                    let came = self.receive(from, |_, _| ())?;
                    arrived[from] += came;
                    // What was given up for lost may come after all.
                    under_way[from] = under_way[from].saturating_sub(came);
                    let room = self.window - under_way[from];
                    if room > 0 {
                        under_way[from] += self.send(from, room, || 0)?;
                    }
                }
            }
            let now = Instant::now();
            let total = arrived[0] + arrived[1];
            if total > progress.0 {
                progress = (total, now);
            } else if now - progress.1 > STALL {
                lost += under_way[0] + under_way[1];
                under_way = [0; 2];
                // The switch may still be setting up, with a thread of its own on this core.
                std::thread::sleep(STALL);
                progress.1 = Instant::now();
            }
            if now - start >= time {
                return Ok((arrived, lost, now - start));
            }
        }
    }

    /// At a rate of so many frames a second, in each of the `directions`.
    ///
    /// A frame's time counts from when it was due, not from when the generator got around to it: a pause of the switch
    /// that holds up the generator too would else be counted once instead of for every frame. With `rest` the generator sleeps
    /// between frames, which then count from their sending: waking up late is not the switch's doing.
    pub fn paced(&mut self, time: Duration, rate: f64, directions: &[usize], rest: bool) -> Result<Outcome> {
        let mut histogram = Histogram::<u64>::new_with_max(LONGEST, 3)?;
        let each = rate / directions.len() as f64;
        let interval = 1e9 / each;
        let mut sent = [0_u64; 2];
        let mut arrived = 0;
        let start = clock();
        let end = start + u64::try_from(time.as_nanos())?;
        let mut last = start;
        while last < end + u64::try_from(STALL.as_nanos())? {
            let now = clock();
            for &from in directions {
                let due = if now < end {
                    ((now - start) as f64 / interval) as u64
                } else {
                    sent[from]
                };
                if due > sent[from] {
                    let mut number = sent[from];
                    sent[from] += self.send(from, due - sent[from], || {
                        number += 1;
                        if rest {
                            clock()
                        } else {
                            start + (number as f64 * interval) as u64
                        }
                    })?;
                }
                arrived += self.receive(from, |stamp, at| {
                    if stamp >= start {
                        histogram.saturating_record(at.saturating_sub(stamp));
                    }
                })?;
            }
            if rest && now < end {
                let next = start + ((sent[directions[0]] + 1) as f64 * interval) as u64;
                std::thread::sleep(Duration::from_nanos(next.saturating_sub(clock())));
            }
            last = clock();
        }
        let all = (sent[0] + sent[1]).max(1) as f64;
        Ok(outcome(
            &histogram,
            arrived as f64 / time.as_secs_f64(),
            (all - arrived as f64).max(0.0) / all,
        ))
    }

    /// Single frames after pauses, from the first station to the second.
    pub fn idle(&mut self, time: Duration, pause: Duration) -> Result<Outcome> {
        let mut histogram = Histogram::<u64>::new_with_max(LONGEST, 3)?;
        let mut sent = 0_u64;
        let mut arrived = 0;
        let start = Instant::now();
        while start.elapsed() < time {
            std::thread::sleep(pause);
            sent += self.send(0, 1, clock)?;
            let begin = Instant::now();
            let before = arrived;
            while arrived == before && begin.elapsed() < STALL {
                arrived += self.receive(0, |stamp, at| {
                    histogram.saturating_record(at.saturating_sub(stamp));
                })?;
            }
        }
        let all = sent.max(1) as f64;
        Ok(outcome(
            &histogram,
            arrived as f64 / time.as_secs_f64(),
            (all - arrived as f64).max(0.0) / all,
        ))
    }

    /// Runs a phase; `before` is what the last closed loop gave.
    pub fn run(&mut self, phase: Phase, time: Duration, before: Option<Outcome>) -> Result<Outcome> {
        match phase.pace {
            Pace::Closed => self.closed(time),
            Pace::Load => {
                let before = before.context("a load is a share of the rate of a closed loop before it")?;
                self.paced(time, LOAD * before.rate, &[0, 1], false)
            }
            Pace::Idle(millis) => self.idle(time, Duration::from_millis(millis)),
            Pace::Steady(rate) => self.paced(time, f64::from(rate), &[0], true),
            Pace::Wait(millis) => {
                std::thread::sleep(Duration::from_millis(millis));
                Ok(Outcome::default())
            }
        }
    }
}

fn outcome(histogram: &Histogram<u64>, rate: f64, lost: f64) -> Outcome {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e9;
    Outcome {
        rate,
        lost,
        p50: at(0.5),
        p99: at(0.99),
        max: histogram.max() as f64 / 1e9,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use super::*;

    /// A station whose frames arrive at the other at once.
    struct Wire {
        to: Rc<RefCell<VecDeque<u64>>>,
        from: Rc<RefCell<VecDeque<u64>>>,
        /// Every so many frames one is lost.
        loses: u64,
        sent: u64,
    }

    impl Station for Wire {
        fn send(&mut self, flows: &mut Flows, most: usize, mut stamp: impl FnMut() -> u64) -> Result<usize> {
            for _ in 0..most {
                flows.head();
                self.sent += 1;
                let stamp = stamp();
                if self.loses == 0 || !self.sent.is_multiple_of(self.loses) {
                    self.to.borrow_mut().push_back(stamp);
                }
            }
            Ok(most)
        }

        fn receive(&mut self, mut each: impl FnMut(u64, u64)) -> Result<usize> {
            let stamps: Vec<u64> = self.from.borrow_mut().drain(..).collect();
            for stamp in &stamps {
                each(*stamp, clock());
            }
            Ok(stamps.len())
        }
    }

    fn wire(loses: u64) -> Load<Wire> {
        let [left, right] = [Rc::default(), Rc::default()];
        let station = |to: &Rc<_>, from: &Rc<_>| Wire {
            to: Rc::clone(to),
            from: Rc::clone(from),
            loses,
            sent: 0,
        };
        let flows = [0, 1].map(|side| Flows::new(side, 16, 64).expect("flows"));
        Load::new([station(&left, &right), station(&right, &left)], flows)
    }

    const TIME: Duration = Duration::from_millis(30);

    #[test]
    fn a_wire_loses_nothing() {
        let mut load = wire(0);
        load.warm_up().expect("warm");
        let closed = load.closed(TIME).expect("closed");
        assert!(closed.rate > 0.0);
        assert_eq!(closed.lost, 0.0);
        let paced = load.paced(TIME, 10_000.0, &[0, 1], false).expect("paced");
        assert_eq!(paced.lost, 0.0);
        assert!(paced.p50 <= paced.p99 && paced.p99 <= paced.max);
    }

    #[test]
    fn a_closed_loop_goes_on_after_losses() {
        let mut load = wire(10);
        let lost = (0..1000).any(|_| load.closed(TIME).expect("closed").lost > 0.0);
        assert!(lost, "it never stood still");
        assert!(load.closed(TIME).expect("closed").rate > 0.0);
    }

    #[test]
    fn frames_after_a_pause_are_counted_one_by_one() {
        let lost = |loses| wire(loses).idle(TIME, Duration::ZERO).expect("idle").lost;
        assert_eq!(lost(0), 0.0);
        assert_eq!(lost(1), 1.0);
    }

    #[test]
    fn a_phase_is_read_as_it_is_written() {
        for text in [
            "closed:2:64",
            "load:1024:1518",
            "idle-10:2:64",
            "steady-20000:2:64",
        ] {
            assert_eq!(text.parse::<Phase>().expect(text).to_string(), text);
        }
        assert!("open:2:64".parse::<Phase>().is_err());
    }
}
