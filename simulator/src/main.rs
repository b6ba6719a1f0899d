//! `manta-sim`: simulates a swarm of real protocol nodes from a seed.
//!
//! Exit status: 0 if every checker was content and every run finished, 1 if
//! not, 2 for a wrong command line or a trace that cannot be written.

use clap::{Args, Parser, Subcommand};
use manta_simulator::faults::Fault;
use manta_simulator::network::Conditions;
use manta_simulator::report::{Failure, Summary};
use manta_simulator::workload::Break;
use manta_simulator::{Options, simulate};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Most members of one run.
const MEMBERS_MAX: u16 = manta_protocol::wire::limits::MEMBERS_MAX as u16;

#[derive(Parser)]
#[command(version, about = "Simulates a swarm of real Manta protocol nodes on virtual time")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one history, or with --seeds many.
    Run(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Machines in the swarm.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4096))]
    peers: u16,
    /// Members of each run [default: all peers, at most 16].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MEMBERS_MAX)))]
    members: Option<u16>,
    /// Rounds of each run, of two steps each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Users who order a run at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    orders: u16,
    /// Everything that is not given is drawn from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run so many seeds, one after another from --seed on, until one fails.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    #[command(flatten)]
    links: Links,
    /// Write the history to this file (with one seed).
    #[arg(long, conflicts_with = "seeds")]
    trace: Option<PathBuf>,
    /// Print one JSON object a history.
    #[arg(long)]
    json: bool,
    /// What goes wrong: a machine is killed, or the swarm is partitioned, at a time from the seed.
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Let machine 1 break a rule, to see that it is caught.
    #[arg(long = "break", value_name = "RULE", value_enum, hide = true)]
    broken: Option<Break>,
}

#[derive(Args)]
struct Links {
    /// Longest one-way latency of a link, in microseconds [default: from the seed].
    #[arg(long)]
    latency_us: Option<u64>,
    /// Longest random addition to a message's latency, in microseconds [default: from the seed].
    #[arg(long)]
    jitter_us: Option<u64>,
    /// Frames lost in a million [default: from the seed].
    #[arg(long)]
    loss_per_million: Option<u64>,
    /// Uplink of each machine, in bytes a second [default: from the seed].
    #[arg(long)]
    uplink_bytes_per_s: Option<u64>,
    /// Largest error of a machine's clock, in milliseconds [default: from the seed].
    #[arg(long)]
    skew_ms: Option<u64>,
}

impl Links {
    /// `None` if all is left to the seed.
    fn conditions(&self, seed: u64) -> Option<Conditions> {
        let given = [self.latency_us, self.jitter_us, self.loss_per_million, self.uplink_bytes_per_s, self.skew_ms];
        let drawn = Conditions::drawn(manta_protocol::Seed::from_number(seed));
        given.iter().any(Option::is_some).then(|| Conditions {
            latency_us_max: self.latency_us.unwrap_or(drawn.latency_us_max),
            jitter_us_max: self.jitter_us.unwrap_or(drawn.jitter_us_max),
            loss_per_million: self.loss_per_million.unwrap_or(drawn.loss_per_million),
            uplink_bytes_per_s: self.uplink_bytes_per_s.unwrap_or(drawn.uplink_bytes_per_s),
            skew_ms_max: self.skew_ms.unwrap_or(drawn.skew_ms_max),
        })
    }
}

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    let members = args.members.unwrap_or(args.peers.min(MEMBERS_MAX));
    if members > args.peers {
        eprintln!("a run of {members} members needs at least as many peers; found --peers {}", args.peers);
        return ExitCode::from(2);
    }
    for seed in (0..args.seeds).map(|index| args.seed.wrapping_add(index)) {
        let options = Options {
            peers: usize::from(args.peers),
            members,
            rounds: args.rounds,
            orders: usize::from(args.orders),
            seed,
            conditions: args.links.conditions(seed),
            broken: args.broken,
            fault: args.fault,
        };
        match run(options, args.trace.as_ref()) {
            Ok(summary) => {
                show(&summary, args.json);
                if !summary.ok {
                    return ExitCode::from(1);
                }
            }
            Err(error) => {
                eprintln!("the trace cannot be written: {error}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

fn run(options: Options, trace: Option<&PathBuf>) -> std::io::Result<Summary> {
    let out = trace.map(File::create).transpose()?;
    simulate(options, out.map(|file| Box::new(BufWriter::new(file)) as Box<dyn Write>))
}

fn show(summary: &Summary, json: bool) {
    if json {
        match serde_json::to_string(summary) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("the summary cannot be written as JSON: {error}"),
        }
    } else {
        println!(
            "seed {}: {} of {} runs finished, {} rounds on {} of {} peers, {} events in {} virtual ms, trace {}",
            summary.seed,
            summary.runs_finished,
            summary.orders,
            summary.rounds,
            summary.members,
            summary.peers,
            summary.events,
            summary.virtual_ms,
            &summary.trace_hash[..16],
        );
        for failure in &summary.failures {
            let Failure { on, reason, culprit, reported_by } = failure;
            println!("  on {on:.8}: {reason}, by {culprit:.8}, as {reported_by:.8} says");
        }
    }
    if !summary.ok {
        summary.violations.iter().for_each(|violation| eprintln!("violation: {violation}"));
        eprintln!("replay: {}", summary.replay);
    }
}
