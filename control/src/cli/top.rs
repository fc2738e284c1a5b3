//! `top`: rates of all ports, live on a terminal, or once as a table.
//!
//! A rate is the difference of two readings of the counters over the time between them. A counter that went back (the port
//! was made anew) counts from zero.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell as TuiCell, Row as TuiRow, Table as TuiTable, TableState};
use ratatui::{DefaultTerminal, Frame};
use serde::Serialize;

use super::args::{TopArgs, TopColumn};
use super::client::Client;
use super::error::CliError;
use super::output::{Output, Paint};
use super::port::state_cell;
use super::table::{Align, Table};
use super::units::scaled;
use crate::api::model::{Direction, PortRow, PortState, PortStats, WorkerRow};

/// Columns in the order of the screen.
const COLUMNS: [(TopColumn, &str, Align); 8] = [
    (TopColumn::Name, "PORT", Align::Left),
    (TopColumn::Group, "GROUP", Align::Left),
    (TopColumn::State, "STATE", Align::Left),
    (TopColumn::RxPps, "RX PPS", Align::Right),
    (TopColumn::RxBps, "RX BIT/S", Align::Right),
    (TopColumn::TxPps, "TX PPS", Align::Right),
    (TopColumn::TxBps, "TX BIT/S", Align::Right),
    (TopColumn::Drops, "DROPS/S", Align::Right),
];

/// One direction of a [`Rate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Flow {
    packets_per_second: f64,
    bits_per_second: f64,
}

/// A row: what a port carries.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Rate {
    name: String,
    group: String,
    state: PortState,
    receive: Flow,
    transmit: Flow,
    drops_per_second: f64,
}

/// A reading of all counters.
struct Reading {
    at: Instant,
    ports: Vec<PortRow>,
    stats: BTreeMap<String, PortStats>,
    workers: Vec<WorkerRow>,
}

async fn read(client: &Client) -> Result<Reading, CliError> {
    let ports = client.typed(&client.get("ports").await?)?;
    let at = Instant::now();
    let stats: Vec<PortStats> = client.typed(&client.get("stats").await?)?;
    let workers = client.typed(&client.get("workers").await?)?;
    Ok(Reading {
        at,
        ports,
        stats: stats
            .into_iter()
            .map(|stats| (stats.name.clone(), stats))
            .collect(),
        workers,
    })
}

/// How busy each worker was between two readings: `workers 0: 34 %, 1: 2 %`.
fn busy(old: &Reading, new: &Reading) -> String {
    let shares = new.workers.iter().map(|after| {
        let before = old.workers.iter().find(|before| before.worker == after.worker);
        let (busy, total) = before.map_or((0, 0), |before| (before.busy, before.total));
        let total = after.total.saturating_sub(total).max(1) as f64;
        let share = after.busy.saturating_sub(busy) as f64 / total;
        format!("{}: {:.0} %", after.worker, share * 100.0)
    });
    format!("busy workers {}", shares.collect::<Vec<_>>().join(", "))
}

/// Rates of the ports of `new` since `old`.
fn rates(old: &Reading, new: &Reading) -> Vec<Rate> {
    let seconds = new.at.saturating_duration_since(old.at).as_secs_f64().max(1e-6);
    let per_second = |new: u64, old: u64| new.checked_sub(old).unwrap_or(new) as f64 / seconds;
    let flow = |new: &Direction, old: &Direction| Flow {
        packets_per_second: per_second(new.packets, old.packets),
        bits_per_second: per_second(new.bytes, old.bytes) * 8.0,
    };
    let drops = |stats: &PortStats| stats.drops.values().sum::<u64>() + stats.kernel_drops;
    let none = PortStats::default();
    let rate = |port: &PortRow| {
        let after = new.stats.get(&port.name).unwrap_or(&none);
        // A port that has just come begins with the first reading that knows it.
        let before = old.stats.get(&port.name).unwrap_or(after);
        Rate {
            name: port.name.clone(),
            group: port.group.clone().unwrap_or_default(),
            state: port.state,
            receive: flow(&after.receive, &before.receive),
            transmit: flow(&after.transmit, &before.transmit),
            drops_per_second: per_second(drops(after), drops(before)),
        }
    };
    new.ports.iter().map(rate).collect()
}

/// Sorts by a column: names and groups upwards, rates from the highest; `reversed` the other way.
fn sort(rates: &mut [Rate], column: TopColumn, reversed: bool) {
    rates.sort_by(|a, b| {
        let number = |pick: fn(&Rate) -> f64| pick(b).total_cmp(&pick(a));
        let order = match column {
            TopColumn::Name => a.name.cmp(&b.name),
            TopColumn::Group => a.group.cmp(&b.group),
            TopColumn::State => (b.state == PortState::Down).cmp(&(a.state == PortState::Down)),
            TopColumn::RxPps => number(|rate| rate.receive.packets_per_second),
            TopColumn::RxBps => number(|rate| rate.receive.bits_per_second),
            TopColumn::TxPps => number(|rate| rate.transmit.packets_per_second),
            TopColumn::TxBps => number(|rate| rate.transmit.bits_per_second),
            TopColumn::Drops => number(|rate| rate.drops_per_second),
        };
        let order = if reversed { order.reverse() } else { order };
        order.then_with(|| a.name.cmp(&b.name))
    });
}

impl Rate {
    /// The numbers of the row, scaled.
    fn numbers(&self) -> [String; 5] {
        [
            scaled(self.receive.packets_per_second.round()),
            scaled(self.receive.bits_per_second.round()),
            scaled(self.transmit.packets_per_second.round()),
            scaled(self.transmit.bits_per_second.round()),
            scaled(self.drops_per_second.round()),
        ]
    }
}

/// `top`
pub(crate) async fn top(client: &Client, output: &mut Output, args: TopArgs) -> Result<(), CliError> {
    if args.once || !output.is_terminal() || output.format() != super::output::Format::Table {
        let old = read(client).await?;
        tokio::time::sleep(args.interval).await;
        let new = read(client).await?;
        let mut rates = rates(&old, &new);
        sort(&mut rates, args.sort, false);
        return output.document(&rates, |paint| {
            format!("{}{}\n", render(&rates, paint), busy(&old, &new))
        });
    }
    // The first reading comes before the screen changes, so that an error of it stays in sight.
    let first = read(client).await?;
    let mut terminal = ratatui::try_init().map_err(CliError::Terminal)?;
    let result = live(client, &mut terminal, first, &args).await;
    ratatui::restore();
    result
}

fn render(rates: &[Rate], paint: Paint) -> String {
    let mut table = Table::new(&COLUMNS.map(|(_, name, align)| (name, align)));
    for rate in rates {
        let [rx_pps, rx_bps, tx_pps, tx_bps, drops] = rate.numbers().map(super::table::Cell::from);
        table.row([
            rate.name.as_str().into(),
            rate.group.as_str().into(),
            state_cell(rate.state),
            rx_pps,
            rx_bps,
            tx_pps,
            tx_bps,
            drops,
        ]);
    }
    table.render("No ports; `vswitchctl port add` makes one.", paint)
}

/// What is on the screen.
struct Screen {
    rates: Vec<Rate>,
    /// How busy the workers are.
    busy: String,
    column: usize,
    reversed: bool,
    table: TableState,
    /// Why the last reading failed; the rates shown are older.
    trouble: Option<String>,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Quit,
    Redraw,
    Nothing,
}

impl Screen {
    fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Nothing;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Action::Quit,
            KeyCode::Left | KeyCode::Char('<') => {
                self.column = (self.column + COLUMNS.len() - 1) % COLUMNS.len();
            }
            KeyCode::Right | KeyCode::Char('>') => self.column = (self.column + 1) % COLUMNS.len(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Up => self.table.scroll_up_by(1),
            KeyCode::Down => self.table.scroll_down_by(1),
            KeyCode::PageUp => self.table.scroll_up_by(10),
            KeyCode::PageDown => self.table.scroll_down_by(10),
            KeyCode::Home => self.table.select_first(),
            KeyCode::End => self.table.select_last(),
            _ => return Action::Nothing,
        }
        self.sort();
        Action::Redraw
    }

    fn sort(&mut self) {
        sort(&mut self.rates, COLUMNS[self.column].0, self.reversed);
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        let total = |pick: fn(&Rate) -> f64| scaled(self.rates.iter().map(pick).sum::<f64>().round());
        let up = self
            .rates
            .iter()
            .filter(|rate| rate.state == PortState::Up)
            .count();
        let line = match &self.trouble {
            Some(trouble) => Line::styled(trouble.clone(), Color::Red),
            None => Line::from(format!(
                "{up} of {} ports up   {} pps   {} bit/s   {} drops/s   {}",
                self.rates.len(),
                total(|rate| rate.receive.packets_per_second),
                total(|rate| rate.receive.bits_per_second),
                total(|rate| rate.drops_per_second),
                self.busy,
            )),
        };
        frame.render_widget(line, head);

        let right = |text: String| TuiCell::from(Text::from(text).right_aligned());
        let header = COLUMNS.iter().enumerate().map(|(number, (_, name, align))| {
            let arrow = match (number == self.column, self.reversed) {
                (false, _) => "",
                (true, false) => "▾",
                (true, true) => "▴",
            };
            let text = Text::from(format!("{name}{arrow}"));
            TuiCell::from(if *align == Align::Right {
                text.right_aligned()
            } else {
                text
            })
        });
        let rows = self.rates.iter().map(|rate| {
            let state = match rate.state {
                PortState::Up => TuiCell::from("up").style(Color::Green),
                PortState::Down => TuiCell::from("down").style(Color::Red),
            };
            let text = [rate.name.clone(), rate.group.clone()].map(TuiCell::from);
            TuiRow::new(text.into_iter().chain([state]).chain(rate.numbers().map(right)))
        });
        let name = self
            .rates
            .iter()
            .map(|rate| rate.name.chars().count())
            .max()
            .unwrap_or(4)
            .clamp(6, 32);
        let group = self
            .rates
            .iter()
            .map(|rate| rate.group.chars().count())
            .max()
            .unwrap_or(5)
            .clamp(7, 24);
        let widths = [name as u16, group as u16, 6, 9, 10, 9, 10, 9];
        let table = TuiTable::new(rows, widths)
            .header(TuiRow::new(header).style(Modifier::REVERSED))
            .column_spacing(2)
            .row_highlight_style(Style::new().add_modifier(Modifier::BOLD));
        frame.render_stateful_widget(table, body, &mut self.table);
        frame.render_widget(
            Line::styled("q quit   ← → sort by   r reverse   ↑ ↓ scroll", Modifier::DIM),
            foot,
        );
    }
}

async fn live(
    client: &Client,
    terminal: &mut DefaultTerminal,
    first: Reading,
    args: &TopArgs,
) -> Result<(), CliError> {
    let column = COLUMNS
        .iter()
        .position(|(column, ..)| *column == args.sort)
        .unwrap_or(0);
    let mut old = first;
    let mut screen = Screen {
        rates: rates(&old, &old),
        busy: busy(&old, &old),
        column,
        reversed: false,
        table: TableState::default(),
        trouble: None,
    };
    screen.sort();
    loop {
        draw(terminal, &mut screen).map_err(CliError::Terminal)?;
        let next = Instant::now() + args.interval;
        while let Some(wait) = next
            .checked_duration_since(Instant::now())
            .filter(|wait| !wait.is_zero())
        {
            match keys(&mut screen, wait).map_err(CliError::Terminal)? {
                Action::Quit => return Ok(()),
                Action::Redraw => draw(terminal, &mut screen).map_err(CliError::Terminal)?,
                Action::Nothing => {}
            }
        }
        match read(client).await {
            Ok(new) => {
                screen.rates = rates(&old, &new);
                screen.busy = busy(&old, &new);
                screen.trouble = None;
                old = new;
            }
            // A daemon that is started again is picked up again.
            Err(error) => screen.trouble = Some(error.to_string()),
        }
        screen.sort();
    }
}

fn draw(terminal: &mut DefaultTerminal, screen: &mut Screen) -> io::Result<()> {
    terminal.draw(|frame| screen.draw(frame)).map(|_| ())
}

/// Waits at most `wait` for a key. Nothing else runs on this thread meanwhile, and nothing needs to.
fn keys(screen: &mut Screen, wait: Duration) -> io::Result<Action> {
    if !event::poll(wait)? {
        return Ok(Action::Nothing);
    }
    Ok(match event::read()? {
        Event::Key(key) => screen.key(key),
        Event::Resize(..) => Action::Redraw,
        _ => Action::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn reading(at: Instant, ports: &[(&str, u64, u64, u64)]) -> Reading {
        let row = |name: &str| PortRow {
            name: name.into(),
            switch: "vs0".into(),
            group: Some("web".into()),
            kind: "tap".into(),
            device: name.into(),
            state: if name == "vm2" {
                PortState::Down
            } else {
                PortState::Up
            },
            reason: None,
            mac: None,
            vlan: "100".into(),
        };
        let stats = |&(name, packets, bytes, drops): &(&str, u64, u64, u64)| PortStats {
            name: name.into(),
            receive: Direction {
                packets,
                bytes,
                ..Direction::default()
            },
            drops: [("runt".to_owned(), drops)].into(),
            ..PortStats::default()
        };
        Reading {
            at,
            ports: ports.iter().map(|(name, ..)| row(name)).collect(),
            stats: ports
                .iter()
                .map(|port| (port.0.to_owned(), stats(port)))
                .collect(),
            workers: Vec::new(),
        }
    }

    fn two_readings() -> Vec<Rate> {
        let start = Instant::now();
        let old = reading(start, &[("vm1", 100, 1_000, 0), ("vm2", 50, 500, 5)]);
        let new = reading(
            start + Duration::from_secs(2),
            &[("vm1", 2_100, 126_000, 4), ("vm2", 10, 100, 5), ("vm3", 9, 9, 9)],
        );
        rates(&old, &new)
    }

    #[test]
    fn rates_are_differences_over_time() {
        let rates = two_readings();
        assert_eq!(
            rates[0].receive,
            Flow {
                packets_per_second: 1_000.0,
                bits_per_second: 500_000.0
            }
        );
        assert_eq!(rates[0].drops_per_second, 2.0);
        // Its counters began again.
        assert_eq!(rates[1].receive.packets_per_second, 5.0);
        // It was not there before.
        assert_eq!(rates[2].receive.packets_per_second, 0.0);
    }

    #[test]
    fn workers_are_as_busy_as_between_the_readings() {
        let worker = |worker, busy, total| WorkerRow {
            worker,
            queues: 1,
            busy,
            total,
            frames: 0,
            handed_over: 0,
        };
        let mut old = reading(Instant::now(), &[]);
        let mut new = reading(Instant::now(), &[]);
        old.workers = vec![worker(0, 50, 100), worker(1, 0, 100)];
        new.workers = vec![worker(0, 84, 200), worker(1, 100, 200)];
        assert_eq!(busy(&old, &new), "busy workers 0: 34 %, 1: 100 %");
    }

    #[test]
    fn the_table() {
        assert_eq!(
            render(&two_readings(), Paint::new(false)),
            "\
PORT  GROUP  STATE  RX PPS  RX BIT/S  TX PPS  TX BIT/S  DROPS/S
vm1   web    up      1.00k      500k       0         0        2
vm2   web    down        5       400       0         0        0
vm3   web    up          0         0       0         0        0
"
        );
    }

    #[test]
    fn sorting() {
        let mut rates = two_readings();
        let names = |rates: &[Rate]| rates.iter().map(|rate| rate.name.clone()).collect::<Vec<_>>();
        sort(&mut rates, TopColumn::RxPps, true);
        assert_eq!(names(&rates), ["vm3", "vm2", "vm1"]);
        sort(&mut rates, TopColumn::State, false);
        assert_eq!(names(&rates), ["vm2", "vm1", "vm3"]);
        sort(&mut rates, TopColumn::Name, false);
        assert_eq!(names(&rates), ["vm1", "vm2", "vm3"]);
    }

    #[test]
    fn keys_change_the_screen() {
        let mut screen = Screen {
            rates: two_readings(),
            busy: "busy workers 0: 7 %".to_owned(),
            column: 0,
            reversed: false,
            table: TableState::default(),
            trouble: None,
        };
        let mut terminal = Terminal::new(TestBackend::new(100, 8)).unwrap();
        let mut shown = |screen: &mut Screen| {
            terminal.draw(|frame| screen.draw(frame)).unwrap();
            terminal.backend().to_string()
        };
        let text = shown(&mut screen);
        assert!(
            text.contains("2 of 3 ports up")
                && text.contains("0: 7 %")
                && text.contains("PORT▾")
                && text.contains("500k"),
            "{text}"
        );
        assert_eq!(screen.key(KeyCode::Char('r').into()), Action::Redraw);
        assert_eq!(screen.key(KeyCode::Left.into()), Action::Redraw);
        let text = shown(&mut screen);
        assert!(text.contains("DROPS/S▴"), "{text}");
        assert_eq!(screen.rates.last().map(|rate| rate.name.as_str()), Some("vm1"));
        assert_eq!(screen.key(KeyCode::Char('x').into()), Action::Nothing);
        assert_eq!(screen.key(KeyCode::Char('q').into()), Action::Quit);
    }
}
