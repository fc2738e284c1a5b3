//! Figures, and what they say: medians, ratios, spreads, one table.
//!
//! The ratio to a peer is the median of the ratios of the rounds: ours in a round by the peer's in the same round.
//! The spread is half the distance between the smallest and the largest figure, as a share of the median.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// bit/s of payload
    BitsPerSecond,
    /// frames per second
    FramesPerSecond,
    /// share of one core in percent
    PercentOfCore,
    /// octets
    Octets,
    /// instructions per frame
    Instructions,
    /// seconds
    Seconds,
    /// learnt addresses per second
    AddressesPerSecond,
}

impl Unit {
    /// A figure as people say it.
    pub fn say(self, figure: f64) -> String {
        match self {
            Self::BitsPerSecond => xtask::steps::bits(figure),
            Self::FramesPerSecond => format!("{:.3} Mpps", figure / 1e6),
            Self::PercentOfCore => format!("{figure:.2} %"),
            Self::Octets => format!("{:.1} KiB", figure / 1024.0),
            Self::Instructions => format!("{figure:.0} instr"),
            Self::AddressesPerSecond => format!("{:.2} M/s", figure / 1e6),
            Self::Seconds if figure < 1e-3 => format!("{:.1} µs", figure * 1e6),
            Self::Seconds if figure < 1.0 => format!("{:.2} ms", figure * 1e3),
            Self::Seconds => format!("{figure:.2} s"),
        }
    }
}

/// What the figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// Ours is to be at least so many times the peer's.
    Ratio(f64),
    /// Ours is to be at most so many times the peer's.
    RatioAtMost(f64),
    /// The figure itself is to be at least this.
    AtLeast(f64),
    /// The figure itself is to be at most this.
    AtMost(f64),
}

impl Wanted {
    /// As people say it.
    fn say(self, unit: Unit) -> String {
        match self {
            Self::Ratio(least) => format!("≥ {least}×"),
            Self::RatioAtMost(most) => format!("≤ {most}×"),
            Self::AtLeast(least) => format!("≥ {}", unit.say(least)),
            Self::AtMost(most) => format!("≤ {}", unit.say(most)),
        }
    }
}

/// One peer's figures, one of each round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Series {
    /// Whose.
    pub peer: String,
    /// How it was configured.
    pub config: String,
    /// In the order of the rounds; empty if it could not be measured.
    pub figures: Vec<f64>,
    /// The target, if there is one.
    pub wanted: Option<Wanted>,
}

/// One kind of traffic through all peers; the first series is ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Case {
    /// Scenario, as `cargo xtask bench` takes it.
    pub scenario: String,
    /// The target that it is about, such as `P1`.
    pub target: String,
    /// What was sent.
    pub name: String,
    /// What the figures count.
    pub unit: Unit,
    /// By peer.
    pub series: Vec<Series>,
}

/// The middle of some figures; `None` of none.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
}

/// The figure that a `share` of them does not exceed; `None` of none.
pub fn quantile(figures: &[f64], share: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(share * last as f64).round() as usize])
}

/// Half the distance between the extremes as a share of the median.
pub fn spread(figures: &[f64]) -> Option<f64> {
    let middle = median(figures)?;
    let least = figures.iter().copied().min_by(f64::total_cmp)?;
    let most = figures.iter().copied().max_by(f64::total_cmp)?;
    (figures.len() > 1 && middle != 0.0).then(|| (most - least) / 2.0 / middle)
}

impl Case {
    /// Ours divided by a peer's, round by round, in the median.
    pub fn ratio(&self, series: &Series) -> Option<f64> {
        let ours = &self.series.first()?.figures;
        let ratios: Vec<f64> = ours
            .iter()
            .zip(&series.figures)
            .filter(|(_, theirs)| **theirs > 0.0)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        median(&ratios)
    }

    /// Whether a series meets its target; `None` if it has none or no figure.
    pub fn met(&self, series: &Series) -> Option<bool> {
        match series.wanted? {
            Wanted::Ratio(least) => self.ratio(series).map(|ratio| ratio >= least),
            Wanted::RatioAtMost(most) => self.ratio(series).map(|ratio| ratio <= most),
            Wanted::AtLeast(least) => median(&series.figures).map(|figure| figure >= least),
            Wanted::AtMost(most) => median(&series.figures).map(|figure| figure <= most),
        }
    }
}

/// The machine that a report is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Number of processors.
    pub processors: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Load average over a minute before the run: more than a few tenths means that others were at work.
    pub load: f64,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let models: Vec<&str> = cpuinfo
            .lines()
            .filter_map(|line| line.strip_prefix("model name"))
            .map(|model| model.trim_start_matches([' ', '\t', ':']))
            .collect();
        Self {
            processor: models.first().copied().unwrap_or("unknown").to_owned(),
            processors: models.len().max(1),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Rounds, unless a scenario has no peers.
    pub rounds: usize,
    /// Seconds of each figure.
    pub seconds: u64,
    /// What came out.
    pub cases: Vec<Case>,
}

impl Report {
    /// The table.
    pub fn table(&self) -> String {
        let head = [
            "scenario",
            "traffic",
            "peer",
            "median",
            "spread",
            "best tenth",
            "ours / peer",
            "wanted",
        ]
        .map(str::to_owned);
        let mut rows = vec![head];
        for case in &self.cases {
            for (index, series) in case.series.iter().enumerate() {
                let first = index == 0;
                let wanted = series
                    .wanted
                    .map_or_else(String::new, |wanted| wanted.say(case.unit));
                let verdict = match case.met(series) {
                    Some(true) => " ✓",
                    Some(false) => " ✗",
                    None => "",
                };
                rows.push([
                    if first {
                        case.scenario.clone()
                    } else {
                        String::new()
                    },
                    if first { case.name.clone() } else { String::new() },
                    series.peer.clone(),
                    median(&series.figures).map_or_else(|| "failed".into(), |figure| case.unit.say(figure)),
                    spread(&series.figures)
                        .map_or_else(String::new, |spread| format!("±{:.0} %", 100.0 * spread)),
                    best_tenth(series).map_or_else(String::new, |figure| case.unit.say(figure)),
                    match case.ratio(series) {
                        Some(ratio) if !first => format!("{ratio:.2}×"),
                        _ => String::new(),
                    },
                    format!("{wanted}{verdict}"),
                ]);
            }
        }
        render(&rows)
    }

    /// A row for each target: what we have, what the peer has, and whether that is enough.
    pub fn targets(&self) -> String {
        let head = [
            "target",
            "scenario",
            "traffic",
            "ours",
            "peer",
            "peer's",
            "ours / peer",
            "wanted",
            "met",
        ]
        .map(str::to_owned);
        let mut rows = vec![head];
        for case in &self.cases {
            let ours = case.series.first().and_then(|series| median(&series.figures));
            let say = |figure: Option<f64>| {
                figure.map_or_else(|| "no figure".into(), |figure| case.unit.say(figure))
            };
            for (index, series) in case.series.iter().enumerate() {
                let Some(wanted) = series.wanted else { continue };
                let peer = (index > 0).then(|| (series.peer.clone(), say(median(&series.figures))));
                let (peer, theirs) = peer.unwrap_or_default();
                rows.push([
                    case.target.clone(),
                    case.scenario.clone(),
                    case.name.clone(),
                    say(ours),
                    peer,
                    theirs,
                    match case.ratio(series) {
                        Some(ratio) if index > 0 => format!("{ratio:.2}×"),
                        _ => String::new(),
                    },
                    wanted.say(case.unit),
                    match case.met(series) {
                        Some(true) => "yes".into(),
                        Some(false) => "no".into(),
                        None => "not measured".into(),
                    },
                ]);
            }
        }
        render(&rows)
    }

    /// Cases in which we have no figure.
    pub fn unmeasured(&self) -> Vec<String> {
        let ours = |case: &&Case| {
            case.series
                .first()
                .is_some_and(|series| series.figures.is_empty())
        };
        let cases = self.cases.iter().filter(ours);
        cases
            .map(|case| format!("{}: {}", case.scenario, case.name))
            .collect()
    }

    /// The facts that a reader of the table needs: machine, rounds, configurations.
    pub fn notes(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{}, {} processors, Linux {}, load before the run {:.2}\n{} rounds in turns, {} s each; median; ratio = median of the rounds' ratios\n",
            machine.processor, machine.processors, machine.kernel, machine.load, self.rounds, self.seconds
        );
        let mut said: Vec<(&str, &str)> = Vec::new();
        for series in self.cases.iter().flat_map(|case| &case.series) {
            let pair = (series.peer.as_str(), series.config.as_str());
            if !said.contains(&pair) {
                said.push(pair);
                let _ = writeln!(text, "{}: {}", series.peer, series.config);
            }
        }
        text
    }
}

/// What a tenth of many figures is better than: how it is when nobody else wants the machine.
fn best_tenth(series: &Series) -> Option<f64> {
    const MANY: usize = 10;
    (series.figures.len() >= MANY).then(|| quantile(&series.figures, 0.9))?
}

/// Columns as wide as their widest cell.
fn render<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            text.push_str(&rules.join("  "));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(ours: &[f64], theirs: &[f64], least: f64) -> Case {
        let series = |peer: &str, figures: &[f64], wanted| Series {
            peer: peer.into(),
            config: String::new(),
            figures: figures.to_vec(),
            wanted,
        };
        Case {
            scenario: "tap".into(),
            target: "P3".into(),
            name: "TCP".into(),
            unit: Unit::BitsPerSecond,
            series: vec![
                series("ours", ours, None),
                series("theirs", theirs, Some(Wanted::Ratio(least))),
            ],
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_spread_is_half_the_range() {
        assert_eq!(spread(&[8.0, 10.0, 12.0]), Some(0.2));
        assert_eq!(spread(&[8.0]), None);
    }

    #[test]
    fn ratios_pair_the_rounds() {
        // The machine was twice as fast in the second round, for both.
        let case = case(&[10.0, 20.0, 10.0], &[5.0, 10.0, 5.0], 2.0);
        assert_eq!(case.ratio(&case.series[1]), Some(2.0));
        assert_eq!(case.met(&case.series[1]), Some(true));
    }

    #[test]
    fn what_is_wanted_may_be_less() {
        let mut case = case(&[1.0, 1.0], &[4.0, 4.0], 0.0);
        case.series[1].wanted = Some(Wanted::RatioAtMost(0.5));
        assert_eq!(case.met(&case.series[1]), Some(true));
        case.series[0].wanted = Some(Wanted::AtLeast(2.0));
        assert_eq!(case.met(&case.series[0]), Some(false));
    }

    #[test]
    fn every_target_has_a_row() {
        let report = Report {
            machine: Machine::here(),
            rounds: 1,
            seconds: 1,
            cases: vec![case(&[10.0], &[5.0], 2.0), case(&[10.0], &[], 2.0)],
        };
        let table = report.targets();
        let verdicts: Vec<&str> = table
            .lines()
            .skip(2)
            .map(|row| row.rsplit("  ").next().unwrap_or_default().trim())
            .collect();
        assert_eq!(verdicts, ["yes", "not measured"]);
    }

    #[test]
    fn a_peer_without_figures_meets_nothing() {
        let case = case(&[10.0], &[], 2.0);
        assert_eq!(case.met(&case.series[1]), None);
    }
}
