//! `manta-sim ledger`: ledgers of real nodes under faults.

use crate::replayed;
use clap::Args;
use manta_simulator::faults::Kind;
use manta_simulator::in_order;
use manta_simulator::ledger::options::Break;
use manta_simulator::ledger::{Options, Summary, scenario, simulate};
use manta_simulator::options::{Faults, Links};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is not given is drawn from the seed.
#[derive(Args)]
pub(crate) struct LedgerArgs {
    /// A TOML file with options and faults; options on the command line come first.
    scenario: Option<PathBuf>,
    /// Machines that keep the ledger.
    #[arg(long)]
    peers: Option<usize>,
    /// Heights that every machine has to reach.
    #[arg(long)]
    heights: Option<u64>,
    /// How many are in the genesis document, with equal power; with 0 they find a ledger by themselves.
    #[arg(long)]
    founders: Option<usize>,
    /// How many keys run on two machines at once.
    #[arg(long)]
    twins: Option<usize>,
    /// How many return wrong drill results.
    #[arg(long)]
    liars: Option<usize>,
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
    /// Let each machine verify all by itself: the same histories, slower.
    #[arg(long)]
    verify_all: bool,
    /// Let machines break a rule, to see that it is caught.
    #[arg(long = "break", value_name = "RULE", value_enum, hide = true)]
    broken: Option<Break>,
}

impl LedgerArgs {
    fn options(&self) -> Result<Options, String> {
        let scenario = self.scenario.as_deref().map(scenario::read).transpose()?;
        let scenario = scenario.unwrap_or(Options { seed: 1, ..Options::default() });
        let kinds = self.faults.clone().or(self.no_faults.then(Vec::new));
        let given = Options {
            seed: self.seed.unwrap_or(scenario.seed),
            words: replayed(std::env::args().skip(2)),
            peers: self.peers,
            heights: self.heights,
            founders: self.founders,
            twins: self.twins,
            liars: self.liars,
            links: self.links,
            faults: kinds.map(Faults::Kinds),
            recoveries: Vec::new(),
            broken: self.broken,
            verify_all: self.verify_all,
        };
        Ok(given.or(scenario))
    }
}

/// Whether every history was as it should be.
pub(crate) fn run(args: &LedgerArgs) -> Result<bool, String> {
    let options = args.options()?;
    if args.seeds == 1 && args.long.is_none() {
        let file = args.trace.as_ref().map(File::create).transpose();
        let file = file.map_err(|error| format!("the trace cannot be written: {error}"))?;
        let summary = simulate(&options, file.map(|file| Box::new(BufWriter::new(file)) as Box<dyn Write>))?;
        show(&summary, args.json);
        return Ok(summary.ok);
    }
    let began = Instant::now();
    let until = args.long.map(|minutes| began + Duration::from_secs(60 * minutes));
    let count = if until.is_some() { u64::MAX } else { args.seeds };
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut totals = Totals::default();
    let one = |seed| simulate(&Options { seed, ..options.clone() }, None);
    in_order(options.seed, count, threads, one, |summary| {
        totals.add(&summary);
        if args.json || !summary.ok {
            show(&summary, args.json);
        }
        (summary.ok || args.keep_going) && until.is_none_or(|until| Instant::now() < until)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    // Standard output has one JSON object a history, if they were asked for.
    let text = format!("{totals}, in {seconds:.1} s");
    if args.json {
        eprintln!("{text}")
    } else {
        println!("{text}")
    }
    Ok(totals.failed == 0)
}

/// How many histories went.
#[derive(Default)]
struct Totals {
    seen: u64,
    /// Fewest and most machines of a history.
    machines: Option<(usize, usize)>,
    heights: u64,
    forks: u64,
    failed: u64,
    faults: u64,
    restarts: u64,
    rounds_lost: u64,
    equivocators: usize,
    liars: usize,
    longest_gap_ms: u64,
}

impl Totals {
    fn add(&mut self, summary: &Summary) {
        let machines = summary.setup.machines();
        let (fewest, most) = self.machines.unwrap_or((machines, machines));
        self.machines = Some((fewest.min(machines), most.max(machines)));
        self.seen += 1;
        self.heights += summary.height;
        self.forks += summary.forks;
        self.failed += u64::from(!summary.ok);
        self.faults += summary.faults;
        self.restarts += summary.restarts;
        self.rounds_lost += summary.rounds_lost;
        self.equivocators += summary.equivocators_named;
        self.liars += summary.liars_named;
        self.longest_gap_ms = self.longest_gap_ms.max(summary.longest_gap_ms);
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (fewest, most) = self.machines.unwrap_or_default();
        write!(
            f,
            "{} histories of {fewest} to {most} machines, {} heights: {} forks, {} with violations; {} faults, \
             {} restarts, {} rounds lost, longest gap {} ms; {} equivocators and {} liars named",
            self.seen,
            self.heights,
            self.forks,
            self.failed,
            self.faults,
            self.restarts,
            self.rounds_lost,
            self.longest_gap_ms,
            self.equivocators,
            self.liars
        )
    }
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
            "seed {}: {} peers ({} founders, {} twins, {} liars) at height {}, {} in the committee, {} forks; \
             {} rounds lost, longest gap {} ms, finality {} ‰ of a flood; \
             tasks {} agreed, {} trusted, {} disputed; {} liars and {} equivocators named; {} of {} probes answered; \
             {} faults, {} restarts; {} events in {} virtual ms, root {}, trace {}",
            setup.seed,
            setup.peers,
            setup.founders,
            setup.twins,
            setup.liars,
            summary.height,
            summary.committee,
            summary.forks,
            summary.rounds_lost,
            summary.longest_gap_ms,
            summary.finality_permille,
            summary.tasks_agreed,
            summary.tasks_trusted,
            summary.tasks_disputed,
            summary.liars_named,
            summary.equivocators_named,
            summary.probes.0,
            summary.probes.1,
            summary.faults,
            summary.restarts,
            summary.events,
            summary.virtual_ms,
            &summary.state_root.get(..8).unwrap_or("none"),
            &summary.trace_hash[..16],
        );
    }
    if !summary.ok {
        summary.violations.iter().for_each(|violation| eprintln!("violation: {violation}"));
        eprintln!("replay: {}", summary.replay);
    }
}
