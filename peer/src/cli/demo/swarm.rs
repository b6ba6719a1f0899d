//! Real peers as child processes on loopback, each with a folder of its own.
//!
//! Children end when told, when this process ends however it ends (their
//! standard input closes), and at the latest when [`Child`] is dropped.

use super::audit::Diary;
use crate::api::PeerFile;
use crate::cli::Error;
use crate::cli::up::{Ready, UpEvent};
use crate::device::Wanted;
use crate::http::client::PeerClient;
use crate::run::diary;
use crate::status::Status;
use futures::future::{join_all, try_join_all};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// Longest wait for a child to listen.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for children to end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a log is shown.
const LOG_LINES: usize = 15;
const LOG_BYTES: u64 = 16 * 1024;

/// What all children have in common.
#[derive(Clone, Debug)]
pub(super) struct SwarmOptions {
    /// Where the children's folders are made.
    pub(super) folder: PathBuf,
    pub(super) network: String,
    /// Of each child.
    pub(super) threads: usize,
    /// What each computes on; as many as there are peers.
    pub(super) devices: Vec<Wanted>,
    /// Where admissions of devices are kept.
    pub(super) device_cache: PathBuf,
    /// Which child tells wrong results of drills.
    pub(super) liar: Option<usize>,
    /// Log filter; `None` for the default of `manta up`.
    pub(super) log: Option<String>,
}

/// A peer in a process of its own.
pub(super) struct Child {
    index: usize,
    folder: PathBuf,
    process: tokio::process::Child,
    /// Its end is the child's end.
    stdin: Option<ChildStdin>,
    /// Kept open, so that the child can write.
    _stdout: BufReader<ChildStdout>,
    ready: Ready,
    client: PeerClient,
    log: PathBuf,
    ended: Option<ExitStatus>,
    /// Whether it ended because it was told to.
    killed: bool,
    frozen: bool,
}

/// All children.
pub(super) struct Swarm {
    options: SwarmOptions,
    children: Vec<Child>,
}

impl Swarm {
    /// Starts the first peer, then the others, which join it by its ticket.
    ///
    /// # Errors
    /// A child that cannot be started, or ends or hangs before it listens; with
    /// the end of its log.
    pub(super) async fn start(options: &SwarmOptions) -> Result<Self, Error> {
        let first = Child::start(options, 0, None).await?;
        let ticket = first.ready.ticket.clone();
        let others = (1..options.devices.len()).map(|index| Child::start(options, index, Some(&ticket)));
        let others = try_join_all(others).await?;
        Ok(Self { options: options.clone(), children: std::iter::once(first).chain(others).collect() })
    }

    /// Starts one more peer, which joins by somebody's ticket.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(super) async fn join(&mut self) -> Result<(), Error> {
        let child = Child::start(&self.options, self.children.len(), self.ticket().as_deref()).await?;
        self.children.push(child);
        Ok(())
    }

    /// Starts a peer that was killed again, with what is in its folder.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(super) async fn restart(&mut self, index: usize) -> Result<(), Error> {
        self.children[index] = Child::start(&self.options, index, self.ticket().as_deref()).await?;
        Ok(())
    }

    /// Of somebody who is there.
    fn ticket(&self) -> Option<String> {
        let there = self.children.iter().find(|child| child.ended.is_none() && !child.frozen);
        there.map(|child| child.ready.ticket.clone())
    }

    /// Kills a peer and waits until it is gone.
    ///
    /// # Errors
    /// When it has ended already.
    pub(super) async fn kill(&mut self, index: usize) -> Result<(), Error> {
        let child = &mut self.children[index];
        child.process.kill().await?;
        child.ended = child.process.try_wait()?;
        child.killed = true;
        Ok(())
    }

    /// Stops a peer as it stands: its connections stay open, and silent.
    ///
    /// # Errors
    /// When the system cannot do it.
    pub(super) fn freeze(&mut self, index: usize) -> Result<(), Error> {
        self.children[index].freeze(true)
    }

    /// Lets a frozen peer go on.
    ///
    /// # Errors
    /// When the system cannot do it.
    pub(super) fn thaw(&mut self, index: usize) -> Result<(), Error> {
        self.children[index].freeze(false)
    }

    /// The diary that each peer kept of `run`.
    ///
    /// # Errors
    /// A diary that cannot be read.
    pub(super) fn diaries(&self, run: &str) -> Result<Vec<Diary>, Error> {
        let mut diaries = Vec::new();
        for child in &self.children {
            let path = child.folder.join("diaries").join(format!("{run}.jsonl"));
            // Who never got to take part has none.
            if path.is_file() {
                let lines = diary::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                diaries.push(Diary { peer: child.ready.peer_id.parse()?, lines });
            }
        }
        Ok(diaries)
    }

    /// The peer that the order is placed on.
    pub(super) fn first(&self) -> &Child {
        &self.children[0]
    }

    /// The peers' ids, by number.
    pub(super) fn peer_ids(&self) -> Vec<String> {
        self.children.iter().map(|child| child.ready.peer_id.clone()).collect()
    }

    /// What each peer says of itself; `None` for those that do not answer.
    pub(super) async fn statuses(&self) -> Vec<Option<Status>> {
        join_all(self.children.iter().map(Child::status)).await
    }

    /// Peers that have ended since the last call, each with why, for people.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(super) fn newly_ended(&mut self) -> Result<Vec<(usize, String)>, Error> {
        let mut ended = Vec::new();
        for child in self.children.iter_mut().filter(|child| child.ended.is_none()) {
            if let Some(status) = child.process.try_wait()? {
                child.ended = Some(status);
                ended.push((child.index, describe_end(child.index, status, &child.log)));
            }
        }
        Ok(ended)
    }

    /// How many peers have ended without being told to.
    pub(super) fn lost(&self) -> usize {
        self.children.iter().filter(|child| child.ended.is_some() && !child.killed).count()
    }

    /// Ends all children: by asking, then by force.
    pub(super) async fn stop(mut self) {
        for child in &mut self.children {
            // One that is frozen could not hear that it is to end.
            if child.frozen && child.freeze(false).is_err() {
                tracing::warn!(peer = child.index, "a frozen peer could not be thawed; it is killed");
            }
            child.stdin = None;
        }
        let ends = join_all(self.children.iter_mut().map(|child| child.process.wait()));
        if tokio::time::timeout(STOP_TIMEOUT, ends).await.is_err() {
            // Those that have ended already cannot be killed, which is fine.
            join_all(self.children.iter_mut().map(|child| child.process.kill())).await;
        }
    }
}

impl Child {
    async fn start(options: &SwarmOptions, index: usize, ticket: Option<&str>) -> Result<Self, Error> {
        let folder = options.folder.join(format!("peer-{index}"));
        std::fs::create_dir_all(&folder)?;
        let log = folder.join("log");
        // A peer that is started again goes on with its log.
        let log_file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments(options, index, &folder, ticket)).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file);
        // Ctrl-C is for the parent alone, which then ends its children in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut process = command.spawn().map_err(|error| format!("cannot start peer {index}: {error}"))?;
        let stdin = process.stdin.take();
        let mut stdout = BufReader::new(process.stdout.take().ok_or("a child without standard output")?);
        let mut line = String::new();
        match tokio::time::timeout(READY_TIMEOUT, stdout.read_line(&mut line)).await {
            Ok(Ok(bytes)) if bytes > 0 => {}
            Ok(_) => {
                // Standard output closes a moment before the process ends.
                let status = process.wait().await?;
                return Err(describe_end(index, status, &log).into());
            }
            Err(_) => {
                let seconds = READY_TIMEOUT.as_secs();
                return Err(format!("peer {index} was not ready within {seconds} s{}", log_end(&log)).into());
            }
        }
        let UpEvent::Ready(ready) = serde_json::from_str(&line)
            .map_err(|error| format!("peer {index} printed `{}`, not that it is ready: {error}", line.trim_end()))?;
        let client = PeerClient::of(&PeerFile::read(&folder)?);
        Ok(Self {
            index,
            folder,
            process,
            stdin,
            _stdout: stdout,
            ready,
            client,
            log,
            ended: None,
            killed: false,
            frozen: false,
        })
    }

    #[cfg(unix)]
    fn freeze(&mut self, freeze: bool) -> Result<(), Error> {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or("the peer has ended")?;
        kill_process(pid, if freeze { Signal::STOP } else { Signal::CONT })?;
        self.frozen = freeze;
        Ok(())
    }

    #[cfg(not(unix))]
    fn freeze(&mut self, _: bool) -> Result<(), Error> {
        Err("this system cannot freeze processes; try --kill-one".into())
    }

    pub(super) fn client(&self) -> &PeerClient {
        &self.client
    }

    async fn status(&self) -> Option<Status> {
        if self.ended.is_some() || self.frozen {
            return None;
        }
        self.client.status().await.inspect_err(|error| tracing::warn!(peer = self.index, %error, "no status")).ok()
    }
}

/// What `manta` is called with.
fn arguments(options: &SwarmOptions, index: usize, folder: &Path, ticket: Option<&str>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["up", "--json", "--exit-with-stdin", "--no-mdns", "--diary"].map(Into::into).into();
    let mut option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        arguments.push(name.into());
        arguments.push(value.as_ref().into());
    };
    option("--data-dir", &folder);
    option("--listen", &"/ip4/127.0.0.1/udp/0/quic-v1");
    option("--listen", &"/ip4/127.0.0.1/tcp/0");
    option("--http", &"127.0.0.1:0");
    option("--network", &options.network);
    option("--threads", &options.threads.to_string());
    // Whoever comes later computes on what the last one does.
    let device = options.devices.get(index).or(options.devices.last()).unwrap_or(&Wanted::Auto);
    option("--device", &device.to_string());
    option("--device-cache", &options.device_cache);
    // A ledger that can be watched.
    option("--epoch", &"1s");
    if let Some(log) = &options.log {
        option("--log", log);
    }
    if let Some(ticket) = ticket {
        option("--join", &ticket);
    }
    if options.liar == Some(index) {
        arguments.push("--lie".into());
    }
    arguments
}

fn describe_end(index: usize, status: ExitStatus, log: &Path) -> String {
    format!("peer {index} ended too early ({status}){}", log_end(log))
}

/// The end of a log, as an appendix of a message.
fn log_end(log: &Path) -> String {
    match read_end(log) {
        Ok(end) if end.is_empty() => "; its log is empty".into(),
        Ok(end) => format!("; its log ends with:\n{end}"),
        Err(error) => format!("; its log cannot be read: {error}"),
    }
}

fn read_end(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    Ok(last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_end_of_a_log_is_short_whatever_its_length() {
        let mut log = tempfile::NamedTempFile::new().expect("a file");
        assert!(log_end(log.path()).contains("empty"));
        for line in 0..10_000 {
            writeln!(log, "line {line}").expect("writes");
        }
        let end = log_end(log.path());
        assert_eq!(end.lines().count(), 1 + LOG_LINES, "{end}");
        assert!(end.ends_with("  line 9999"), "{end}");
        assert!(log_end(Path::new("/nowhere/log")).contains("cannot be read"));
    }

    #[test]
    fn children_are_told_apart_and_kept_on_loopback() {
        let options = SwarmOptions {
            folder: "/tmp/demo".into(),
            network: "demo-1".into(),
            threads: 1,
            devices: vec![Wanted::Native, Wanted::Software],
            device_cache: "/tmp/devices".into(),
            liar: Some(1),
            log: Some("debug".into()),
        };
        let text = |ticket| {
            let arguments = arguments(&options, 1, Path::new("/tmp/demo/peer-1"), ticket);
            arguments.into_iter().map(|a| a.into_string().expect("text")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            text(Some("TICKET")),
            "up --json --exit-with-stdin --no-mdns --diary --data-dir /tmp/demo/peer-1 --listen /ip4/127.0.0.1/udp/0/quic-v1 \
             --listen /ip4/127.0.0.1/tcp/0 --http 127.0.0.1:0 --network demo-1 --threads 1 --device software \
             --device-cache /tmp/devices --epoch 1s --log debug --join TICKET --lie"
        );
        assert!(!text(None).contains("--join"));
    }
}
