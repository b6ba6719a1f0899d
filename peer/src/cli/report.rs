//! What came of a run: the JSON of `--json`, the table for people, the verdict.

use super::{format, plot};
use crate::status::{RunState, RunStatus};
use serde::Serialize;
use std::time::Duration;

const PLOT_WIDTH: usize = 60;
const PLOT_HEIGHT: usize = 10;

/// A run in numbers. Losses are in nats a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) run: String,
    pub(super) peers: usize,
    pub(super) preset: String,
    pub(super) seed: u64,
    pub(super) parameters: u64,
    /// Hash of the data set's manifest, and the bytes of its text.
    pub(super) data_root: String,
    pub(super) data_bytes: u64,
    pub(super) rounds: u32,
    pub(super) steps: u64,
    pub(super) tokens: u64,
    /// Of the first and the last round, over all members.
    pub(super) loss_first: Option<f64>,
    pub(super) loss_last: Option<f64>,
    pub(super) val_loss: Option<f64>,
    /// Entropy of the training unigram model on the validation part.
    pub(super) unigram_loss: Option<f64>,
    /// Over the training of all rounds.
    pub(super) tokens_per_s: f64,
    pub(super) seconds: f64,
    /// Of all peers whose status is known, for everything.
    pub(super) bytes_sent: u64,
    pub(super) parameter_hashes_equal: bool,
    pub(super) parameter_hash: String,
    pub(super) peers_lost: usize,
    /// What became of members and batches, where that was counted.
    #[serde(flatten)]
    pub(super) survival: Option<serde_json::Value>,
    /// The same for people.
    #[serde(skip)]
    pub(super) members: String,
    /// What the ledger came to, where that was watched.
    #[serde(flatten)]
    pub(super) ledger: Option<serde_json::Value>,
    /// The same for people, and who has which power.
    #[serde(skip)]
    pub(super) agreed: String,
    #[serde(skip)]
    pub(super) powers: String,
    /// Where the model is, if it is kept.
    pub(super) out: Option<String>,
    /// What went wrong although it did not fail.
    pub(super) warning: Option<String>,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

impl Report {
    /// The run as its owner sees it; preset, seed and bytes are the caller's.
    pub(super) fn of(run: &RunStatus) -> Self {
        let seconds = run.training_ms as f64 / 1e3;
        let tokens_per_s = if seconds > 0.0 { run.tokens as f64 / seconds } else { 0.0 };
        Self {
            run: run.run.clone(),
            peers: run.members.len(),
            parameters: run.parameters,
            data_root: run.data_root.clone(),
            data_bytes: run.data_bytes,
            rounds: run.rounds_done,
            steps: run.steps_done,
            tokens: run.tokens,
            loss_first: run.losses.first().copied(),
            loss_last: run.losses.last().copied(),
            val_loss: run.val_loss,
            unigram_loss: run.unigram_loss,
            tokens_per_s,
            seconds,
            parameter_hashes_equal: run.parameter_hashes_equal && !run.parameter_hash.is_empty(),
            parameter_hash: run.parameter_hash.clone(),
            out: run.out.clone(),
            warning: run.warning.clone(),
            failure: failure(run),
            ..Self::default()
        }
    }

    /// For people, with the curve of `losses`.
    pub(super) fn text(&self, losses: &[f64]) -> String {
        let curve = plot::curve(losses, PLOT_WIDTH, PLOT_HEIGHT);
        let curve = if curve.is_empty() { curve } else { format!("Training loss (nats a token) by round\n{curve}\n") };
        let lead = match (self.val_loss, self.unigram_loss) {
            (Some(model), Some(unigram)) if model < unigram => format!(", {:.3} below it", unigram - model),
            _ => String::new(),
        };
        let rows = [
            ("peers", format!("{}, {} lost", self.peers, self.peers_lost)),
            ("members", self.members.clone()),
            ("ledger", self.agreed.clone()),
            ("power", self.powers.clone()),
            ("model", format!("{} parameters", format::grouped(self.parameters))),
            ("data", format!("{}, blake3 root {}", format::bytes(self.data_bytes), self.data_root)),
            (
                "trained",
                format!("{} rounds, {} steps, {} tokens", self.rounds, self.steps, format::grouped(self.tokens)),
            ),
            ("time", format::duration(Duration::from_secs_f64(self.seconds.max(0.0)))),
            ("speed", format!("{} tokens/s, all peers together", format::rate(self.tokens_per_s))),
            ("sent", format::bytes(self.bytes_sent)),
            ("training loss", format!("{} → {}", format::loss(self.loss_first), format::loss(self.loss_last))),
            (
                "token statistics",
                format!(
                    "{} (loss of a model that knows only how frequent tokens are)",
                    format::loss(self.unigram_loss)
                ),
            ),
            ("validation loss", format!("{}{lead}", format::loss(self.val_loss))),
            (
                "parameters",
                format!(
                    "{}{}",
                    if self.parameter_hashes_equal { "equal on all peers: " } else { "NOT known to be equal: " },
                    self.parameter_hash
                ),
            ),
        ];
        let rows = rows.iter().filter(|(_, value)| !value.is_empty());
        let rows: String = rows.map(|(name, value)| format!("{name:<16} {value}\n")).collect();
        let warning = self.warning.as_ref().map_or_else(String::new, |warning| format!("\nwarning: {warning}\n"));
        curve + &rows + &warning
    }
}

/// Why the run is no success at this member, if so.
pub(super) fn failure(run: &RunStatus) -> Option<String> {
    match (&run.failure, run.state) {
        (Some(failure), _) => Some(failure.clone()),
        (None, RunState::Failed) => Some("the run failed; the peer's log says more".into()),
        (None, RunState::Finished) if !run.parameter_hashes_equal => Some("the members' parameters differ".into()),
        (None, _) => None,
    }
}

/// Whether nothing more will happen to the run at this member.
pub(super) fn has_ended(state: RunState) -> bool {
    matches!(state, RunState::Finished | RunState::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::MemberStatus;

    fn finished() -> RunStatus {
        RunStatus {
            run: "ab".into(),
            state: RunState::Finished,
            rounds_done: 3,
            rounds: 3,
            steps_done: 15,
            members: vec![MemberStatus::default(); 2],
            losses: vec![5.5, 4.0, 3.0],
            tokens: 30_000,
            training_ms: 2_000,
            parameter_hashes_equal: true,
            parameter_hash: "cafe".into(),
            val_loss: Some(2.5),
            unigram_loss: Some(3.125),
            ..RunStatus::default()
        }
    }

    #[test]
    fn the_numbers_are_the_owners() {
        let report = Report::of(&finished());
        assert_eq!((report.peers, report.rounds, report.tokens), (2, 3, 30_000));
        assert_eq!((report.loss_first, report.loss_last), (Some(5.5), Some(3.0)));
        assert!((report.tokens_per_s - 15_000.0).abs() < 1e-9);
        assert_eq!(report.failure, None);
        let text = report.text(&finished().losses);
        for part in ["5.500 │", "5.500 → 3.000", "2.500, 0.625 below it", "equal on all peers: cafe", "15,000 tokens/s"]
        {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
    }

    #[test]
    fn failures_are_told() {
        let failed = RunStatus { state: RunState::Failed, ..finished() };
        assert!(failure(&failed).is_some_and(|text| text.contains("log")));
        let reason = RunStatus { failure: Some("peer x was lost".into()), ..failed };
        assert_eq!(failure(&reason), Some("peer x was lost".into()));
        let differ = RunStatus { parameter_hashes_equal: false, ..finished() };
        assert!(failure(&differ).is_some_and(|text| text.contains("differ")));
        let nothing = Report::of(&RunStatus::default());
        assert!(!nothing.parameter_hashes_equal, "no hash is not equality");
        assert!(nothing.text(&[]).contains("NOT known"));
    }
}
