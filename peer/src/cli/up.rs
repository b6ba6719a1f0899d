//! `manta up`.

use super::{Error, parse, shutdown};
use crate::api::PeerFile;
use crate::device::Wanted;
use crate::drill::Share;
use crate::net::bulk::Congestion;
use crate::status::Status;
use crate::store::fault::Death;
use crate::up::UpOptions;
use clap::Args;
use libp2p::Multiaddr;
use manta_gpu_kernels::Recompute;
use manta_protocol::wire::limits::TEXT_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Start a peer: it finds others, offers this machine, takes part in runs.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta up                              the first peer of a swarm; prints its ticket
  manta up --join TICKET                join from another machine
  manta up --invite-only --network lab  found a swarm for those whom you invite
  manta up --no-offer                   place orders from here, compute nothing
  manta up --listen /ip4/0.0.0.0/udp/4001/quic-v1 --listen /ip4/0.0.0.0/tcp/4001
                                        fixed ports, for a firewall or a router
  manta up --http 127.0.0.1:0 --data-dir other
                                        a second peer on this machine")]
pub(super) struct UpArgs {
    /// A ticket, or the multiaddress of a peer, to join by; may be repeated
    #[arg(long, value_name = "TICKET|MULTIADDR")]
    join: Vec<String>,

    /// Address to listen on; may be repeated [default: any free port, QUIC and TCP]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,

    /// Address of the page, the metrics and the control; keep it on loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8420")]
    http: SocketAddr,

    /// Name of the swarm; peers with different names never mix [default: manta,
    /// or the invite-only swarm that this peer belongs to]
    #[arg(long, value_name = "NAME", value_parser = short_text)]
    network: Option<String>,

    /// Found a swarm that only those can join whom you invite (`manta invite`);
    /// said once, it holds for the data folder
    #[arg(long)]
    invite_only: bool,

    /// Do not look for peers on the local network
    #[arg(long)]
    no_mdns: bool,

    /// Where this machine is, as others shall see it
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true, value_parser = short_text)]
    region: String,

    /// Threads to compute with; 0 for one on each processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,

    /// Compute activations again on the way back, for up to a third more products, instead of
    /// keeping them: auto (where they do not fit), always, or never (refuse such models)
    #[arg(long, value_name = "WHEN", default_value_t)]
    recompute: Recompute,

    /// What computes: auto, native, gpu, software, or a part of a device's name
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Wanted,

    /// Where admissions of devices are kept [default: in the data folder]
    #[arg(long, hide = true, value_name = "DIR")]
    device_cache: Option<PathBuf>,

    /// Do not offer this machine to others; your own orders still use it
    #[arg(long)]
    no_offer: bool,

    /// Longest run of others to take part in
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse::duration)]
    duration_max: Duration,

    /// How tensors share the link; bbr may be faster on long links with losses
    #[arg(long, value_enum, default_value_t)]
    congestion: Congestion,

    /// Most of this machine's time that drilling may take, in percents; 0 to only
    /// follow the ledger, without a part in it
    #[arg(long, value_name = "PERCENT", default_value_t)]
    drill_share: Share,

    /// Time from block to block, if this peer founds a ledger, with small drills as in the demo
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse::epoch)]
    epoch: Option<Duration>,

    /// Tell wrong results of drills once this peer has some power, to show that they are found
    #[arg(long, hide = true)]
    lie: bool,

    /// End as by `kill -9` at this point of keeping the ledger, to show that nothing is lost
    #[arg(long, hide = true, value_name = "POINT[:PASSES]")]
    die_at: Option<Death>,

    /// Print one JSON object once the peer is ready, instead of text
    #[arg(long)]
    json: bool,

    /// Write down what each exchange of a run counted, in DATA/diaries
    #[arg(long, hide = true)]
    diary: bool,

    /// End when standard input is closed
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

/// A peer that is up: what others need to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {
    /// Its name, hexadecimal.
    pub(crate) peer_id: String,
    /// What others join by.
    pub(crate) ticket: String,
    /// Address of the HTTP server.
    pub(crate) http: SocketAddr,
    /// Where it listens.
    pub(crate) addresses: Vec<String>,
    /// Whether the ticket is of use to those only who were invited.
    pub(crate) invite_only: bool,
}

/// The one line of `manta up --json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum UpEvent {
    Ready(Ready),
}

impl Ready {
    /// Prints this to standard output: once, when everything listens.
    ///
    /// # Errors
    /// When standard output is closed.
    fn announce(&self, json: bool) -> Result<(), Error> {
        let text = if json {
            serde_json::to_string(&UpEvent::Ready(self.clone()))?
        } else {
            let Self { peer_id, ticket, http, addresses, invite_only } = self;
            let addresses = addresses.join("\n            ");
            let join = match invite_only {
                true => "The swarm is invite-only. To invite somebody:\n  manta invite\n".into(),
                false => format!("To join from another machine:\n  manta up --join {ticket}\n"),
            };
            format!(
                "peer        {peer_id}\nlistens on  {addresses}\npage        http://{http}/\n\n{join}\n\
                 To make another machine your own, so that it may see your text:\n  manta invite --own\n\n\
                 To train with all your machines that are free:\n  manta train --data TEXT --out DIR\n"
            )
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()?;
        Ok(())
    }
}

fn short_text(text: &str) -> Result<String, String> {
    if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!("expected at most {TEXT_BYTES_MAX} bytes of printable text"));
    }
    Ok(text.to_owned())
}

impl UpArgs {
    fn options(self, data_dir: PathBuf) -> UpOptions {
        UpOptions {
            data_dir,
            join: self.join,
            listen: self.listen,
            http: self.http,
            network: self.network,
            invite_only: self.invite_only,
            mdns: !self.no_mdns,
            region: self.region,
            device: self.device,
            device_cache: self.device_cache,
            threads: self.threads,
            recompute: self.recompute,
            offer: !self.no_offer,
            congestion: self.congestion,
            drill_share: self.drill_share,
            epoch: self.epoch,
            lies: self.lie,
            die_at: self.die_at,
            diary: self.diary,
            duration_max_s: self.duration_max.as_secs(),
        }
    }
}

pub(super) async fn run(arguments: UpArgs, data_dir: PathBuf) -> Result<(), Error> {
    let json = arguments.json;
    let stop = shutdown::requested(arguments.exit_with_stdin);
    let announce = |file: &PeerFile, status: &Status| {
        let ready = Ready {
            peer_id: file.peer_id.clone(),
            ticket: file.ticket.clone(),
            http: file.http,
            addresses: status.addresses.clone(),
            invite_only: status.membership.founder.is_some(),
        };
        // A peer whose output nobody reads is a peer all the same.
        if let Err(error) = ready.announce(json) {
            tracing::warn!(%error, "cannot print the ticket; `manta status` shows it");
        }
    };
    let stop = async {
        let reason = stop.await;
        tracing::info!(%reason, "shutting down");
    };
    crate::up::run(arguments.options(data_dir), announce, stop).await
}
