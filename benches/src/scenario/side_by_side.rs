//! Switches side by side: all are up at once, each with a closed loop of its own between its two vhost-user ports, and
//! they take short turns. Who has no turn is stopped by SIGSTOP, and so leaves its core to the others.
//!
//! A shared machine changes its speed from one second to the next. Turns shorter than that are changed alike for all, and there are many,
//! since not each begins with the start of a switch.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::host;

use crate::distance::{self, FAR};
use crate::peer::{Bench, Peer, Running};
use crate::report::{self, Case, Series, Unit, Wanted};
use crate::traffic::Loop;

/// A turn.
const TURN: Duration = Duration::from_millis(200);

/// Who was stopped has timers that are overdue, and caches that are cold: so long it runs before it is measured.
const SETTLE: Duration = Duration::from_millis(300);

/// Starts a loop between the ports of a switch that is up.
type StartLoop = Box<dyn Fn(&Bench) -> Result<Box<dyn Loop>>>;

/// A switch with a loop, and what is wanted beside it; the first of several is ours.
pub struct Entry {
    /// As tables say it.
    pub name: String,
    /// The switch.
    pub peer: Box<dyn Peer>,
    /// The directory of its program, if it is not the bench's.
    pub bin: Option<PathBuf>,
    /// Starts the loop.
    pub start: StartLoop,
    /// The target.
    pub wanted: Option<Wanted>,
}

/// What the figures are about.
pub struct About<'a> {
    /// As `cargo xtask bench` takes it.
    pub scenario: &'a str,
    /// The target, such as `P1`.
    pub target: &'a str,
    /// What is sent.
    pub name: &'a str,
    /// The figures' unit.
    pub unit: Unit,
    /// What a frame counts, in the unit.
    pub frame: f64,
}

/// A switch that is up.
struct Contestant {
    looped: Box<dyn Loop>,
    running: Running,
}

impl Contestant {
    /// Starts a switch and its loop, and stops both.
    fn start(bench: &Bench, entry: &Entry) -> Result<Self> {
        std::fs::create_dir_all(&bench.dir)?;
        let bin = entry.bin.as_ref().unwrap_or(&bench.bin).clone();
        let running = entry.peer.start(&Bench { bin, ..bench.clone() })?;
        let looped = (entry.start)(bench)?;
        running.pause()?;
        Ok(Self { looped, running })
    }

    fn turn(&mut self) -> Result<f64> {
        self.running.resume()?;
        self.looped.turn(SETTLE)?;
        let figure = self.looped.turn(TURN);
        self.running.check()?;
        self.running.pause()?;
        figure
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // A guest that ends asks the switch for its rings. It fails only if the switch has ended.
        let _ = self.running.resume();
    }
}

/// Measures all of them: in each round they are started anew, because where a process finds its memory counts too. One that fails has no
/// more turns.
pub fn run(bench: &Bench, about: &About, entries: &[Entry]) -> Result<Case> {
    let turns = (bench.time.as_millis() / TURN.as_millis()).max(1);
    let mut case = Case {
        scenario: about.scenario.to_owned(),
        target: about.target.to_owned(),
        name: about.name.to_owned(),
        unit: about.unit,
        series: Vec::new(),
    };
    let entries: Vec<&Entry> = entries.iter().filter(|entry| bench.wants(&entry.name)).collect();
    for entry in &entries {
        case.series.push(Series {
            peer: entry.name.clone(),
            config: entry.peer.config(),
            figures: Vec::new(),
            wanted: entry.wanted,
        });
    }
    let mut failed = vec![false; entries.len()];
    let mut distances = Vec::new();
    for _ in 0..bench.rounds {
        let mut contestants = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if failed[index] {
                continue;
            }
            let own = Bench {
                dir: bench.dir.join(format!("{}-{index}", about.scenario)),
                ..bench.clone()
            };
            match may_fail(&entry.name, Contestant::start(&own, entry))? {
                Some(contestant) => contestants.push((index, contestant)),
                None => failed[index] = true,
            }
        }
        for _ in 0..turns {
            distances.push(distance::between(bench.traffic_core, bench.switch_core)?);
            for (index, contestant) in &mut contestants {
                if failed[*index] {
                    continue;
                }
                match may_fail(&entries[*index].name, contestant.turn())? {
                    Some(figure) => case.series[*index].figures.push(figure * about.frame),
                    None => failed[*index] = true,
                }
            }
        }
    }
    for series in &case.series {
        let say = |share| {
            report::quantile(&series.figures, share)
                .map_or_else(|| "none".to_owned(), |figure| about.unit.say(figure))
        };
        eprintln!(
            "  {:<9} {:<38} {:<30} {} turns: median {}, a tenth below {}, a tenth above {}",
            about.scenario,
            about.name,
            series.peer,
            series.figures.len(),
            say(0.5),
            say(0.1),
            say(0.9)
        );
    }
    tell_by_distance(&case, &distances);
    Ok(case)
}

/// How ours is beside each peer while the cores are near each other, and while they are far. No figures where one had to be left out.
fn tell_by_distance(case: &Case, distances: &[f64]) {
    let Some((ours, peers)) = case.series.split_first() else {
        return;
    };
    let far = distances.iter().filter(|distance| **distance >= FAR).count();
    eprintln!(
        "  {:<9} {:<38} a cache line from core to core: median {:.0} ns, {far} of {} turns {FAR} ns or more",
        case.scenario,
        case.name,
        report::quantile(distances, 0.5).unwrap_or(f64::NAN),
        distances.len(),
    );
    for peer in peers {
        let ratio = |is_far: bool| {
            let ratios: Vec<f64> = ours
                .figures
                .iter()
                .zip(&peer.figures)
                .zip(distances)
                .filter(|(_, distance)| (**distance >= FAR) == is_far)
                .map(|((ours, theirs), _)| ours / theirs)
                .collect();
            report::quantile(&ratios, 0.5).map_or_else(|| "none".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        if ours.figures.len() == distances.len() && peer.figures.len() == distances.len() {
            eprintln!(
                "  {:<9} {:<38} beside {}: near {}, far {}",
                case.scenario,
                case.name,
                peer.peer,
                ratio(false),
                ratio(true)
            );
        }
    }
}

/// `None`, and the reason on the terminal, if it failed; an error only if the user wants to end.
fn may_fail<T>(peer: &str, result: Result<T>) -> Result<Option<T>> {
    match result.with_context(|| peer.to_owned()) {
        Ok(value) => Ok(Some(value)),
        Err(error) if host::interrupted() => Err(error),
        Err(error) => {
            eprintln!("  no figure: {error:#}");
            Ok(None)
        }
    }
}
