//! `capture`: frames as they pass, a line each, or as pcapng to a file or pipe.

use std::fs::File;
use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::args::CaptureArgs;
use super::client::{Client, encode};
use super::error::CliError;
use super::output::{Format, Ink, Output, Paint};
use super::pcap::{Blocks, Captured, Piece};
use super::units::count;
use crate::summary::summarise;

/// Enough of a frame for its line.
const LINE_SNAP_LEN: u32 = 256;

/// `capture`
pub(crate) async fn capture(client: &Client, output: &mut Output, args: CaptureArgs) -> Result<(), CliError> {
    let destination = Destination::of(args.write.as_deref())?;
    let mut query = vec![format!("drops={}", args.drops)];
    if let Some(port) = &args.port {
        query.push(format!("port={}", encode(port)));
    }
    let snap_len = args
        .snap_len
        .or(matches!(destination, Destination::Lines).then_some(LINE_SNAP_LEN));
    if let Some(snap_len) = snap_len {
        query.push(format!("snap-len={snap_len}"));
    }
    let mut stream = client.stream(&format!("capture?{}", query.join("&"))).await?;
    // Only now is a file made: one that is there already outlives a daemon that is not.
    let mut sink = Sink::open(destination)?;
    let mut blocks = Blocks::default();
    let mut tally = Tally::default();
    let result = loop {
        let data = tokio::select! {
            data = stream.next() => data,
            _ = tokio::signal::ctrl_c() => break Ok(()),
        };
        match data {
            Ok(Some(data)) => blocks.push(&data),
            Ok(None) => {
                break Err(CliError::Failed(
                    "vswitchd has ended, and with it the capture".to_owned(),
                ));
            }
            Err(error) => break Err(error),
        }
        match pass_on(&mut blocks, &mut sink, output, &mut tally, args.count) {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) if error.is_closed_pipe() => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // The count is a remark for people: it stays out of what a program reads.
    let lost = match tally.lost {
        0 => String::new(),
        lost => format!(", {lost} lost because they came faster than they could be read"),
    };
    let _ = writeln!(
        std::io::stderr(),
        "{} captured{lost}",
        count(tally.frames, "frame")
    );
    result
}

/// What has been seen so far.
#[derive(Default)]
struct Tally {
    frames: usize,
    lost: u64,
}

/// Passes on all whole blocks; true once `limit` frames are through.
fn pass_on(
    blocks: &mut Blocks,
    sink: &mut Sink,
    output: &mut Output,
    tally: &mut Tally,
    limit: Option<u64>,
) -> Result<bool, CliError> {
    let mut full = false;
    while !full && let Some(piece) = blocks.next()? {
        sink.take(&piece, output)?;
        if let Some(frame) = &piece.frame {
            tally.frames += 1;
            tally.lost += frame.lost;
            full = limit.is_some_and(|limit| tally.frames as u64 >= limit);
        }
    }
    // A reader at the other end of a pipe sees a frame when it happens.
    sink.flush(output)?;
    Ok(full)
}

/// Where frames are to go.
#[derive(Clone, Copy)]
enum Destination<'a> {
    /// Lines on standard output.
    Lines,
    /// pcapng on standard output.
    Pipe,
    /// pcapng into a file.
    File(&'a Path),
}

impl<'a> Destination<'a> {
    fn of(path: Option<&'a Path>) -> Result<Self, CliError> {
        match path {
            None => Ok(Self::Lines),
            Some(path) if path == Path::new("-") && std::io::stdout().is_terminal() => Err(CliError::Usage(
                "pcapng is binary and standard output is a terminal; add `| wireshark -k -i -`, or `-w FILE`"
                    .to_owned(),
            )),
            Some(path) if path == Path::new("-") => Ok(Self::Pipe),
            Some(path) => Ok(Self::File(path)),
        }
    }
}

/// Where frames go.
enum Sink {
    /// Lines on standard output.
    Lines,
    /// pcapng on standard output.
    Pipe,
    /// pcapng into a file.
    File(std::io::BufWriter<File>, std::path::PathBuf),
}

impl Sink {
    fn open(destination: Destination<'_>) -> Result<Self, CliError> {
        match destination {
            Destination::Lines => Ok(Self::Lines),
            Destination::Pipe => Ok(Self::Pipe),
            Destination::File(path) => {
                let file = File::create(path).map_err(|source| CliError::File {
                    action: "write",
                    path: path.to_owned(),
                    source,
                })?;
                Ok(Self::File(std::io::BufWriter::new(file), path.to_owned()))
            }
        }
    }

    fn take(&mut self, piece: &Piece, output: &mut Output) -> Result<(), CliError> {
        match self {
            Self::Pipe => Ok(output.raw().write_all(&piece.raw)?),
            Self::File(file, path) => file.write_all(&piece.raw).map_err(|source| CliError::File {
                action: "write",
                path: path.clone(),
                source,
            }),
            Self::Lines => match &piece.frame {
                None => Ok(()),
                Some(frame) => print(frame, output),
            },
        }
    }

    fn flush(&mut self, output: &mut Output) -> Result<(), CliError> {
        match self {
            Self::File(file, path) => file.flush().map_err(|source| CliError::File {
                action: "write",
                path: path.clone(),
                source,
            }),
            Self::Lines | Self::Pipe => output.flush(),
        }
    }
}

fn print(frame: &Captured, output: &mut Output) -> Result<(), CliError> {
    if output.format() == Format::Table {
        let line = line(frame, output.paint());
        return output.line(&line);
    }
    let direction = if frame.outbound { "transmit" } else { "receive" };
    let row = json!({
        "time": frame.time.as_secs_f64(),
        "port": frame.port,
        "direction": direction,
        "frame": summarise(&frame.data, frame.len),
        "length": frame.len,
        "comment": frame.comment,
    });
    output.row(&row, |_| String::new())
}

/// `12:00:01.123456  vm1  rx  52:54:… > …`: rx is from the port into the switch, tx from the switch to the port.
fn line(frame: &Captured, paint: Paint) -> String {
    let direction = if frame.outbound { "tx" } else { "rx" };
    let mut line = format!(
        "{}  {:<8} {direction}  {}",
        paint.paint(Ink::Dim, &clock(frame.time)),
        frame.port,
        summarise(&frame.data, frame.len)
    );
    if let Some(comment) = &frame.comment {
        line.push_str(&format!("  {}", paint.paint(Ink::Bad, &format!("[{comment}]"))));
    }
    line
}

/// The time of day, UTC, to the microsecond.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs() % 86_400;
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        time.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_time_port_direction_frame_and_reason() {
        let frame = Captured {
            time: Duration::new(1_700_000_000, 123_456_789),
            port: "vm1".into(),
            outbound: false,
            data: vec![0xff; 14],
            len: 60,
            comment: Some("drop: runt".into()),
            lost: 0,
        };
        assert_eq!(
            line(&frame, Paint::new(false)),
            "22:13:20.123456  vm1      rx  ff:ff:ff:ff:ff:ff > ff:ff:ff:ff:ff:ff, ethertype 0xffff, len 0, 60 octets  [drop: runt]"
        );
    }
}
