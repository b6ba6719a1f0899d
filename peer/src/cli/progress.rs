//! Progress on standard error: bars in a terminal, else a line now and then.

use super::format;
use crate::metrics::state_name;
use crate::status::{MemberRole, RunState, RunStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Departures that a line tells of.
const DEPARTURES_SHOWN: usize = 3;

/// What is shown of one member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MemberLine {
    pub(super) label: String,
    pub(super) state: &'static str,
    pub(super) rounds_done: u32,
    pub(super) tokens_per_s: f64,
    pub(super) loss: Option<f64>,
}

/// What is shown of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) state: &'static str,
    pub(super) rounds_done: u32,
    /// Batches that count, and how many shall.
    pub(super) done: u64,
    pub(super) target: u64,
    pub(super) loss: Option<f64>,
    pub(super) tokens_per_s: f64,
    /// Time left, once it can be told.
    pub(super) left: Option<Duration>,
    pub(super) members: Vec<MemberLine>,
    /// How far the ledger is, where that is watched.
    pub(super) ledger: String,
    /// What people should know besides: who has left, why nothing goes on.
    pub(super) notes: Vec<String>,
}

impl View {
    /// The run as one member sees it; `label` names members for people.
    pub(super) fn of(run: &RunStatus, label: impl Fn(&str) -> String) -> Self {
        let (done, target) = (run.batches_done, run.batches_target);
        // What was done before this peer came is not in its time.
        let left_ms = (run.state == RunState::Training && run.rounds_done > 0 && done > 0).then(|| {
            let left = u128::from(target.saturating_sub(done));
            u64::try_from(u128::from(run.training_ms) * left / u128::from(done)).unwrap_or(u64::MAX)
        });
        let departures = run.left.iter().rev().take(DEPARTURES_SHOWN);
        let departures = departures.map(|departure| format!("{} left: {}", label(&departure.peer), departure.reason));
        let member = |member: &crate::status::MemberStatus| MemberLine {
            label: label(&member.peer),
            state: match (member.role, member.ready) {
                (MemberRole::Listening, _) => "listening",
                (MemberRole::Full, true) => state_name(run.state),
                (MemberRole::Full, false) => "preparing",
            },
            rounds_done: member.rounds_done,
            tokens_per_s: member.tokens_per_s,
            loss: member.loss,
        };
        Self {
            state: state_name(run.state),
            rounds_done: run.rounds_done,
            done,
            target,
            loss: run.losses.last().copied(),
            tokens_per_s: run.tokens_per_s,
            left: left_ms.map(Duration::from_millis),
            members: run.members.iter().map(member).collect(),
            ledger: String::new(),
            notes: run.paused.iter().cloned().chain(departures).collect(),
        }
    }

    fn overall(&self) -> String {
        let left = self.left.map_or_else(|| "–".into(), format::duration);
        let ledger = if self.ledger.is_empty() { String::new() } else { format!("  {}", self.ledger) };
        let (loss, rate) = (format::loss(self.loss), format::rate(self.tokens_per_s));
        format!("loss {loss}  {rate} tokens/s  {left} left{ledger}")
    }

    /// Everything in one line, for logs.
    fn line(&self) -> String {
        let member = |member: &MemberLine| {
            let MemberLine { label, state, rounds_done, tokens_per_s, .. } = member;
            format!("{label} {state} {rounds_done} ({} tokens/s)", format::rate(*tokens_per_s))
        };
        let members: Vec<String> = self.members.iter().map(member).collect();
        let Self { state, done, target, rounds_done, .. } = self;
        let notes: Vec<String> = self.notes.iter().map(|note| format!("  | {note}")).collect();
        let (overall, members, notes) = (self.overall(), members.join(", "), notes.concat());
        format!("{state}: {done} of {target} batches, round {rounds_done}  {overall}  | {members}{notes}")
    }
}

impl MemberLine {
    fn message(&self) -> String {
        let Self { state, tokens_per_s, loss, .. } = self;
        format!("{state:<10} {:>9} tokens/s  loss {}", format::rate(*tokens_per_s), format::loss(*loss))
    }
}

/// Shows a [`View`] again and again.
pub(super) struct Progress {
    bars: Option<Bars>,
    shown_at: Option<Instant>,
    shown: String,
    /// What was not due yet.
    pending: Option<String>,
}

struct Bars {
    all: MultiProgress,
    overall: Option<ProgressBar>,
    members: Vec<ProgressBar>,
    /// Notes that were shown.
    told: Vec<String>,
}

impl Progress {
    /// To standard error, as suits it.
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars =
            terminal.then(|| Bars { all: MultiProgress::new(), overall: None, members: Vec::new(), told: Vec::new() });
        Self { bars, shown_at: None, shown: String::new(), pending: None }
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.bars {
            // Without its terminal there is nobody to tell.
            Some(bars) => drop(bars.all.println(text)),
            None => eprintln!("{text}"),
        }
    }

    /// Shows the present state.
    pub(super) fn show(&mut self, view: &View) {
        match &mut self.bars {
            Some(bars) => bars.show(view),
            None => self.show_line(view.line(), Instant::now()),
        }
    }

    fn show_line(&mut self, line: String, now: Instant) {
        if line == self.shown {
            return;
        }
        if self.shown_at.is_some_and(|shown_at| now.duration_since(shown_at) < LINE_INTERVAL) {
            self.pending = Some(line);
            return;
        }
        eprintln!("{line}");
        self.shown_at = Some(now);
        self.shown = line;
        self.pending = None;
    }

    /// Leaves the last state on screen.
    pub(super) fn finish(self) {
        if let Some(line) = self.pending {
            eprintln!("{line}");
        }
        let Some(bars) = self.bars else { return };
        for bar in bars.members.iter().chain(&bars.overall) {
            bar.abandon();
        }
    }
}

impl Bars {
    fn show(&mut self, view: &View) {
        let length = view.target.max(1);
        for (index, member) in view.members.iter().enumerate() {
            if index == self.members.len() {
                let bar = self.all.insert(index, bar("{prefix:16} round {pos:>4}  {msg}"));
                self.members.push(bar);
            }
            let bar = &self.members[index];
            bar.set_prefix(member.label.clone());
            bar.set_position(member.rounds_done.into());
            bar.set_message(member.message());
        }
        // Those who have left make room.
        for bar in self.members.drain(view.members.len().min(self.members.len())..) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        for note in view.notes.iter().filter(|note| !self.told.contains(note)) {
            // Without its terminal there is nobody to tell.
            drop(self.all.println(note));
        }
        self.told.clone_from(&view.notes);
        let overall = self.overall.get_or_insert_with(|| {
            let bar = self.all.add(bar("{prefix:16} [{bar:20}] {pos:>4}/{len} batches  {msg}"));
            bar.set_prefix("all");
            bar
        });
        overall.set_length(length);
        overall.set_position(view.done);
        overall.set_message(format!("{:<10} {}", view.state, view.overall()));
    }
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{DepartureStatus, MemberStatus};

    fn run() -> RunStatus {
        RunStatus {
            state: RunState::Training,
            rounds_done: 10,
            rounds: 40,
            batches_done: 200,
            batches_target: 800,
            losses: vec![5.0, 3.25],
            tokens_per_s: 9876.4,
            training_ms: 20_000,
            members: vec![
                MemberStatus {
                    peer: "aa".into(),
                    ready: true,
                    rounds_done: 10,
                    tokens_per_s: 2500.0,
                    ..MemberStatus::default()
                },
                MemberStatus { peer: "bb".into(), ..MemberStatus::default() },
                MemberStatus { peer: "cc".into(), role: MemberRole::Listening, ..MemberStatus::default() },
            ],
            left: vec![DepartureStatus {
                peer: "dd".into(),
                reason: "a member was lost".into(),
                ..DepartureStatus::default()
            }],
            ..RunStatus::default()
        }
    }

    #[test]
    fn a_line_holds_state_round_speed_loss_and_time_left() {
        let view = View::of(&run(), |peer| format!("peer {peer}"));
        assert_eq!(
            view.line(),
            "training: 200 of 800 batches, round 10  loss 3.250  9,876 tokens/s  1 min 0 s left  \
             | peer aa training 10 (2,500 tokens/s), peer bb preparing 0 (– tokens/s), \
             peer cc listening 0 (– tokens/s)  | peer dd left: a member was lost"
        );
        assert_eq!(view.members[0].message(), "training       2,500 tokens/s  loss –");
    }

    #[test]
    fn before_the_first_round_nothing_is_guessed() {
        let view = View::of(&RunStatus { batches_target: 4, ..RunStatus::default() }, str::to_owned);
        assert_eq!(view.line(), "preparing: 0 of 4 batches, round 0  loss –  – tokens/s  – left  | ");
    }

    #[test]
    fn lines_come_when_due_and_changed() {
        let mut progress = Progress { bars: None, shown_at: None, shown: String::new(), pending: None };
        let start = Instant::now();
        progress.show_line("a".into(), start);
        assert_eq!(progress.shown, "a");
        progress.show_line("b".into(), start + LINE_INTERVAL / 2);
        assert_eq!((progress.shown.as_str(), progress.pending.as_deref()), ("a", Some("b")), "too early");
        progress.show_line("c".into(), start + LINE_INTERVAL);
        assert_eq!((progress.shown.as_str(), progress.pending.as_deref()), ("c", None));
        progress.show_line("c".into(), start + LINE_INTERVAL * 3);
        assert_eq!(progress.shown_at, Some(start + LINE_INTERVAL), "nothing new");
    }
}
