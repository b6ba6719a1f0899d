//! The commands. Results go to standard output, logs and progress to standard
//! error; with `--json` standard output is for scripts.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 and 143 interrupted.

mod bench;
mod consent;
mod demo;
mod devices;
mod drill;
mod eval;
mod files;
mod fit;
mod format;
mod generate;
mod invite;
mod ledger;
mod logging;
mod parse;
mod plot;
mod progress;
mod recipe;
mod recover;
mod report;
mod schedule;
pub(crate) mod shutdown;
mod status;
mod stop;
mod tokenize;
mod train;
pub(crate) mod up;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Any error, ready to be shown to a person.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Train language models together, peer to peer.
#[derive(Debug, Parser)]
#[command(name = "manta", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Start here:
  manta demo                            four peers on this machine train a small model

On real machines:
  manta up                              start a peer
  manta invite --own                    a ticket for another machine of yours
  manta up --join TICKET                join from there
  manta train --data book.txt --out model
                                        train with all your machines that are free
  manta generate model --prompt 'Once'  let the model write";

const GLOBAL_HEADING: &str = "Options of every command";

/// What every command takes.
#[derive(Args, Debug)]
struct Global {
    /// Which logs to show on standard error, as in `debug` or `warn,manta=debug`
    /// [env: MANTA_LOG] [default: info for `up`, else warn]
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, display_order = 1000, value_name = "FILTER")]
    log: Option<String>,

    /// Write logs as JSON, one object a line
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, display_order = 1000)]
    log_json: bool,

    /// Where the peer keeps its identity and data [env: MANTA_DATA_DIR]
    /// [default: the user's data folder]
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, display_order = 1000, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a peer: it finds others, offers this machine, takes part in runs
    Up(up::UpArgs),
    /// Train a model with the peers that are free
    Train(train::TrainArgs),
    /// Make a ticket that invites another machine
    Invite(invite::InviteArgs),
    /// Take an invitation back
    Revoke(invite::RevokeArgs),
    /// Stop a run or an order
    Stop(stop::StopArgs),
    /// Show what the running peer knows and does
    Status(status::StatusArgs),
    /// Look at the ledger that the swarm agrees on, and move credits
    Ledger(ledger::LedgerArgs),
    /// See how peers prove what they can do
    Drill(drill::DrillArgs),
    /// Show a peer's power, and explain every point of it
    Power(drill::PowerArgs),
    /// Let a trained model write
    Generate(generate::GenerateArgs),
    /// Measure how well a model predicts a text
    Eval(eval::EvalArgs),
    /// Make a tokenizer of a corpus, or look at what one does
    Tokenize(tokenize::TokenizeArgs),
    /// Show what can compute here, and which device would be chosen
    Devices(devices::DevicesArgs),
    /// Measure a device, or prove that it computes the exact arithmetic
    Bench(bench::BenchArgs),
    /// Train a small model over real peers on this machine, and clean up
    Demo(demo::DemoArgs),
}

/// Parses the arguments, runs the command, reports its error.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            match error.downcast_ref::<shutdown::Interrupted>() {
                Some(interrupted) => ExitCode::from(interrupted.exit_code()),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn start(cli: Cli) -> Result<(), Error> {
    let Cli { global, command } = cli;
    let default_filter = if matches!(command, Command::Up(_)) { logging::UP_FILTER } else { logging::OTHER_FILTER };
    logging::start(global.log.as_deref(), default_filter, global.log_json)?;
    let data_dir = || files::data_dir(global.data_dir.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Up(arguments) => up::run(arguments, data_dir()?).await,
            Command::Train(arguments) => train::run(arguments, &data_dir()?).await,
            Command::Invite(arguments) => invite::invite(arguments, &data_dir()?).await,
            Command::Revoke(arguments) => invite::revoke(arguments, &data_dir()?).await,
            Command::Stop(arguments) => stop::run(arguments, &data_dir()?).await,
            Command::Status(arguments) => status::run(arguments, &data_dir()?).await,
            Command::Ledger(arguments) => ledger::run(arguments, &data_dir()?).await,
            Command::Drill(arguments) => drill::run(arguments, &data_dir()?).await,
            Command::Power(arguments) => drill::power(arguments, &data_dir()?).await,
            Command::Generate(arguments) => generate::run(arguments, data_dir().ok().as_deref()),
            Command::Eval(arguments) => eval::run(&arguments, data_dir().ok().as_deref()),
            Command::Tokenize(arguments) => tokenize::run(arguments),
            Command::Devices(arguments) => devices::run(&arguments, &data_dir()?),
            Command::Bench(arguments) => bench::run(&arguments, data_dir().ok().as_deref()),
            Command::Demo(arguments) => demo::run(arguments, data_dir().ok(), global.log.as_deref()).await,
        }
    });
    // Whatever still runs ends with the process; waiting for it would hang.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests;
