//! Counters: of the ports as `vswitchctl port stats` tells them, and of the whole daemon as `/metrics` does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// One direction of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Frames.
    pub packets: u64,
    /// Octets.
    pub bytes: u64,
    /// Frames to one station.
    pub unicast: u64,
    /// Frames to a group.
    pub multicast: u64,
    /// Frames to all.
    pub broadcast: u64,
}

/// Counters of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// From the port into the switch.
    pub receive: Direction,
    /// From the switch to the port.
    pub transmit: Direction,
    /// By reason.
    pub drops: BTreeMap<String, u64>,
    /// Lost in the kernel, before the switch.
    pub kernel_drops: u64,
}

impl Port {
    /// Frames dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }
}

/// Counters of all ports at one time, or what was added between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats(pub BTreeMap<String, Port>);

impl Stats {
    /// Reads the rows of `port stats`.
    ///
    /// # Panics
    /// If a key of the contract is missing.
    pub fn read(rows: &Value) -> Self {
        let number = |value: &Value, key: &str| {
            value[key]
                .as_u64()
                .unwrap_or_else(|| panic!("`port stats` has no number `{key}` in {value}"))
        };
        let direction = |value: &Value| Direction {
            packets: number(value, "packets"),
            bytes: number(value, "bytes"),
            unicast: number(value, "unicast"),
            multicast: number(value, "multicast"),
            broadcast: number(value, "broadcast"),
        };
        let rows = rows
            .as_array()
            .unwrap_or_else(|| panic!("`port stats` is no array: {rows}"));
        Self(
            rows.iter()
                .map(|row| {
                    let name = row["name"]
                        .as_str()
                        .expect("a row of `port stats` has a name")
                        .to_owned();
                    let drops = row["drops"].as_object().expect("a row of `port stats` has drops");
                    let port = Port {
                        receive: direction(&row["receive"]),
                        transmit: direction(&row["transmit"]),
                        drops: drops
                            .keys()
                            .map(|reason| (reason.clone(), number(&row["drops"], reason)))
                            .collect(),
                        kernel_drops: number(row, "kernel-drops"),
                    };
                    (name, port)
                })
                .collect(),
        )
    }

    /// Counters of one port.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn port(&self, name: &str) -> &Port {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("no port `{name}` in {self:?}"))
    }

    /// What was added since `before`, without reasons that did not move.
    pub fn since(&self, before: &Self) -> Self {
        let direction = |now: Direction, then: Direction| Direction {
            packets: now.packets - then.packets,
            bytes: now.bytes - then.bytes,
            unicast: now.unicast - then.unicast,
            multicast: now.multicast - then.multicast,
            broadcast: now.broadcast - then.broadcast,
        };
        Self(
            self.0
                .iter()
                .map(|(name, now)| {
                    let then = before.0.get(name).cloned().unwrap_or_default();
                    let port = Port {
                        receive: direction(now.receive, then.receive),
                        transmit: direction(now.transmit, then.transmit),
                        drops: now
                            .drops
                            .iter()
                            .map(|(reason, count)| {
                                (reason.clone(), count - then.drops.get(reason).unwrap_or(&0))
                            })
                            .filter(|(_, count)| *count > 0)
                            .collect(),
                        kernel_drops: now.kernel_drops - then.kernel_drops,
                    };
                    (name.clone(), port)
                })
                .collect(),
        )
    }

    /// Frames that came into the switch by any port.
    pub fn received(&self) -> u64 {
        self.0.values().map(|port| port.receive.packets).sum()
    }

    /// Frames that left it by any port.
    pub fn transmitted(&self) -> u64 {
        self.0.values().map(|port| port.transmit.packets).sum()
    }

    /// Drops of all ports by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (reason, count) in self.0.values().flat_map(|port| &port.drops) {
            *sums.entry(reason.clone()).or_insert(0) += count;
        }
        sums
    }
}

/// Samples of a scrape, in the text format of Prometheus.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<(String, BTreeMap<String, String>, f64)>);

impl Metrics {
    /// Reads the text format as far as the switch uses it: no escaped quotes in labels.
    ///
    /// # Panics
    /// On a line that is neither a comment nor a sample.
    pub fn read(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}')?),
                None => (series, ""),
            };
            let labels = labels
                .split("\",")
                .filter(|label| !label.is_empty())
                .map(|label| {
                    let (key, value) = label.split_once("=\"")?;
                    Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
                })
                .collect::<Option<BTreeMap<_, _>>>()?;
            Some((name.to_owned(), labels, value.parse().ok()?))
        };
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
                .map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}")))
                .collect(),
        )
    }

    /// Sum of the samples of `name` whose labels have all of `labels`; `None` if there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching = self.0.iter().filter(|(this, has, _)| {
            this == name
                && labels
                    .iter()
                    .all(|(key, value)| has.get(*key).is_some_and(|v| v == value))
        });
        matching
            .map(|(_, _, value)| *value)
            .reduce(|sum, value| sum + value)
    }

    /// Values of one label over the samples of `name`.
    pub fn label(&self, name: &str, label: &str) -> Vec<String> {
        let matching = self.0.iter().filter(|(this, _, _)| this == name);
        matching
            .filter_map(|(_, labels, _)| labels.get(label).cloned())
            .collect()
    }
}

/// Asks a server on the calling thread's loopback; the body of a 200 answer.
///
/// # Errors
/// One sentence, where the server cannot be reached or answers anything else.
pub fn http_get(port: u16, path: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| format!("GET {path}: {error}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("GET {path}: no HTTP: {answer}"))?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(format!("GET {path}: {answer}"));
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_and_without_labels() {
        let text = "# HELP a A.\n# TYPE a counter\na{port=\"x\",reason=\"runt\"} 3\na{port=\"y\"} 4\nb 0.5\n";
        let metrics = Metrics::read(text);
        assert_eq!(metrics.sum("a", &[]), Some(7.0));
        assert_eq!(metrics.sum("a", &[("port", "x"), ("reason", "runt")]), Some(3.0));
        assert_eq!(metrics.sum("a", &[("port", "z")]), None);
        assert_eq!(metrics.sum("b", &[]), Some(0.5));
        assert_eq!(metrics.label("a", "port"), ["x", "y"]);
    }
}
