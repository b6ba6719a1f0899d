//! Starting `manta` processes and talking to them.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// However slow the machine, nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the peers of a test write down, unless `MANTA_LOG` says otherwise: enough to explain a failure by.
const LOG_FILTER: &str = "warn,wgpu=error,wgpu_core=error,wgpu_hal=error,naga=error,manta=debug";
/// The swarm of all peers here.
pub(crate) const NETWORK: &str = "end-to-end";
/// Of each peer's log, this many lines are shown when a test fails.
const LOG_LINES_SHOWN: usize = 150;

/// The program under test.
pub(crate) fn manta() -> Command {
    Command::new(env!("CARGO_BIN_EXE_manta"))
}

/// Runs to the end; the output must be read by the caller.
pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("manta starts")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The object on the last line of standard output.
pub(crate) fn last_json(output: &Output) -> Value {
    let text = stdout(output);
    let line = text.lines().last().unwrap_or_else(|| panic!("no output; standard error: {}", stderr(output)));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}; standard error: {}", stderr(output)))
}

/// Fails unless the command failed with all of `parts` in its message, and without a panic.
pub(crate) fn assert_refused(output: &Output, parts: &[&str]) {
    let message = stderr(output);
    assert!(!output.status.success(), "it succeeded: {}", stdout(output));
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

/// Text that a model can learn something from, the same on every machine.
pub(crate) fn sample_text(bytes: usize) -> String {
    let words = ["peer", "swarm", "round", "gradient", "exact", "model", "learns", "from", "text", "and", "the", "a"];
    let mut state = 12_345u32;
    let mut text = String::new();
    while text.len() < bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(words[(state >> 24) as usize % words.len()]);
        text.push(if state & 0x70_0000 == 0 { '\n' } else { ' ' });
    }
    text
}

/// A file of [`sample_text`] in `folder`.
pub(crate) fn sample_file(folder: &Path) -> PathBuf {
    let path = folder.join("sample.txt");
    std::fs::write(&path, sample_text(64 * 1024)).expect("the sample is written");
    path
}

/// A running `manta up`; killed when dropped. When the test fails, the end of its log is printed.
pub(crate) struct Peer {
    child: Child,
    log: PathBuf,
    pub(crate) ready: Value,
    pub(crate) data_dir: PathBuf,
}

impl Peer {
    /// Starts a peer on loopback.
    pub(crate) fn start(folder: &TempDir, name: &str, extra: &[&str]) -> Self {
        let loopback = [
            "--no-mdns",
            "--listen",
            "/ip4/127.0.0.1/udp/0/quic-v1",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--threads",
            "1",
        ];
        Self::spawn(manta(), folder, name, &[&loopback, extra].concat())
    }

    /// Starts a peer by `launcher`, which may be a wrapper such as `ip netns exec`.
    pub(crate) fn spawn(mut launcher: Command, folder: &TempDir, name: &str, arguments: &[&str]) -> Self {
        let data_dir = folder.path().join(name);
        // Each start has a log of its own: what a killed process wrote may explain what the next one meets.
        let later = (2..).map(|start| format!("{name}.{start}.log"));
        let mut logs = std::iter::once(format!("{name}.log")).chain(later).map(|log| folder.path().join(log));
        let log = logs.find(|log| !log.exists()).expect("there are numbers enough");
        if std::env::var_os("MANTA_LOG").is_none() {
            launcher.env("MANTA_LOG", LOG_FILTER);
        }
        let child = launcher
            .arg("--data-dir")
            .arg(&data_dir)
            .args(["up", "--json", "--http", "127.0.0.1:0", "--network", NETWORK])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("manta starts");
        let mut peer = Self { child, log, ready: Value::Null, data_dir };
        let mut line = String::new();
        BufReader::new(peer.child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        peer.ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{name} did not start"));
        peer
    }

    pub(crate) fn ticket(&self) -> &str {
        self.ready["ticket"].as_str().expect("a ticket")
    }

    pub(crate) fn id(&self) -> &str {
        self.ready["peer_id"].as_str().expect("an id")
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a farewell.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Waits until it has ended by itself, and calls `meanwhile` now and then before.
    pub(crate) fn ended(&mut self, mut meanwhile: impl FnMut(&Self)) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it was started") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on");
            meanwhile(self);
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Asks it to end, as Ctrl-C does, and waits until it has.
    pub(crate) fn interrupt(&mut self) {
        let asked = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("`kill` runs");
        assert!(asked.success());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }

    /// What it answers at `path`: the status line and the body.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        self.try_get(path).expect("the peer answers")
    }

    /// As [`Self::get`], of a peer that may die meanwhile.
    fn try_get(&self, path: &str) -> std::io::Result<(String, String)> {
        let address = self.ready["http"].as_str().expect("an address");
        let mut stream = TcpStream::connect(address)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
    }

    /// The status of a peer that may die meanwhile.
    pub(crate) fn last_status(&self) -> Option<Value> {
        self.try_get("/api/status").ok().and_then(|(_, body)| serde_json::from_str(&body).ok())
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/api/status").1).expect("the status is JSON")
    }

    /// Polls the status until `seen` finds what it looks for in it.
    pub(crate) fn wait_for<T>(&self, what: &str, seen: impl FnMut(&Value) -> Option<T>) -> T {
        poll(what, || self.status(), seen)
    }

    /// A command of the same user, for this peer.
    pub(crate) fn command(&self) -> Command {
        let mut command = manta();
        command.arg("--data-dir").arg(&self.data_dir);
        command
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = self.child.try_wait().ok().flatten().map_or("it ran".to_owned(), |status| status.to_string());
            let log = std::fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let skipped = log.lines().count().saturating_sub(LOG_LINES_SHOWN);
            let shown: Vec<&str> = log.lines().skip(skipped).collect();
            eprintln!("=== {} ({ended}; {skipped} lines before)\n{}", self.log.display(), shown.join("\n"));
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until `seen` finds what it looks for; fails with the last answer when patience is over.
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Value, mut seen: impl FnMut(&Value) -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if let Some(found) = seen(&answer) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come about: {answer:#}");
        // Polite polling, not synchronisation: the loop ends when it sees what it waits for.
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Whether the tests named `what` are to be skipped, as asked for aloud.
pub(crate) fn skipped(what: &str) -> bool {
    let skipped = std::env::var("MANTA_TEST_SKIP").unwrap_or_default().split(',').any(|name| name == what);
    if skipped {
        println!("SKIPPED as MANTA_TEST_SKIP asks: {what}");
    }
    skipped
}
