//! `manta demo`: the whole of Manta on one machine.
//!
//! Starts real peers as child processes, places one order on the first,
//! follows it at all of them, and cleans up whatever happens.

mod audit;
mod chain;
mod devices;
mod faults;
mod outcome;
mod swarm;

use super::generate::Writer;
use super::generate::sample::Sampling;
use super::progress::Progress;
use super::recipe::Recipe;
use super::report::{Report, has_ended};
use super::train::POLL_INTERVAL;
use super::{Error, files, shutdown};
use crate::api::{Basis, OrderRequest};
use crate::checkpoint::write::{Foreign, check_destination};
use crate::device::{Chosen, Wanted, cache_of};
use crate::status::{OrderState, RunStatus, Status};
use audit::Diary;
use chain::Watch;
use clap::Args;
use devices::DemoDevice;
use faults::{FaultArgs, Faults};
use manta_protocol::market::demand::Share;
use manta_protocol::wire::limits::MEMBERS_MAX;
use std::path::{Path, PathBuf};
use std::time::Duration;
use swarm::{Swarm, SwarmOptions};
use tempfile::TempDir;
use tokio::time::Instant;

/// Longest time until every peer's offer has reached the first.
const GATHER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an order may look for its members.
const ORDER_DEADLINE: Duration = Duration::from_secs(60);
/// How long the others may take to end the run after its owner.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the owner may take, started again, to fetch its model.
const RESULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at the peers while a fault is due: it is to happen at
/// a moment of the run, and be answered as soon as that can be seen.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// After so many missing answers in a row the first peer counts as hung.
const SILENCES_MAX: u32 = 4;
/// Peers of whom one may lie: the others are more than two.
const LIAR_PEERS_MIN: u16 = 4;
/// How long the ledger may take to name a liar after the training.
const CATCH_TIMEOUT: Duration = Duration::from_secs(120);
/// Length of the sample that the model writes at the end, in tokens.
const SAMPLE_TOKENS: usize = 240;

/// Train a small model over real peers on this machine, and clean up.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta demo                              about a minute on two cores
  manta generate manta-demo-model --prompt 'pub fn '
                                          let the new model write
  manta demo --data book.txt --rounds 200 your own text, longer
  manta demo --kill-one --join-late       lose a peer and win one in mid-run
  manta demo --liar                       one peer lies about its drills, and is caught
  manta demo --json | tail -n 1           the result for a script")]
pub(super) struct DemoArgs {
    /// Peers to start, each a process of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=MEMBERS_MAX as i64))]
    peers: u16,

    #[command(flatten)]
    recipe: Recipe,

    /// What computes: auto, native, gpu, software, a part of a device's name, or
    /// mixed, where half of the peers compute natively and half on a device
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DemoDevice,

    /// Folder that the model is left in, in Hugging Face layout
    #[arg(long, value_name = "DIR", default_value = "manta-demo-model")]
    out: PathBuf,

    #[command(flatten)]
    faults: FaultArgs,

    /// Let the last peer tell wrong results of drills once it has won some power, and see it caught
    #[arg(long)]
    liar: bool,

    /// Print the result as one JSON object, the last line of standard output
    #[arg(long)]
    json: bool,

    /// Keep the peers' folders with their logs
    #[arg(long)]
    keep: bool,
}

/// A run that has ended, and what all peers said at its end.
#[derive(Default)]
struct Ended {
    run: RunStatus,
    /// Of each peer, with its id.
    statuses: Vec<Option<Status>>,
    peers: Vec<String>,
    /// Peers that ended without being told to.
    lost: usize,
    faults: Faults,
    diaries: Vec<Diary>,
    /// What the peers said of their ledger.
    ledger: Watch,
    /// Who was to lie.
    liar: Option<usize>,
    sample: Option<String>,
}

/// `data_dir` keeps admissions of devices, if there is one.
pub(super) async fn run(arguments: DemoArgs, data_dir: Option<PathBuf>, log: Option<&str>) -> Result<(), Error> {
    let folder = tempfile::Builder::new().prefix("manta-demo-").tempdir()?;
    let out = files::absolute(&arguments.out)?;
    let foreign = if arguments.recipe.overwrite { Foreign::MoveAside } else { Foreign::Refuse };
    check_destination(&out, foreign)?;
    arguments.faults.check(usize::from(arguments.peers))?;
    if arguments.liar && arguments.peers < LIAR_PEERS_MIN {
        return Err(
            format!("--liar: there must be at least {LIAR_PEERS_MIN} peers, so that the others can prove it").into()
        );
    }
    let device_cache = cache_of(data_dir.as_deref().unwrap_or(folder.path()));
    let mut progress = Progress::new();
    let demo = Demo { arguments: &arguments, folder: folder.path(), out: &out, device_cache: &device_cache, log };
    let mut swarm = None;
    let ended = tokio::select! {
        ended = demo.drive(&mut swarm, &mut progress) => ended,
        interrupted = shutdown::interrupted() => Err(interrupted.into()),
    };
    progress.finish();
    if let Some(swarm) = swarm {
        swarm.stop().await;
    }
    let result = ended.and_then(|ended| demo.show(&ended));
    clean_up(folder, arguments.keep)?;
    result
}

/// Removes the folder, or says where it is.
fn clean_up(folder: TempDir, keep: bool) -> Result<(), Error> {
    if keep {
        eprintln!("the peers' folders and logs are kept in {}", folder.keep().display());
        return Ok(());
    }
    let path = folder.path().to_owned();
    folder.close().map_err(|error| format!("cannot remove {}: {error}; remove it by hand", path.display()).into())
}

struct Demo<'a> {
    arguments: &'a DemoArgs,
    folder: &'a Path,
    out: &'a Path,
    device_cache: &'a Path,
    log: Option<&'a str>,
}

impl Demo<'_> {
    /// Everything from the first process to the sample. What was started is in
    /// `running`, so that the caller can stop it at any moment.
    async fn drive(&self, running: &mut Option<Swarm>, progress: &mut Progress) -> Result<Ended, Error> {
        let peers = usize::from(self.arguments.peers);
        progress.say(&format!("starting {peers} peers on this machine"));
        let devices = self.devices(progress).await?;
        let swarm = running.insert(Swarm::start(&self.swarm_options(devices)).await?);
        self.gather(swarm).await?;
        progress.say("all peers have found each other");
        let order = swarm.first().client().order(&self.order()?).await?.order;
        let mut ended = self.follow(swarm, order, progress).await?;
        if has_model(&ended.run) {
            ended.sample = Some(self.sample().await?);
        }
        Ok(ended)
    }

    /// What each peer computes on. A device that was not admitted yet is tested
    /// here, once for all of them.
    async fn devices(&self, progress: &Progress) -> Result<Vec<Wanted>, Error> {
        let (device, peers) = (self.arguments.device.clone(), usize::from(self.arguments.peers));
        let cache = self.device_cache.to_owned();
        let (devices, said) = tokio::task::spawn_blocking(move || device.of_peers(peers, &cache)).await??;
        progress.say(&said);
        Ok(devices)
    }

    fn swarm_options(&self, devices: Vec<Wanted>) -> SwarmOptions {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // The folder's name is random, so that demos beside each other never meet.
        let network = self.folder.file_name().map_or_else(|| "manta-demo".into(), |name| name.to_string_lossy().into());
        SwarmOptions {
            folder: self.folder.to_owned(),
            network,
            threads: (cores / usize::from(self.arguments.peers)).max(1),
            devices,
            device_cache: self.device_cache.to_owned(),
            liar: self.liar(),
            log: self.log.map(str::to_owned),
        }
    }

    /// The number of the peer that lies.
    fn liar(&self) -> Option<usize> {
        self.arguments.liar.then(|| usize::from(self.arguments.peers) - 1)
    }

    fn order(&self) -> Result<OrderRequest, Error> {
        let DemoArgs { recipe, peers, faults, .. } = self.arguments;
        let deadline_ms = u64::try_from(ORDER_DEADLINE.as_millis())?;
        Ok(OrderRequest {
            data: recipe.data()?,
            out: self.out.to_owned(),
            overwrite: recipe.overwrite,
            preset: recipe.preset.name.into(),
            basis: Basis::default(),
            peers_min: *peers,
            // Whoever comes late must find room.
            peers_max: if faults.join_late { peers + 1 } else { *peers },
            rounds: recipe.rounds,
            steps_per_round: recipe.steps(),
            local: recipe.local_steps.is_some(),
            solo: true,
            seed: recipe.seed,
            // All that are to begin are there already.
            patience_ms: 0,
            deadline_ms,
            // Every peer of the demo runs on this machine, in a swarm of its own.
            share: Share::Open,
        })
    }

    /// Waits until the first peer has heard every peer's offer.
    async fn gather(&self, swarm: &mut Swarm) -> Result<(), Error> {
        let deadline = Instant::now() + GATHER_TIMEOUT;
        let peers = usize::from(self.arguments.peers);
        loop {
            if let Some((_, why)) = swarm.newly_ended()?.into_iter().next() {
                return Err(why.into());
            }
            let heard = swarm.first().client().status().await?.listings.len();
            if heard >= peers {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let seconds = GATHER_TIMEOUT.as_secs();
                return Err(format!(
                    "within {seconds} s the first peer heard {heard} offers of {peers}; see the logs with --keep --log debug"
                )
                .into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Shows the run until it has ended at all peers, and lets happen to it what is asked for.
    async fn follow(&self, swarm: &mut Swarm, order: u64, progress: &mut Progress) -> Result<Ended, Error> {
        let peers = usize::from(self.arguments.peers);
        let mut faults = Faults::draw(self.arguments.faults, peers, self.arguments.recipe.seed);
        let (mut silences, mut message, mut run_id, mut ended_at) = (0, String::new(), None, None);
        let mut watch = Watch::default();
        loop {
            for (index, why) in swarm.newly_ended()? {
                progress.say(&why);
                if index == 0 {
                    return Err("the first peer, which owns the run, has ended".into());
                }
            }
            let statuses = swarm.statuses().await;
            watch.observe(&statuses);
            silences = if statuses[0].is_some() || faults.owner_is_gone() { 0 } else { silences + 1 };
            if silences > SILENCES_MAX {
                return Err("the first peer runs but does not answer; see its log with --keep".into());
            }
            if run_id.is_none() {
                run_id = ordered(&statuses[0], order, &mut message, progress)?;
            }
            if let Some(run_id) = &run_id
                && let Some(run) = outcome::best(&statuses, run_id)
            {
                faults.drive(swarm, &statuses, run_id, progress).await?;
                progress.show(&outcome::view(run, &statuses, &swarm.peer_ids(), &watch));
                let now = Instant::now();
                let ended_at = has_ended(run.state).then(|| *ended_at.get_or_insert(now));
                let all_ended = outcome::ended_everywhere(&statuses, run_id);
                if ended_at.is_some_and(|ended_at| all_ended || now >= ended_at + SETTLE_TIMEOUT) {
                    let run = run.clone();
                    let ended = self.ended(swarm, run, statuses, faults, progress).await?;
                    return self.caught(swarm, Ended { ledger: watch, ..ended }, progress).await;
                }
            }
            tokio::time::sleep(if faults.are_pending() { WATCH_INTERVAL } else { POLL_INTERVAL }).await;
        }
    }

    /// What a run has come to that has ended at all peers that are there.
    async fn ended(
        &self,
        swarm: &mut Swarm,
        mut run: RunStatus,
        mut statuses: Vec<Option<Status>>,
        faults: Faults,
        progress: &mut Progress,
    ) -> Result<Ended, Error> {
        if faults.owner_is_gone() {
            progress.say("the others are done; peer 0 is started again, for its model");
            swarm.restart(0).await?;
            let own = self.retrieve(swarm, &run.run).await?;
            run = RunStatus { out: own.out, val_loss: own.val_loss, unigram_loss: own.unigram_loss, ..run };
            statuses = swarm.statuses().await;
        }
        let diaries = swarm.diaries(&run.run)?;
        let (lost, peers, liar) = (swarm.lost(), swarm.peer_ids(), self.liar());
        Ok(Ended { lost, peers, run, statuses, faults, diaries, liar, ..Ended::default() })
    }

    /// Waits until the ledger has named the liar, if there is one: training may be over sooner.
    async fn caught(&self, swarm: &mut Swarm, mut ended: Ended, progress: &Progress) -> Result<Ended, Error> {
        ended.ledger.observe(&ended.statuses);
        let Some(liar) = ended.liar.and_then(|liar| ended.peers.get(liar)).cloned() else { return Ok(ended) };
        if !ended.ledger.has_named(&liar) {
            progress.say("the model is trained; the drills go on until the liar is caught");
        }
        let deadline = Instant::now() + CATCH_TIMEOUT;
        while !ended.ledger.has_named(&liar) && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
            ended.ledger.observe(&swarm.statuses().await);
        }
        Ok(ended)
    }

    /// Waits until the owner, started again, has its model.
    async fn retrieve(&self, swarm: &mut Swarm, run: &str) -> Result<RunStatus, Error> {
        let deadline = Instant::now() + RESULT_TIMEOUT;
        loop {
            if let Some((_, why)) = swarm.newly_ended()?.into_iter().next() {
                return Err(why.into());
            }
            let statuses = swarm.statuses().await;
            let own = statuses[0].iter().flat_map(|status| &status.runs).find(|found| found.run == run);
            if let Some(own) = own.filter(|own| has_ended(own.state) && (has_model(own) || own.failure.is_some())) {
                return Ok(own.clone());
            }
            if Instant::now() >= deadline {
                let seconds = RESULT_TIMEOUT.as_secs();
                return Err(format!("peer 0 did not get its model within {seconds} s; see its log with --keep").into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn prompt(&self) -> &'static str {
        if self.arguments.recipe.data.is_none() { "pub fn " } else { "The " }
    }

    /// What the new model makes of a prompt.
    async fn sample(&self) -> Result<String, Error> {
        let (folder, prompt) = (self.out.to_owned(), self.prompt());
        let sampling = Sampling { temperature: 0.7, top_k: 40, seed: self.arguments.recipe.seed };
        tokio::task::spawn_blocking(move || {
            let text =
                Writer::load(&folder, sampling, &Chosen::native("it is here"))?
                    .write(prompt, SAMPLE_TOKENS, |_| Ok(()))?;
            Ok(format!("{prompt}{text}"))
        })
        .await?
    }

    /// Prints what came of it; an error if that is no success.
    fn show(&self, ended: &Ended) -> Result<(), Error> {
        let recipe = &self.arguments.recipe;
        let report = Report {
            preset: recipe.preset.name.into(),
            seed: recipe.seed,
            out: has_model(&ended.run).then(|| self.out.display().to_string()),
            ..outcome::report(ended)
        };
        let json = self.arguments.json;
        // With --json only the object goes to standard output.
        let say = |text: &str| if json { eprintln!("{text}") } else { println!("{text}") };
        say(&format!("\n{}", report.text(&ended.run.losses)));
        if let Some(sample) = &ended.sample {
            say(&format!("The model writes:\n\n{}\n", indent(sample)));
            let out = self.arguments.out.display();
            say(&format!("Let it write more:\n  manta generate {out} --prompt '{}'", self.prompt()));
        }
        if json {
            println!("{}", serde_json::to_string(&report)?);
        }
        report.failure.map_or(Ok(()), |failure| Err(failure.into()))
    }
}

fn has_model(run: &RunStatus) -> bool {
    run.out.is_some()
}

/// The id of this order's run, once there is one; says what the order waits for.
fn ordered(
    status: &Option<Status>,
    order: u64,
    message: &mut String,
    progress: &Progress,
) -> Result<Option<String>, Error> {
    let Some(status) = status else { return Ok(None) };
    // The status lags a moment behind the acceptance of the order.
    let Some(order) = status.orders.iter().find(|status| status.order == order) else { return Ok(None) };
    if order.state == OrderState::Failed {
        return Err(order.message.clone().into());
    }
    if order.message != *message {
        progress.say(&order.message);
        message.clone_from(&order.message);
    }
    Ok(order.run.clone())
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
