//! Who computed which batches from which state, and what became of them.
//!
//! States are named by their exchange and the hash of their bytes. Each state
//! that a member reaches has a set of batches that count in it: that of the
//! state before, and those of the exchange's contributors. So a run that goes
//! back to a checkpoint, or a member that went on by itself for an exchange, is
//! a branch of its own, and the batches of each branch are counted exactly.

use manta_protocol::run::ledger::{Ledger, Span, count};
use manta_protocol::run::view::View;
use manta_protocol::{Hash, PeerId, RunId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Exchanges whose contributions are remembered; a member that lags more is not in the run.
const EXCHANGES_KEPT: u64 = 512;

/// One member's contribution to an exchange.
#[derive(Clone, Debug, PartialEq)]
struct Work {
    base: Hash,
    batches: BTreeSet<u64>,
    values: Vec<f32>,
}

/// A step that a member has made, until it says whose batches counted.
struct Step {
    exchange: u64,
    plan: u32,
    base: Hash,
    sum: Vec<f32>,
    batches: u64,
    state: Hash,
}

/// How a member says that an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    contributors: Vec<PeerId>,
    ledger: Ledger,
    state: Hash,
}

/// What is known of a run.
#[derive(Default)]
struct Line {
    target: u64,
    /// The batches that count in each state.
    states: BTreeMap<(u64, Hash), BTreeSet<u64>>,
    /// The state before an exchange, under a plan: all its members compute from the same.
    bases: BTreeMap<(u64, u32), Hash>,
    work: BTreeMap<(u64, u32, PeerId), Work>,
    steps: BTreeMap<PeerId, Step>,
    ends: BTreeMap<(u64, u32), End>,
    views: BTreeMap<u32, View>,
    hashed: BTreeSet<(PeerId, Hash)>,
    /// Who has ended the run well and is there, in which state.
    finished: BTreeMap<PeerId, (u64, Hash)>,
    /// The same of those who have stopped.
    stopped: BTreeMap<PeerId, (u64, Hash)>,
    /// Exchanges of the branch that ended last.
    exchanges: u64,
}

/// The history of every run's states.
#[derive(Default)]
pub struct Lineage {
    runs: BTreeMap<RunId, Line>,
}

/// What a member contributes.
pub struct Computed<'a> {
    /// The run.
    pub run: RunId,
    /// The exchange.
    pub exchange: u64,
    /// The plan that the batches follow.
    pub plan: u32,
    /// Who computed.
    pub peer: PeerId,
    /// The state that it computed from.
    pub base: Hash,
    /// What it computed.
    pub batches: &'a [Span],
    /// The result.
    pub values: &'a [f32],
}

impl Lineage {
    /// A run begins: its first state, and the batches that it is to do.
    pub fn begun(&mut self, run: RunId, target: u64, state: Hash) {
        let line = self.runs.entry(run).or_default();
        line.target = target;
        line.states.entry((0, state)).or_default();
    }

    /// A member has computed its part.
    ///
    /// # Errors
    /// It did so from another state than the others, or batches that are not its to do.
    pub fn computed(&mut self, part: Computed<'_>) -> Result<(), String> {
        let Computed { run, exchange, plan, peer, base, .. } = part;
        let line = self.runs.entry(run).or_default();
        let at = format!("{peer:?}, exchange {exchange} of plan {plan}");
        let Some(counted) = line.states.get(&(exchange, base)) else {
            return Err(format!("{at}: it computes from a state that nobody has reached"));
        };
        let agreed = *line.bases.entry((exchange, plan)).or_insert(base);
        if agreed != base {
            return Err(format!("{at}: it computes from state {base:?}, another member from {agreed:?}"));
        }
        if let Some(view) = line.views.get(&plan).filter(|view| view.from == exchange) {
            fits(&view.ledger, counted, line.target).map_err(|what| format!("{at}: the view's ledger: {what}"))?;
        }
        let batches = numbers(part.batches);
        if let Some(batch) = batches.iter().find(|batch| counted.contains(batch) || **batch >= line.target) {
            return Err(format!("{at}: batch {batch} counts already, or is beyond {}", line.target));
        }
        let others = line.work.range((exchange, plan, PeerId([0; 32]))..=(exchange, plan, PeerId([255; 32])));
        for ((.., other), work) in others.filter(|((.., other), _)| *other != peer) {
            if let Some(batch) = batches.intersection(&work.batches).next() {
                return Err(format!("{at}: batch {batch} is {other:?}'s, too"));
            }
        }
        let work = Work { base, batches, values: part.values.to_vec() };
        if let Some(before) = line.work.insert((exchange, plan, peer), work.clone())
            && before != work
        {
            return Err(format!("{at}: it computes another contribution than before"));
        }
        if let Some(oldest) = exchange.checked_sub(EXCHANGES_KEPT) {
            line.work = line.work.split_off(&(oldest, 0, PeerId([0; 32])));
        }
        Ok(())
    }

    /// A member has added up a chunk of these contributors' values.
    ///
    /// # Errors
    /// The sum is not theirs.
    pub fn reduced(
        &self,
        run: RunId,
        exchange: u64,
        plan: u32,
        contributors: &[PeerId],
        range: Range<usize>,
        sum: &[f32],
    ) -> Result<(), String> {
        let line = self.runs.get(&run).ok_or("a sum in a run that has not begun")?;
        let expected = line.sum(exchange, plan, contributors, range.clone())?;
        if bits(&expected) == bits(sum) {
            return Ok(());
        }
        Err(format!(
            "exchange {exchange}, elements {range:?}: the sum is not that of every contributor's batches once, in rank order"
        ))
    }

    /// A member has made the optimiser's step.
    #[expect(clippy::too_many_arguments, reason = "they are all that a step is")]
    pub fn applied(
        &mut self,
        run: RunId,
        peer: PeerId,
        exchange: u64,
        plan: u32,
        base: Hash,
        sum: Vec<f32>,
        batches: u64,
        state: Hash,
    ) {
        let line = self.runs.entry(run).or_default();
        line.steps.insert(peer, Step { exchange, plan, base, sum, batches, state });
    }

    /// A member says whose batches count in the exchange that it has just applied.
    ///
    /// # Errors
    /// What it says is not what it did, or not what others did.
    pub fn exchange_done(
        &mut self,
        run: RunId,
        peer: PeerId,
        (exchange, view): (u64, u32),
        contributors: Vec<PeerId>,
        ledger: Ledger,
    ) -> Result<(), String> {
        let line = self.runs.entry(run).or_default();
        let at = format!("{peer:?}, exchange {exchange} in view {view}");
        let step = line.steps.remove(&peer).filter(|step| step.exchange == exchange);
        let step = step.ok_or_else(|| format!("{at}: it says that it is done and has made no step"))?;
        let whole = line.sum(exchange, step.plan, &contributors, 0..step.sum.len());
        let whole = whole.map_err(|what| format!("{at}: {what}"))?;
        if bits(&whole) != bits(&step.sum) {
            return Err(format!("{at}: its sum is not that of {contributors:?}"));
        }
        let Some(before) = line.states.get(&(exchange, step.base)) else {
            return Err(format!("{at}: it made its step from a state that nobody has reached"));
        };
        let mut counted = before.clone();
        let mut batches = 0;
        for contributor in &contributors {
            let Some(work) = line.work.get(&(exchange, step.plan, *contributor)) else { continue };
            batches += work.batches.len() as u64;
            if let Some(batch) = work.batches.iter().find(|batch| !counted.insert(**batch)) {
                return Err(format!("{at}: batch {batch} counts twice"));
            }
        }
        if batches != step.batches {
            return Err(format!("{at}: it divided by {} batches, the sum is of {batches}", step.batches));
        }
        fits(&ledger, &counted, line.target).map_err(|what| format!("{at}: the ledger: {what}"))?;
        if line.states.entry((exchange + 1, step.state)).or_insert_with(|| counted.clone()) != &counted {
            return Err(format!("{at}: one state with two sets of batches that count"));
        }
        let end = End { contributors, ledger, state: step.state };
        let agreed = line.ends.entry((exchange, view)).or_insert_with(|| end.clone());
        if *agreed != end {
            return Err(format!("{at}: it ends with {end:?}, another member with {agreed:?}"));
        }
        Ok(())
    }

    /// A member has loaded a state, from a checkpoint or from donors.
    ///
    /// # Errors
    /// It is none that any member was ever in.
    pub fn loaded(&self, run: RunId, peer: PeerId, exchange: u64, state: Hash) -> Result<(), String> {
        match self.runs.get(&run).is_some_and(|line| line.states.contains_key(&(exchange, state))) {
            true => Ok(()),
            false => Err(format!("{peer:?} loads a state before exchange {exchange} that no member was ever in")),
        }
    }

    /// A member has taken a view to be the present one.
    pub fn view_changed(&mut self, run: RunId, view: &View) {
        self.runs.entry(run).or_default().views.entry(view.number).or_insert_with(|| view.clone());
    }

    /// A member hashed its parameters after a round: what it really holds.
    pub fn hashed(&mut self, run: RunId, peer: PeerId, hash: Hash) {
        self.runs.entry(run).or_default().hashed.insert((peer, hash));
    }

    /// A member's node says that all agree on a round.
    ///
    /// # Errors
    /// They do not, or do not hold what they report.
    pub fn round_done(&self, run: RunId, members: &[(PeerId, Hash)]) -> Result<(), String> {
        let line = self.runs.get(&run).ok_or("a round of a run that has not begun")?;
        for (peer, reported) in members {
            if !line.hashed.contains(&(*peer, *reported)) {
                return Err(format!("{peer:?} reports {reported:?}, which it never held"));
            }
            if members.iter().any(|(_, other)| other != reported) {
                return Err(format!("{peer:?} holds {reported:?}, another member something else: {members:?}"));
            }
        }
        Ok(())
    }

    /// A member ended the run well, in this state.
    ///
    /// # Errors
    /// Not every batch counts there, or the run is done again: another member is there that ended it in another state.
    pub fn finished(&mut self, run: RunId, peer: PeerId, exchange: u64, state: Hash) -> Result<(), String> {
        let line = self.runs.entry(run).or_default();
        let counted = line.states.get(&(exchange, state)).map_or(0, |counted| counted.len() as u64);
        if counted != line.target {
            return Err(format!("{peer:?} ends the run, and {counted} of {} batches count", line.target));
        }
        let end = (exchange, state);
        line.exchanges = exchange;
        let other = line.finished.iter().find(|(other, _)| **other != peer).map(|(other, end)| (*other, *end));
        let known = line.finished.values().any(|known| *known == end);
        line.finished.insert(peer, end);
        match other.filter(|_| !known) {
            None => Ok(()),
            Some((other, ended)) => Err(format!("{peer:?} ends in {end:?}, {other:?} ended in {ended:?}")),
        }
    }

    /// A member has stopped. While none is there that knows of the run's end, the
    /// others may do what they have to do again.
    pub fn stopped(&mut self, peer: PeerId) {
        for line in self.runs.values_mut() {
            line.stopped.extend(line.finished.remove_entry(&peer));
        }
    }

    /// A member that has stopped is there again, with the end of `run` in its journal.
    pub fn remembers(&mut self, run: RunId, peer: PeerId) {
        if let Some(line) = self.runs.get_mut(&run) {
            line.finished.extend(line.stopped.remove_entry(&peer));
        }
    }

    /// A member has lost its disk.
    pub fn forgot(&mut self, peer: PeerId) {
        for line in self.runs.values_mut() {
            line.stopped.remove(&peer);
        }
    }

    /// Whether a machine is there that has ended the run well.
    pub fn is_finished(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(|line| !line.finished.is_empty())
    }

    /// Batches of a run, and exchanges of the branch that it ended on.
    pub fn totals(&self, run: RunId) -> (u64, u64) {
        let line = self.runs.get(&run);
        line.map_or((0, 0), |line| (line.target, line.exchanges))
    }
}

impl Line {
    fn sum(&self, exchange: u64, plan: u32, of: &[PeerId], range: Range<usize>) -> Result<Vec<f32>, String> {
        if of.is_empty() || !of.is_sorted_by(|a, b| a < b) {
            return Err(format!("exchange {exchange}: contributors out of order: {of:?}"));
        }
        let mut sum = vec![0.0f32; range.len()];
        for peer in of {
            let Some(work) = self.work.get(&(exchange, plan, *peer)) else {
                return Err(format!(
                    "exchange {exchange} of plan {plan} was reduced before {peer:?} computed its batches"
                ));
            };
            sum.iter_mut().zip(&work.values[range.clone()]).for_each(|(sum, value)| *sum += value);
        }
        Ok(sum)
    }
}

/// Whether a ledger says exactly that these batches count.
fn fits(ledger: &Ledger, counted: &BTreeSet<u64>, target: u64) -> Result<(), String> {
    if ledger.target != target || ledger.done() + ledger.left() != target {
        return Err(format!("it is of {} batches, the run of {target}", ledger.target));
    }
    if ledger.done() != counted.len() as u64 || ledger.done() + count(&ledger.returned) != ledger.next {
        return Err(format!("it says that {} batches count, and {} do", ledger.done(), counted.len()));
    }
    match numbers(&ledger.returned).intersection(counted).next() {
        Some(batch) => Err(format!("batch {batch} counts and is to be done again")),
        None if counted.last().is_some_and(|last| *last >= ledger.next) => {
            Err("a batch counts that was not given out".into())
        }
        None => Ok(()),
    }
}

fn numbers(spans: &[Span]) -> BTreeSet<u64> {
    spans.iter().flat_map(|span| span.first..span.first + span.count).collect()
}

fn bits(values: &[f32]) -> impl PartialEq + use<> {
    values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);
    const C: PeerId = PeerId([3; 32]);
    const RUN: RunId = RunId([3; 32]);

    fn hash(text: &str) -> Hash {
        Hash::of(text.as_bytes())
    }

    fn spans(first: u64, count: u64) -> Vec<Span> {
        if count == 0 { Vec::new() } else { vec![Span { first, count }] }
    }

    /// Three members computed batches 0, 1 and 2 of six.
    fn begun(values: [f32; 3]) -> Lineage {
        let mut lineage = Lineage::default();
        lineage.begun(RUN, 6, hash("start"));
        for (batch, (peer, value)) in (0..).zip([A, B, C].into_iter().zip(values)) {
            let batches = &spans(batch, 1);
            let part =
                Computed { run: RUN, exchange: 0, plan: 0, peer, base: hash("start"), batches, values: &[value] };
            lineage.computed(part).expect("right");
        }
        lineage
    }

    #[test]
    fn a_sum_without_a_member_or_in_another_order_is_seen() {
        let values = [1.0e8f32, 1.0, -1.0e8];
        let lineage = begun(values);
        let right = values[0] + values[1] + values[2];
        lineage.reduced(RUN, 0, 0, &[A, B, C], 0..1, &[right]).expect("right");
        for wrong in [values[2] + values[0] + values[1], 1.0e8] {
            lineage.reduced(RUN, 0, 0, &[A, B, C], 0..1, &[wrong]).expect_err("wrong");
        }
        lineage.reduced(RUN, 0, 0, &[B, A], 0..1, &[values[0] + values[1]]).expect_err("out of order");
    }

    #[test]
    fn batches_that_count_are_exactly_those_of_the_contributors() {
        let ledger = |next, returned| Ledger { target: 6, next, returned };
        let cases = [
            (vec![A, B], 2, ledger(3, spans(2, 1)), ""),
            (vec![A, B], 3, ledger(3, spans(2, 1)), "divided by 3"),
            (vec![A, B], 2, ledger(3, spans(1, 1)), "counts and is to be done"),
            (vec![A, B], 2, ledger(3, spans(0, 0)), "it says that 3 batches count"),
            (vec![A, B, C], 3, ledger(3, spans(0, 0)), "not that of"),
        ];
        for (contributors, divisor, ledger, wrong) in cases {
            let mut lineage = begun([1.0, 2.0, 4.0]);
            lineage.applied(RUN, A, 0, 0, hash("start"), vec![3.0], divisor, hash("next"));
            let done = lineage.exchange_done(RUN, A, (0, 1), contributors, ledger);
            match done {
                Ok(()) => assert_eq!(wrong, ""),
                Err(what) => assert!(!wrong.is_empty() && what.contains(wrong), "{what}"),
            }
        }
    }

    #[test]
    fn a_run_ends_with_every_batch_once_and_in_one_state() {
        let mut lineage = begun([1.0, 2.0, 4.0]);
        lineage.finished(RUN, A, 0, hash("start")).expect_err("nothing counts yet");
        lineage.applied(RUN, A, 0, 0, hash("start"), vec![7.0], 3, hash("middle"));
        let ledger = Ledger { target: 6, next: 3, returned: Vec::new() };
        lineage.exchange_done(RUN, A, (0, 0), vec![A, B, C], ledger).expect("right");
        let again = &spans(2, 2);
        let part = |peer, batches| Computed {
            run: RUN,
            exchange: 1,
            plan: 0,
            peer,
            base: hash("middle"),
            batches,
            values: &[1.0],
        };
        lineage.computed(part(A, again)).expect_err("batch 2 counts already");
        let rest = &spans(3, 3);
        lineage.computed(part(A, rest)).expect("right");
        lineage.computed(part(B, rest)).expect_err("they are another member's");
        lineage.applied(RUN, A, 1, 0, hash("middle"), vec![1.0], 3, hash("end"));
        let ledger = Ledger { target: 6, next: 6, returned: Vec::new() };
        lineage.exchange_done(RUN, A, (1, 0), vec![A], ledger).expect("right");
        lineage.finished(RUN, A, 2, hash("end")).expect("every batch counts");
        lineage.finished(RUN, B, 2, hash("other")).expect_err("another state");
        assert_eq!(lineage.totals(RUN), (6, 2));
        lineage.stopped(A);
        lineage.stopped(B);
        assert!(!lineage.is_finished(RUN), "nobody who knows of the end is there");
        lineage.finished(RUN, C, 2, hash("end")).expect("it is ended again");
        lineage.stopped(C);
        lineage.forgot(B);
        lineage.remembers(RUN, B);
        assert!(!lineage.is_finished(RUN), "B has lost its disk");
        lineage.remembers(RUN, A);
        assert!(lineage.is_finished(RUN), "A has not");
    }

    #[test]
    fn a_report_that_is_not_what_is_held_is_seen() {
        let mut lineage = begun([1.0, 2.0, 4.0]);
        lineage.hashed(RUN, A, hash("a"));
        lineage.hashed(RUN, B, hash("b"));
        lineage.round_done(RUN, &[(A, hash("a"))]).expect("right");
        lineage.round_done(RUN, &[(A, hash("a")), (B, hash("a"))]).expect_err("B never held it");
        lineage.round_done(RUN, &[(A, hash("a")), (B, hash("b"))]).expect_err("they differ");
    }
}
