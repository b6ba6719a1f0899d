//! `manta train`: places an order on the peer that runs, and follows it.

use super::parse::{self, PeerRange};
use super::progress::{Progress, View};
use super::recipe::Recipe;
use super::report::{Report, failure, has_ended};
use super::schedule::ScheduleArgs;
use super::{Error, consent, files, format, shutdown};
use crate::api::{Basis, OrderRequest, PeerFile};
use crate::digits::DigitsWish;
use crate::http::client::{ClientError, PeerClient};
use crate::optimizer::Optimizer;
use crate::status::{OrderState, RunStatus, Status};
use clap::Args;
use manta_protocol::market::demand::Share;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two looks at the peer's status.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Longest time from an order's acceptance until the status shows it.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Train a model with the peers that are free.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta train --data book.txt --out model              with all your machines that are free
  manta train --data book.txt --out model --share open with every peer that is free
  manta train --data 'src/**/*.rs' --out model --peers 4 --rounds 400
  manta train --data letters --from SmolLM2-135M --out mine
  manta train --data book.txt --out model --rounds 400 --schedule cosine --warmup 100
  manta train --data book.txt --out model --rounds 400 --optimizer muon
  manta train --out model --detach                     do not wait; see `manta status`

Ctrl-C leaves the run going; `manta stop` ends it.")]
pub(super) struct TrainArgs {
    #[command(flatten)]
    recipe: Recipe,

    /// Folder for the model, in Hugging Face layout
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Go on with the model in this folder: Manta's, or a Llama of Hugging Face's
    /// layout with its tokenizer
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preset", "tokenizer"])]
    from: Option<PathBuf>,

    /// A `tokenizer.json`, as `manta tokenize train` makes it [default: bytes]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    /// The highest learning rate [default: the preset's, four times that with --optimizer
    /// muon; with --from, 0.04 by the model's width]
    #[arg(long, value_name = "X", value_parser = learning_rate)]
    learning_rate: Option<f32>,

    /// Tokens of a sequence [default: the preset's; with --from, at most 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=131_072))]
    sequence_length: Option<u32>,

    #[command(flatten)]
    schedule: ScheduleArgs,

    /// The rule that turns gradients into steps. Muon learns more in as many steps, and takes
    /// more time for each, the less so the more tokens they have
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    optimizer: Optimizer,

    /// 8-bit digits, 1 or 2, of the operands of exact products: of all, or of some of
    /// the classes activations, weights, gradients, logit-gradient and attention, as in
    /// activations=2,attention=2. Two are finer and take up to four times as long
    /// [default: 1, logit-gradient=2; with --from also activations, weights, attention=2]
    #[arg(long, value_name = "DIGITS")]
    digits: Option<DigitsWish>,

    /// Members of the run, this machine included: a number, or a range as in 2..8.
    /// Machines that come free later are taken in up to the most; with a least of 1
    /// the run also goes on when only one is left
    #[arg(long, value_name = "N|MIN..MAX", default_value = "1..16", value_parser = parse::peer_range)]
    peers: PeerRange,

    /// How long to wait for more peers once there are enough
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::duration)]
    patience: Duration,

    /// How long to look for peers at all
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse::duration)]
    deadline: Duration,

    /// Whose machines may see the text: own (yours: see `manta invite --own`),
    /// invited (by you or the swarm's founder), or open (anyone's)
    #[arg(long, value_name = "WHOSE", default_value = "own", value_parser = parse::share)]
    share: Share,

    /// Do not ask before text leaves your own peers
    #[arg(long)]
    yes: bool,

    /// Return as soon as the order is placed
    #[arg(long)]
    detach: bool,

    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

impl TrainArgs {
    fn request(&self) -> Result<OrderRequest, Error> {
        Ok(OrderRequest {
            data: self.recipe.data()?,
            out: files::absolute(&self.out)?,
            overwrite: self.recipe.overwrite,
            preset: self.recipe.preset.name.into(),
            basis: Basis {
                from: self.from.as_deref().map(files::absolute).transpose()?,
                tokenizer: self.tokenizer.as_deref().map(files::absolute).transpose()?,
                learning_rate: self.learning_rate,
                sequence_length: self.sequence_length,
                schedule: self.schedule.schedule(),
                optimizer: self.optimizer,
                digits: self.digits.unwrap_or_default(),
            },
            peers_min: self.peers.min,
            peers_max: self.peers.max,
            rounds: self.recipe.rounds,
            steps_per_round: self.recipe.steps(),
            local: self.recipe.local_steps.is_some(),
            // Who starts with one machine also goes on with one.
            solo: self.peers.min == 1,
            seed: self.recipe.seed,
            patience_ms: milliseconds(self.patience),
            deadline_ms: milliseconds(self.deadline),
            share: self.share,
        })
    }
}

fn learning_rate(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(rate) if rate > 0.0 && rate <= 1.0 => Ok(rate),
        _ => Err("expected a number above 0 and at most 1, such as 1e-4".into()),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn run(arguments: TrainArgs, data_dir: &Path) -> Result<(), Error> {
    let request = arguments.request()?;
    let client = PeerClient::of(&PeerFile::read(data_dir)?);
    consent::ask(&request, arguments.yes, &client.status().await?)?;
    let accepted = client.order(&request).await?;
    if arguments.detach {
        match arguments.json {
            true => println!("{}", serde_json::to_string(&accepted)?),
            false => println!("order {} is placed; `manta status` shows it", accepted.order),
        }
        return Ok(());
    }
    let mut follower = Follower::new(accepted.order);
    let (status, run) = tokio::select! {
        ended = follower.follow(&client) => ended?,
        _ = shutdown::interrupted() => {
            eprintln!("\nThe run goes on without this command.\n  see it:   manta status\n  stop it:  manta stop {}", accepted.order);
            return Ok(());
        }
    };
    follower.progress.finish();
    show(&arguments, &status, &run)
}

/// Prints what came of the run; an error if that is nothing.
fn show(arguments: &TrainArgs, status: &Status, run: &RunStatus) -> Result<(), Error> {
    let report = Report {
        // What a model goes on from says more than a preset.
        preset: arguments.from.as_ref().map_or(arguments.recipe.preset.name.into(), |from| from.display().to_string()),
        seed: arguments.recipe.seed,
        bytes_sent: status.traffic.bytes_sent(),
        peers_lost: run.left.len(),
        ..Report::of(run)
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.text(&run.losses));
        if let Some(out) = &run.out {
            println!("\nThe model is in {out}; let it write:\n  manta generate {out} --prompt 'The '");
        }
    }
    failure(run).map_or(Ok(()), |failure| Err(failure.into()))
}

/// Follows one order until its run has ended.
struct Follower {
    order: u64,
    progress: Progress,
    message: String,
    /// Whether it was said who was left out.
    left_out_said: bool,
    /// When the order must be in the status, which lags behind the acceptance.
    known_by: Instant,
}

impl Follower {
    fn new(order: u64) -> Self {
        let known_by = Instant::now() + KNOWN_TIMEOUT;
        Self { order, progress: Progress::new(), message: String::new(), left_out_said: false, known_by }
    }

    async fn follow(&mut self, client: &PeerClient) -> Result<(Status, RunStatus), Error> {
        loop {
            let status = client.status().await.map_err(|error| self.lost(error))?;
            if let Some(run) = self.look(&status, Instant::now())?
                && has_ended(run.state)
            {
                let run = run.clone();
                return Ok((status, run));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Shows where the order stands; gives its run once there is one.
    fn look<'a>(&mut self, status: &'a Status, now: Instant) -> Result<Option<&'a RunStatus>, Error> {
        let Some(order) = status.orders.iter().find(|order| order.order == self.order) else {
            if now < self.known_by {
                return Ok(None);
            }
            return Err("the peer does not know the order any more; it was restarted: order again".into());
        };
        if order.state == OrderState::Failed {
            return Err(order.message.clone().into());
        }
        if order.message != self.message {
            self.progress.say(&order.message);
            self.message.clone_from(&order.message);
        }
        if let Some(left_out) = order.left_out.as_ref().filter(|_| !self.left_out_said) {
            self.progress.say(left_out);
            self.left_out_said = true;
        }
        let run = order.run.as_ref().and_then(|id| status.runs.iter().find(|run| run.run == *id));
        if let Some(run) = run {
            let label = |peer: &str| {
                let you = if peer == status.peer_id { " (you)" } else { "" };
                format!("{}{you}", format::short(peer))
            };
            self.progress.show(&View::of(run, label));
        }
        Ok(run)
    }

    fn lost(&self, error: ClientError) -> Error {
        format!("{error} (while following order {})", self.order).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{OrderStatus, RunState};

    fn status(order: OrderStatus) -> Status {
        Status { orders: vec![OrderStatus::default(), order], ..Status::default() }
    }

    #[test]
    fn an_order_is_followed_from_search_to_run() {
        let (mut follower, now) = (Follower::new(2), Instant::now());
        assert_eq!(follower.look(&Status::default(), now).expect("not shown yet"), None);
        let searching =
            OrderStatus { order: 2, state: OrderState::Searching, message: "1 of 2".into(), ..OrderStatus::default() };
        assert_eq!(follower.look(&status(searching), now).expect("still looking"), None);
        assert_eq!(follower.message, "1 of 2");
        let matched =
            OrderStatus { order: 2, state: OrderState::Matched, run: Some("r".into()), ..OrderStatus::default() };
        let run = RunStatus { run: "r".into(), state: RunState::Training, ..RunStatus::default() };
        let status = Status { runs: vec![RunStatus::default(), run.clone()], ..status(matched) };
        assert_eq!(follower.look(&status, now).expect("a run"), Some(&run));
    }

    #[test]
    fn a_failed_or_forgotten_order_is_an_error() {
        let failed = OrderStatus {
            order: 2,
            state: OrderState::Failed,
            message: "nobody is free".into(),
            ..OrderStatus::default()
        };
        let (mut follower, now) = (Follower::new(2), Instant::now());
        let error = follower.look(&status(failed), now).expect_err("failed").to_string();
        assert_eq!(error, "nobody is free");
        let error = follower.look(&Status::default(), now + KNOWN_TIMEOUT).expect_err("forgotten").to_string();
        assert!(error.contains("order again"), "{error}");
    }
}
