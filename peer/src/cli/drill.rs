//! `manta drill` and `manta power`.

use super::ledger::{id, print, reliability};
use super::{Error, format};
use crate::account::{BranchView, DrillsView, PowerView, Question, SeatView, TaskView};
use crate::api::PeerFile;
use crate::http::client::PeerClient;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::path::Path;

/// See how peers prove what they can do.
#[derive(Args, Debug)]
#[command(after_help = "\
A drill is a unit of work that several elected peers do alike, each without
knowing what the others found: all who agree get the same power, a liar loses.

Examples:
  manta drill status                    tasks that go on, and those that have ended
  manta drill explain TASK              who was elected how, what each has shown")]
pub(super) struct DrillArgs {
    #[command(subcommand)]
    command: DrillCommand,
}

#[derive(Debug, Subcommand)]
enum DrillCommand {
    /// Tasks that go on, and those that have ended lately
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Who was elected for a task and how, what each has shown, and what that proves
    Explain {
        /// A task's id, or the beginning of one
        #[arg(value_parser = id)]
        task: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Show a peer's power, and explain every point of it.
#[derive(Args, Debug)]
#[command(after_help = "\
Power 1 is one core at 10⁹ Whetstone operations a second, for a day. Effective
power is an average that halves each week; blocks and elections are drawn by
weight, which follows from it: 0.4 · drilling + 0.6 · min(training, κ · drilling).

Examples:
  manta power                           this peer
  manta power 1f0c                      another one, by the beginning of its id")]
pub(super) struct PowerArgs {
    /// A peer's id, or the beginning of one [default: this peer]
    #[arg(value_parser = id)]
    peer: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: DrillArgs, data_dir: &Path) -> Result<(), Error> {
    let client = PeerClient::of(&PeerFile::read(data_dir)?);
    match arguments.command {
        DrillCommand::Status { json } => print(json, &client.ledger(&Question::Drills).await?, drills_text),
        DrillCommand::Explain { task, json } => print(json, &client.ledger(&Question::Drill(task)).await?, task_text),
    }
}

pub(super) async fn power(arguments: PowerArgs, data_dir: &Path) -> Result<(), Error> {
    let client = PeerClient::of(&PeerFile::read(data_dir)?);
    let question = Question::Power(arguments.peer.unwrap_or_default());
    print(arguments.json, &client.ledger(&question).await?, power_text)
}

fn drills_text(drills: &DrillsView) -> String {
    let counts = &drills.counts;
    let mut text = format!(
        "After block {}: {} tasks agreed, {} trusted, {} disputed, {} void, {} expired; {} faults were named\n",
        drills.height, counts.agreed, counts.trusted, counts.disputed, counts.void, counts.expired, counts.faults
    );
    for (title, tasks) in [("Open", &drills.open), ("Settled, newest first", &drills.settled)] {
        // Writing into a string does not fail.
        let _ = writeln!(text, "\n{title}: {}", tasks.len());
        for task in tasks.iter().rev() {
            let _ = writeln!(text, "  {}", task_line(task));
        }
    }
    if let Some(task) = drills.settled.last().or(drills.open.last()) {
        let _ = writeln!(text, "\nTo see how one came about:\n  manta drill explain {}", format::short(&task.task));
    }
    text
}

fn task_line(task: &TaskView) -> String {
    let stage = task.stages.last().map_or("", |stage| &stage.kind);
    let phase = task.stages.last().map_or("", |stage| &stage.phase);
    let state = match (&task.outcome, task.settled_at) {
        (Some(outcome), Some(height)) => format!("{outcome} in block {height} after stage {stage}"),
        _ => format!("{stage}, {phase}"),
    };
    format!("{}  {state}: {} seats, {}", format::short(&task.task), task.seats.len(), task.origin)
}

fn task_text(task: &TaskView) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = write_task(&mut text, task);
    text
}

fn write_task(text: &mut String, task: &TaskView) -> std::fmt::Result {
    let [rows, columns, depth] = task.shape;
    writeln!(text, "task        {}", task.task)?;
    writeln!(text, "origin      {}", task.origin)?;
    writeln!(
        text,
        "unit        exact product of {rows} × {depth} and {depth} × {columns}, worth {:.6} power",
        task.difficulty
    )?;
    match (&task.outcome, &task.digest) {
        (Some(outcome), Some(digest)) => writeln!(text, "outcome     {outcome}: {digest}")?,
        (Some(outcome), None) => writeln!(text, "outcome     {outcome}")?,
        (None, _) => writeln!(text, "outcome     goes on")?,
    }
    for stage in &task.stages {
        writeln!(
            text,
            "\nStage {}: {}, opened by block {} with the weights after block {}; {} owners could be elected, {:.1} seats \
             expected; {}",
            stage.number,
            stage.kind,
            stage.opened,
            stage.weights_of,
            stage.candidates,
            stage.expected_milli as f64 / 1e3,
            stage.phase
        )?;
        for seat in task.seats.iter().filter(|seat| seat.stage == stage.number) {
            writeln!(text, "  {}  {}; {}", format::short(&seat.worker), seat.elected, seat_state(seat))?;
        }
    }
    if let Some(certificate) = &task.certificate {
        let verdict = match &certificate.problem {
            None => format!(
                "every signature, election and opening in it is right; {} owners agree, {} dissent, {} kept silent",
                certificate.agreeing.len(),
                certificate.dissenting.len(),
                certificate.unrevealed.len()
            ),
            Some(problem) => format!("PROVES NOTHING: {problem}"),
        };
        writeln!(text, "\nCertificate, {} bytes that anyone can verify: {verdict}", certificate.bytes)?;
    }
    Ok(())
}

fn seat_state(seat: &SeatView) -> String {
    match (&seat.revealed, seat.agrees) {
        (Some(digest), Some(true)) => format!("committed, revealed {}, agrees", format::short(digest)),
        (Some(digest), Some(false)) => format!("committed, revealed {}, DIFFERS", format::short(digest)),
        (Some(digest), None) => format!("committed, revealed {}", format::short(digest)),
        (None, _) if seat.forfeited => "committed, NEVER REVEALED".into(),
        (None, _) => "committed".into(),
    }
}

fn power_text(power: &PowerView) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = write_power(&mut text, power);
    text
}

fn write_power(text: &mut String, power: &PowerView) -> std::fmt::Result {
    let own = &power.standing;
    writeln!(text, "peer        {}", own.peer)?;
    writeln!(text, "power       {:.6} effective, {:.6} in all", own.effective_power, own.real_power)?;
    let rank = own.rank.map_or_else(|| "no rank".into(), |rank| format!("rank {rank} of {}", power.ranked));
    let share = if power.total_weight > 0 { own.weight as f64 / power.total_weight as f64 } else { 0.0 };
    writeln!(text, "weight      {}, {rank}, {:.1} % of all", own.weight, share * 1e2)?;
    writeln!(text, "reliability {}", reliability(&own.reliability))?;
    writeln!(text, "trust       {} valid results in a row, {} faults", own.streak, own.faults)?;
    if power.unverified > 0.0 {
        writeln!(text, "unverified  {:.6}: a fault would take it back", power.unverified)?;
    }
    for (name, BranchView { effective, real, folded_gained, folded_lost }) in
        [("drilling", &power.drilling), ("training", &power.training)]
    {
        write!(text, "{name:<11} {effective:.6} effective, {real:.6} in all")?;
        if power.folded > 0 {
            write!(text, "; before what is listed +{folded_gained:.6} −{folded_lost:.6}")?;
        }
        writeln!(text)?;
    }
    writeln!(text, "\nWhere it comes from, newest first")?;
    for entry in power.entries.iter().rev() {
        let points = match (entry.gained > 0.0, entry.lost > 0.0) {
            (false, true) => format!("−{:.6}", entry.lost),
            _ => format!("+{:.6}", entry.gained),
        };
        writeln!(text, "  {points}  {}  block {}: {}", entry.branch, entry.height, entry.cause)?;
    }
    if power.entries.is_empty() {
        writeln!(text, "  nothing yet: it comes with the first drill that others agree on; see `manta drill status`")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{CertificateView, PowerEntry, ReliabilityView, StageView, Standing};

    #[test]
    fn a_task_is_explained_seat_by_seat() {
        let seat = |worker: &str, agrees| SeatView {
            worker: worker.into(),
            elected: "its VRF proof wins 1 of about 3 seats".into(),
            revealed: Some("0123456789".into()),
            agrees: Some(agrees),
            ..SeatView::default()
        };
        let silent = SeatView { worker: "cccccccc00".into(), forfeited: true, ..SeatView::default() };
        let task = TaskView {
            task: "ffffffff00".into(),
            outcome: Some("agreed".into()),
            digest: Some("0123456789".into()),
            settled_at: Some(9),
            stages: vec![StageView { kind: "opening".into(), ..StageView::default() }],
            seats: vec![seat("aaaaaaaa00", true), seat("bbbbbbbb00", false), silent],
            certificate: Some(CertificateView { valid: true, ..CertificateView::default() }),
            ..TaskView::default()
        };
        let text = task_text(&task);
        for part in ["agreed: 0123456789", "wins 1 of about 3", "agrees", "DIFFERS", "NEVER REVEALED", "is right"] {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
        let drills = DrillsView { settled: vec![task], ..DrillsView::default() };
        let text = drills_text(&drills);
        assert!(text.contains("agreed in block 9") && text.contains("manta drill explain ffffffff"), "{text}");
    }

    #[test]
    fn every_point_of_power_is_explained() {
        let entry =
            |gained, lost, cause: &str| PowerEntry { gained, lost, cause: cause.into(), ..PowerEntry::default() };
        let reliability =
            ReliabilityView { permille: Some(995), probes: 12, probes_answered: 11, leases: 3, leases_kept: 2 };
        let power = PowerView {
            standing: Standing { rank: Some(2), reliability, ..Standing::default() },
            ranked: 4,
            entries: vec![entry(0.5, 0.0, "drilled task ab"), entry(0.0, 0.25, "result proven wrong")],
            ..PowerView::default()
        };
        let text = power_text(&power);
        for part in [
            "rank 2 of 4",
            "99.5 % (11 of 12 probes answered, 2 of 3 leases kept)",
            "+0.500000",
            "−0.250000",
            "proven wrong",
        ] {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
        assert!(power_text(&PowerView::default()).contains("nothing yet"));
    }
}
