//! An API of the test's own, and `vswitchctl` against it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What the API answers: status and body.
pub(crate) type Answer = (u16, Vec<u8>);

/// A request as it came: method, path with query, body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// An API on a socket, until the test ends.
pub(crate) struct Api {
    pub(crate) dir: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Api {
    /// Answers each request by `answer`.
    pub(crate) fn start(answer: impl Fn(&Seen) -> Answer + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("ctl.sock")).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        // The thread ends with the process; a test's requests have all been answered by then.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if let Some(request) = serve(&stream, &answer) {
                    log.lock().unwrap().push(request);
                }
            }
        });
        Self { dir, seen }
    }

    /// One answer to one path; anything else is 404 with a sentence.
    pub(crate) fn with(routes: &[(&str, u16, Value)]) -> Self {
        let routes: Vec<(String, u16, Value)> = routes
            .iter()
            .map(|(route, status, body)| ((*route).to_owned(), *status, body.clone()))
            .collect();
        Self::start(move |request| {
            let wanted = format!("{} {}", request.method, request.path);
            match routes.iter().find(|(route, ..)| *route == wanted) {
                Some((_, status, body)) => (*status, serde_json::to_vec(body).unwrap()),
                None => (
                    404,
                    serde_json::to_vec(&json!({ "error": format!("no {wanted} in this test") })).unwrap(),
                ),
            }
        })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("ctl.sock")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        ctl(&self.socket(), arguments)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

pub(crate) fn serve(mut stream: &UnixStream, answer: &dyn Fn(&Seen) -> Answer) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let request = Seen {
        method,
        path,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    let (status, body) = answer(&request);
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body));
    Some(request)
}

pub(crate) fn command(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchctl"));
    command
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

pub(crate) fn ctl(socket: &Path, arguments: &[&str]) -> Output {
    command(socket, arguments).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Checks that the command failed with one line on standard error that has all of `parts`.
pub(crate) fn fails(output: &Output, status: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert_eq!(stderr(output).lines().count(), 1, "{}", stderr(output));
    for part in parts {
        assert!(
            stderr(output).contains(part),
            "`{part}` is missing in: {}",
            stderr(output)
        );
    }
}
