//! `manta-sim attacks`: the table of attacks, predicted and measured.

use clap::Args;
use manta_simulator::attacks::{Outcome, Scale, canaries, table};

/// What to measure.
#[derive(Args)]
pub(crate) struct AttacksArgs {
    /// Everything is drawn from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from --seed on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How many times as many tasks as in the tests.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    times: u64,
    /// Print one JSON object an attack.
    #[arg(long)]
    json: bool,
    /// Take the defences away, to see that the thresholds fail.
    #[arg(long, hide = true)]
    canaries: bool,
}

/// Whether every measure lies within its bounds (of canaries: none does).
pub(crate) fn run(args: &AttacksArgs) -> Result<bool, String> {
    let scale = Scale { times: args.times };
    let mut all = true;
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let outcomes = if args.canaries { canaries(seed, scale)? } else { table(seed, scale)? };
        if !args.json {
            println!("| Attack | Measure | Predicted | Measured | At least | At most | Trials | Seed | |");
            println!("|---|---|---|---|---|---|---|---|---|");
        }
        for outcome in outcomes {
            all &= outcome.ok != args.canaries;
            show(&outcome, args.json);
        }
    }
    Ok(all)
}

fn show(outcome: &Outcome, json: bool) {
    if json {
        match serde_json::to_string(outcome) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("the outcome cannot be written as JSON: {error}"),
        }
        return;
    }
    let Outcome { attack, what, measure, predicted, measured, at_least, at_most, trials, seed, ok } = outcome;
    let verdict = if *ok { "ok" } else { "**out of bounds**" };
    println!(
        "| {attack}: {what} | {measure} | {predicted:.4} | {measured:.4} | {at_least:.4} | {at_most:.4} | {trials} | {seed} | {verdict} |"
    );
}
