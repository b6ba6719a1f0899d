//! `manta-sim`: simulates a swarm of real protocol nodes from a seed.
//!
//! Exit status: 0 if every checker was content, 1 if not, 2 for a wrong command
//! line, a wrong scenario, or a trace that cannot be written.

mod cli;

use clap::{Args, Parser, Subcommand};
use manta_simulator::faults::Kind;
use manta_simulator::options::{Faults, Links, Mode};
use manta_simulator::report::{Failure, Summary};
use manta_simulator::tamper::Break;
use manta_simulator::{Options, scenario, simulate, simulate_many};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(version, about = "Simulates a swarm of real Manta protocol nodes on virtual time")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one history, or with --seeds or --long many. What is not given is drawn from the seed.
    Run(Box<RunArgs>),
    /// Keep a ledger on many machines under faults, or with --seeds or --long many. What is not given is drawn from the seed.
    Ledger(Box<cli::ledger::LedgerArgs>),
    /// Run every attack on drills, power and the ledger: predicted and measured outcomes.
    Attacks(cli::attacks::AttacksArgs),
}

#[derive(Args)]
struct RunArgs {
    /// A TOML file with options and faults; options on the command line come first.
    scenario: Option<PathBuf>,
    /// Machines in the swarm.
    #[arg(long)]
    peers: Option<usize>,
    /// Fewest members to start each run with.
    #[arg(long)]
    members: Option<u16>,
    /// Most members of each run.
    #[arg(long)]
    members_max: Option<u16>,
    /// Rounds of each run.
    #[arg(long)]
    rounds: Option<u32>,
    /// Optimiser steps of one round.
    #[arg(long)]
    steps_per_round: Option<u32>,
    /// Users who order a run at the same time.
    #[arg(long)]
    orders: Option<usize>,
    /// How the members' work is put together.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Whether the last of two members goes on alone.
    #[arg(long)]
    solo: Option<bool>,
    /// Everything that is not given is drawn from this [default: the scenario's, or 1].
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds, from --seed on, until one fails.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Run seeds for so many minutes, or until one fails.
    #[arg(long, value_name = "MINUTES", conflicts_with = "seeds")]
    long: Option<u64>,
    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Threads for many seeds [default: all cores].
    #[arg(long)]
    threads: Option<usize>,
    #[command(flatten)]
    links: Links,
    /// Write the history to this file (with one seed).
    #[arg(long, conflicts_with_all = ["seeds", "long"])]
    trace: Option<PathBuf>,
    /// Print one JSON object a history.
    #[arg(long)]
    json: bool,
    /// What goes wrong: one of each of these, separated by commas [default: from the seed].
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Option<Vec<Kind>>,
    /// Nothing goes wrong from outside.
    #[arg(long, conflicts_with = "faults")]
    no_faults: bool,
    /// Let a machine break a rule, to see that it is caught.
    #[arg(long = "break", value_name = "RULE", value_enum, hide = true)]
    broken: Option<Break>,
}

impl RunArgs {
    fn options(&self) -> Result<Options, String> {
        let scenario = self
            .scenario
            .as_deref()
            .map(scenario::read)
            .transpose()?
            .unwrap_or(Options { seed: 1, ..Options::default() });
        let kinds = self.faults.clone().or(self.no_faults.then(Vec::new));
        let given = Options {
            seed: self.seed.unwrap_or(scenario.seed),
            words: replayed(std::env::args().skip(2)),
            peers: self.peers,
            members: self.members,
            members_max: self.members_max,
            rounds: self.rounds,
            steps_per_round: self.steps_per_round,
            orders: self.orders,
            mode: self.mode,
            solo: self.solo,
            links: self.links,
            faults: kinds.map(Faults::Kinds),
            broken: self.broken,
        };
        Ok(given.or(scenario))
    }
}

/// The words of the command line that make a history what it is: without the
/// seed, and without what only says how many and where to.
fn replayed(words: impl Iterator<Item = String>) -> Vec<String> {
    const WITH_VALUE: [&str; 5] = ["--seed", "--seeds", "--long", "--threads", "--trace"];
    const ALONE: [&str; 2] = ["--json", "--keep-going"];
    let mut kept = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap_or_default().to_owned();
        if WITH_VALUE.contains(&name.as_str()) {
            if !word.contains('=') {
                words.next();
            }
        } else if !ALONE.contains(&name.as_str()) {
            kept.push(word);
        }
    }
    kept
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => args.options().and_then(|options| run(&args, &options)),
        Command::Ledger(args) => cli::ledger::run(&args),
        Command::Attacks(args) => cli::attacks::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(2)
        }
    }
}

/// Whether every history was as it should be.
fn run(args: &RunArgs, options: &Options) -> Result<bool, String> {
    if args.seeds == 1 && args.long.is_none() {
        let file = args.trace.as_ref().map(File::create).transpose();
        let file = file.map_err(|error| format!("the trace cannot be written: {error}"))?;
        let summary = simulate(options, file.map(|file| Box::new(BufWriter::new(file)) as Box<dyn Write>))?;
        show(&summary, args.json);
        return Ok(summary.ok);
    }
    let began = Instant::now();
    let until = args.long.map(|minutes| began + Duration::from_secs(60 * minutes));
    let count = if until.is_some() { u64::MAX } else { args.seeds };
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (mut seen, mut failed) = (0u64, 0u64);
    simulate_many(options, count, threads, |summary| {
        seen += 1;
        failed += u64::from(!summary.ok);
        if args.json || !summary.ok {
            show(&summary, args.json);
        }
        (summary.ok || args.keep_going) && until.is_none_or(|until| Instant::now() < until)
    })?;
    eprintln!("{seen} histories, {failed} of them with violations, in {:.1} s", began.elapsed().as_secs_f64());
    Ok(failed == 0)
}

fn show(summary: &Summary, json: bool) {
    if json {
        match serde_json::to_string(summary) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("the summary cannot be written as JSON: {error}"),
        }
    } else {
        let setup = &summary.setup;
        println!(
            "seed {}: {} of {} runs finished, {} paused, {} stopped; {} exchanges and {} views on {} to {} of {} peers; \
             {} faults, {} lost, {} restarted, {} joined; {} events in {} virtual ms, trace {}",
            setup.seed,
            summary.runs_finished,
            setup.orders,
            summary.runs_paused,
            summary.runs_stopped,
            summary.exchanges,
            summary.views,
            setup.members,
            setup.members_max,
            setup.hosts(),
            summary.faults,
            summary.peers_lost,
            summary.restarts,
            summary.peers_joined,
            summary.events,
            summary.virtual_ms,
            &summary.trace_hash[..16],
        );
        for recovery in &summary.recoveries {
            println!("  {} ms from a fault ({:?}) to the others' next progress", recovery.ms, recovery.kind);
        }
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
