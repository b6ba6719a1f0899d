//! What the peers of a demo say, put together: from their own statuses alone.

use super::Ended;
use super::audit::{Audit, audit, recovery_ms};
use super::chain::Watch;
use super::faults::{Fault, Kind};
use crate::cli::format;
use crate::cli::progress::View;
use crate::cli::report::{Report, failure, has_ended};
use crate::metrics::state_name;
use crate::status::{RunState, RunStatus, Status};
use serde::Serialize;

/// How the run came through what happened to it.
#[derive(Debug, Default, Serialize)]
struct Survival {
    batches_total: u64,
    batches_lost: u64,
    batches_double: u64,
    #[serde(skip)]
    peers_lost: usize,
    peers_joined: usize,
    /// The longest time from a fault until all others had completed an exchange without the peer.
    recovery_ms: Option<u64>,
    faults: Vec<Fault>,
}

impl Survival {
    /// For people.
    fn describe(&self) -> String {
        let Self { batches_total, batches_lost, batches_double, peers_lost, peers_joined, recovery_ms, .. } = self;
        let recovered = recovery_ms.map_or_else(String::new, |ms| format!("; the others went on within {ms} ms"));
        format!(
            "{peers_lost} left, {peers_joined} came later{recovered}; of {batches_total} batches {batches_lost} lost, \
             {batches_double} counted twice"
        )
    }
}

/// The run of this id at each peer; `None` where it is not known.
fn runs<'a>(statuses: &'a [Option<Status>], run: &str) -> Vec<Option<&'a RunStatus>> {
    let find = |status: &'a Option<Status>| status.as_ref()?.runs.iter().find(|found| found.run == run);
    statuses.iter().map(find).collect()
}

/// Whether the run has ended at every peer that still answers.
pub(super) fn ended_everywhere(statuses: &[Option<Status>], run: &str) -> bool {
    runs(statuses, run).into_iter().flatten().all(|run| has_ended(run.state))
}

/// The owner's view, with each peer's state and round as it says itself;
/// `peers` are all peers' ids by number.
pub(super) fn view(owner: &RunStatus, statuses: &[Option<Status>], peers: &[String], watch: &Watch) -> View {
    let index = |peer: &str| peers.iter().position(|id| id == peer);
    let own = runs(statuses, &owner.run);
    let mut view = View::of(owner, |peer| match index(peer) {
        Some(index) => format!("peer {index}"),
        None => format::short(peer).to_owned(),
    });
    view.ledger = watch.describe();
    for (line, member) in view.members.iter_mut().zip(&owner.members) {
        let Some(index) = index(&member.peer) else { continue };
        if statuses[index].is_none() {
            line.state = "gone";
        } else if let Some(run) = own[index] {
            line.state = state_name(run.state);
            line.rounds_done = line.rounds_done.max(run.rounds_done);
        }
    }
    view
}

/// The run as the owner sees it, or if it is gone, whoever is furthest.
pub(super) fn best<'a>(statuses: &'a [Option<Status>], run: &str) -> Option<&'a RunStatus> {
    let runs = runs(statuses, run);
    let furthest = || runs.iter().flatten().copied().max_by_key(|run| run.exchanges_done);
    runs.first().copied().flatten().or_else(furthest)
}

/// What became of members and batches, from the diaries of all.
fn survival(ended: &Ended) -> Result<Survival, String> {
    let Audit { batches_total, batches_lost, batches_double, peers_lost, peers_joined } = audit(&ended.diaries)?;
    let faults = ended.faults.list.iter().map(|fault| {
        let victim = ended.peers.get(fault.peer).and_then(|peer| peer.parse().ok());
        let mut fault = fault.clone();
        if let (Some(victim), Some(at_ms), true) = (victim, fault.at_ms, fault.kind != Kind::JoinLate) {
            fault.recovery_ms = recovery_ms(&ended.diaries, victim, at_ms);
        }
        fault
    });
    let faults: Vec<Fault> = faults.collect();
    if let Some(fault) = faults.iter().find(|fault| fault.kind != Kind::JoinLate && fault.recovery_ms.is_none()) {
        return Err(format!("the others did not go on without peer {}, or the run was over before", fault.peer));
    }
    if let Some(fault) = ended.faults.unfinished() {
        return Err(format!("the run was over before peer {} had become a member; train longer", fault.peer));
    }
    if batches_lost + batches_double > 0 {
        return Err(format!("{batches_lost} batches were lost, {batches_double} counted twice"));
    }
    Ok(Survival {
        batches_total,
        batches_lost,
        batches_double,
        peers_lost,
        peers_joined,
        recovery_ms: faults.iter().filter_map(|fault| fault.recovery_ms).max(),
        faults,
    })
}

/// The result, with the equality of parameters judged from what each peer
/// itself holds, and the bytes of all.
pub(super) fn report(ended: &Ended) -> Report {
    let Ended { run: owner, statuses, lost, .. } = ended;
    let lost = *lost;
    let runs = runs(statuses, &owner.run);
    let killed = |peer: &usize| ended.faults.is_killed(*peer);
    let agree = |run: &Option<&RunStatus>| {
        run.is_some_and(|run| {
            run.state == RunState::Finished
                && run.parameter_hashes_equal
                && !run.parameter_hash.is_empty()
                && run.parameter_hash == owner.parameter_hash
        })
    };
    let apart: Vec<String> =
        (0..runs.len()).filter(|i| !killed(i) && !agree(&runs[*i])).map(|i| format!("peer {i}")).collect();
    let disagreement = || match apart.as_slice() {
        [] => None,
        peers => Some(format!("{} did not end with the parameters of the others", peers.join(", "))),
    };
    let survival = survival(ended);
    let trouble = survival.as_ref().err().cloned();
    let survival = survival.unwrap_or_default();
    let loss = || (lost > 0).then(|| format!("{lost} of {} peers ended too early", statuses.len()));
    let there = (0..).zip(statuses).filter(|(_, status)| status.is_some()).map(|(index, _)| index).collect();
    let ledger = ended.ledger.outcome(&ended.peers, &there, ended.liar);
    Report {
        ledger: Some(serde_json::to_value(&ledger).unwrap_or_default()),
        agreed: ledger.told,
        powers: ledger.powers_told,
        peers: statuses.len(),
        bytes_sent: statuses.iter().flatten().map(|status| status.traffic.bytes_sent()).sum(),
        parameter_hashes_equal: apart.is_empty(),
        peers_lost: survival.peers_lost.max(lost),
        survival: Some(serde_json::to_value(&survival).unwrap_or_default()),
        members: survival.describe(),
        failure: failure(owner).or_else(loss).or_else(disagreement).or(trouble).or(ledger.problem),
        ..Report::of(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{MemberStatus, Traffic};

    fn owner() -> RunStatus {
        let member =
            |peer: &str| MemberStatus { peer: peer.into(), ready: true, rounds_done: 2, ..MemberStatus::default() };
        RunStatus {
            run: "r".into(),
            state: RunState::Finished,
            rounds_done: 2,
            rounds: 2,
            losses: vec![5.0, 4.0],
            tokens: 1000,
            training_ms: 500,
            members: vec![member("p0"), member("p1")],
            parameter_hashes_equal: true,
            parameter_hash: "cafe".into(),
            val_loss: Some(2.5),
            unigram_loss: Some(3.1),
            ..RunStatus::default()
        }
    }

    fn ended(run: RunStatus, statuses: Vec<Option<Status>>, lost: usize) -> Ended {
        Ended { run, statuses, lost, ..Ended::default() }
    }

    fn status(peer: &str, run: RunStatus) -> Option<Status> {
        let traffic = Traffic { tensor_bytes_sent: 70, gossip_bytes_sent: 7, ..Traffic::default() };
        Some(Status { peer_id: peer.into(), traffic, runs: vec![run], ..Status::default() })
    }

    #[test]
    fn equal_peers_make_a_success_with_every_promised_field() {
        let statuses = [status("p0", owner()), status("p1", owner())];
        assert!(ended_everywhere(&statuses, "r"));
        let report = report(&ended(owner(), statuses.into(), 0));
        assert_eq!((report.failure.as_ref(), report.bytes_sent), (None, 154));
        let json = serde_json::to_value(&report).expect("JSON");
        for (field, value) in [
            ("peers", serde_json::json!(2)),
            ("rounds", serde_json::json!(2)),
            ("tokens", serde_json::json!(1000)),
            ("loss_first", serde_json::json!(5.0)),
            ("loss_last", serde_json::json!(4.0)),
            ("val_loss", serde_json::json!(2.5)),
            ("unigram_loss", serde_json::json!(3.1)),
            ("tokens_per_s", serde_json::json!(2000.0)),
            ("bytes_sent", serde_json::json!(154)),
            ("parameter_hashes_equal", serde_json::json!(true)),
            ("parameter_hash", serde_json::json!("cafe")),
            ("peers_lost", serde_json::json!(0)),
            ("peers_joined", serde_json::json!(0)),
            ("batches_total", serde_json::json!(0)),
            ("batches_lost", serde_json::json!(0)),
            ("batches_double", serde_json::json!(0)),
            ("recovery_ms", serde_json::Value::Null),
            ("blocks", serde_json::json!(0)),
            ("drills_agreed", serde_json::json!(0)),
            ("drills_disputed", serde_json::json!(0)),
            ("state_root", serde_json::Value::Null),
            ("power", serde_json::json!({})),
            ("liars_named", serde_json::json!([])),
            ("honest_loss", serde_json::json!(0.0)),
            ("late_loss", serde_json::json!(0.0)),
            ("out", serde_json::Value::Null),
            ("seconds", serde_json::json!(0.5)),
        ] {
            assert_eq!(json.get(field), Some(&value), "{field} in {json}");
        }
        for field in ["preset", "seed", "parameters"] {
            assert!(json.get(field).is_some(), "{field} in {json}");
        }
    }

    #[test]
    fn every_kind_of_disagreement_is_a_failure_that_names_the_peer() {
        let other = |change: &dyn Fn(&mut RunStatus)| {
            let mut run = owner();
            change(&mut run);
            status("p1", run)
        };
        for (why, second) in [
            ("other parameters", other(&|run| run.parameter_hash = "beef".into())),
            ("not finished", other(&|run| run.state = RunState::Training)),
            ("saw a difference", other(&|run| run.parameter_hashes_equal = false)),
            ("another run", other(&|run| run.run = "q".into())),
            ("no answer", None),
        ] {
            let report = report(&ended(owner(), vec![status("p0", owner()), second], 0));
            assert!(!report.parameter_hashes_equal, "{why}");
            assert!(report.failure.is_some_and(|failure| failure.contains("peer 1")), "{why}");
        }
        let empty = RunStatus { parameter_hash: String::new(), ..owner() };
        let report_of_empty =
            report(&ended(empty.clone(), vec![status("p0", empty.clone()), status("p1", empty.clone())], 0));
        assert!(!report_of_empty.parameter_hashes_equal, "no hash is not equality");
    }

    #[test]
    fn a_lost_peer_and_the_runs_own_failure_come_first() {
        let lost = report(&ended(owner(), vec![status("p0", owner()), None], 1));
        assert_eq!(lost.failure.as_deref(), Some("1 of 2 peers ended too early"));
        assert_eq!(lost.peers_lost, 1);
        let failed = RunStatus { state: RunState::Failed, failure: Some("p1 was lost".into()), ..owner() };
        assert_eq!(report(&ended(failed, vec![None, None], 1)).failure.as_deref(), Some("p1 was lost"));
    }

    #[test]
    fn the_view_shows_each_peer_as_it_sees_itself() {
        let saving = RunStatus { state: RunState::Saving, ..owner() };
        let peers = ["p0", "p1"].map(str::to_owned);
        let view = view(&owner(), &[status("p0", saving), None], &peers, &Watch::default());
        let lines: Vec<_> = view.members.iter().map(|line| (line.label.as_str(), line.state)).collect();
        assert_eq!(lines, [("peer 0", "saving"), ("peer 1", "gone")]);
    }

    #[test]
    fn a_peer_that_has_not_heard_of_the_run_yet_is_not_gone() {
        let mut run = owner();
        run.members[1].ready = false;
        let peers = ["p0", "p1"].map(str::to_owned);
        let view = view(&run, &[status("p0", run.clone()), Some(Status::default())], &peers, &Watch::default());
        assert_eq!(view.members[1].state, "preparing");
    }
}
