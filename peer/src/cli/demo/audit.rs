//! Which batches a run has learnt from, counted anew from the diaries of all its
//! peers: nobody's own account is believed. What a member computed is read from
//! its own diary, whose values went into an exchange from all diaries, which
//! must agree.

use crate::run::diary::Line;
use manta_protocol::PeerId;
use manta_protocol::run::ledger::{Ledger, Span};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The diary of one peer.
#[derive(Clone, Debug)]
pub(super) struct Diary {
    pub(super) peer: PeerId,
    pub(super) lines: Vec<Line>,
}

/// What the diaries say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Batches that the run was to learn from.
    pub(super) batches_total: u64,
    /// Of these, those that nobody's contribution held.
    pub(super) batches_lost: u64,
    /// Contributions of batches that were learnt from already.
    pub(super) batches_double: u64,
    /// Times that a full member left, and that somebody became one after the start.
    pub(super) peers_lost: usize,
    pub(super) peers_joined: usize,
}

/// A step that a peer made.
#[derive(Clone, Debug)]
struct Step {
    at_ms: u64,
    view: u32,
    contributors: Vec<PeerId>,
    ledger: Ledger,
}

/// A view as everybody saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    plan: u32,
    from: u64,
    fresh: bool,
    full: BTreeSet<PeerId>,
    listeners: BTreeSet<PeerId>,
}

/// What was read out of all diaries.
#[derive(Debug, Default)]
struct Sources {
    views: BTreeMap<u32, Seen>,
    computed: HashMap<(PeerId, u64, u32), Vec<Span>>,
    /// By peer and exchange; a step that was made again replaces all from there on.
    steps: BTreeMap<PeerId, BTreeMap<u64, Step>>,
}

impl Sources {
    fn read(diaries: &[Diary]) -> Result<Self, String> {
        let mut sources = Self::default();
        for Diary { peer, lines } in diaries {
            for line in lines {
                sources.take(*peer, line)?;
            }
        }
        Ok(sources)
    }

    fn take(&mut self, peer: PeerId, line: &Line) -> Result<(), String> {
        match line.clone() {
            Line::Computed { exchange, plan, batches, .. } => {
                self.computed.insert((peer, exchange, plan), batches);
            }
            Line::Done { at_ms, exchange, view, contributors, ledger } => {
                let steps = self.steps.entry(peer).or_default();
                steps.split_off(&exchange);
                steps.insert(exchange, Step { at_ms, view, contributors, ledger });
            }
            Line::View { number, plan, from, fresh, full, listeners, .. } => {
                let (full, listeners) = (full.into_iter().collect(), listeners.into_iter().collect());
                let seen = Seen { plan, from, fresh, full, listeners };
                if self.views.entry(number).or_insert_with(|| seen.clone()) != &seen {
                    return Err(format!("peers have seen different views {number}"));
                }
            }
        }
        Ok(())
    }

    /// How an exchange ended, as far as it was not made anew later.
    fn step(&self, exchange: u64) -> Result<Option<&Step>, String> {
        let all = || self.steps.values().filter_map(|steps| steps.get(&exchange));
        let Some(latest) = all().max_by_key(|step| step.view) else { return Ok(None) };
        let fresh_since = |step: &Step| {
            let later = self.views.range(step.view + 1..).map(|(_, view)| view);
            later.into_iter().any(|view| view.fresh && view.from <= exchange)
        };
        let same = |step: &Step| step.contributors == latest.contributors && step.ledger == latest.ledger;
        if all().any(|step| !same(step) && !fresh_since(step)) {
            return Err(format!("peers disagree on whose batches count in exchange {exchange}"));
        }
        Ok(Some(latest))
    }

    /// Number of the view whose plan an exchange followed.
    fn plan_of(&self, exchange: u64, step: &Step) -> u32 {
        let mut views = self.views.range(..=step.view).map(|(_, view)| view);
        views.rfind(|view| view.from <= exchange).map_or(0, |view| view.plan)
    }
}

/// Counts.
///
/// # Errors
/// How the diaries contradict each other.
pub(super) fn audit(diaries: &[Diary]) -> Result<Audit, String> {
    let sources = Sources::read(diaries)?;
    let (mut counted, mut batches_double, mut batches_total) = (HashSet::new(), 0, 0);
    let mut exchange = 0;
    while let Some(step) = sources.step(exchange)? {
        let plan = sources.plan_of(exchange, step);
        for peer in &step.contributors {
            let spans = sources.computed.get(&(*peer, exchange, plan));
            let spans = spans.ok_or_else(|| {
                format!("values of {} count in exchange {exchange}, but it has computed none", peer.short())
            })?;
            for batch in spans.iter().flat_map(|span| span.first..span.first + span.count) {
                batches_double += u64::from(!counted.insert(batch));
            }
        }
        if step.ledger.done() != counted.len() as u64 {
            let (ledger, found) = (step.ledger.done(), counted.len());
            return Err(format!("after exchange {exchange} the ledger counts {ledger} batches, the diaries {found}"));
        }
        batches_total = step.ledger.target;
        exchange += 1;
    }
    let counted = counted.iter().filter(|batch| **batch < batches_total).count() as u64;
    let (peers_lost, peers_joined) = turnover(&sources.views);
    Ok(Audit { batches_total, batches_lost: batches_total - counted, batches_double, peers_lost, peers_joined })
}

/// How often a full member left, and how often somebody became one.
fn turnover(views: &BTreeMap<u32, Seen>) -> (usize, usize) {
    let pairs = || views.values().zip(views.values().skip(1));
    let gone = pairs().map(|(before, after)| before.full.difference(&after.full).count()).sum();
    let new = pairs().map(|(before, after)| after.full.difference(&before.full).count()).sum();
    (gone, new)
}

/// Time from `fault_ms` until every full member of the next view without
/// `victim` has completed an exchange in such a view; `None` if one never did.
pub(super) fn recovery_ms(diaries: &[Diary], victim: PeerId, fault_ms: u64) -> Option<u64> {
    let sources = Sources::read(diaries).ok()?;
    let without = |view: u32| {
        let view = sources.views.get(&view)?;
        (!view.full.contains(&victim) && !view.listeners.contains(&victim)).then_some(&view.full)
    };
    let first_without = |steps: &BTreeMap<u64, Step>| {
        let mut after = steps.values().filter(|step| step.at_ms >= fault_ms);
        after.find_map(|step| without(step.view).map(|full| (step.at_ms, full.clone())))
    };
    let (_, survivors) = sources.steps.values().filter_map(first_without).min_by_key(|(at_ms, _)| *at_ms)?;
    let done = survivors.iter().map(|peer| sources.steps.get(peer).and_then(first_without).map(|(at_ms, _)| at_ms));
    done.collect::<Option<Vec<u64>>>()?.into_iter().max().map(|at_ms| at_ms - fault_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);
    const C: PeerId = PeerId([3; 32]);

    fn view(number: u32, from: u64, full: &[PeerId], listeners: &[PeerId]) -> Line {
        let (full, listeners) = (full.to_vec(), listeners.to_vec());
        Line::View { at_ms: 0, number, plan: number, from, fresh: false, full, listeners }
    }

    fn computed(exchange: u64, plan: u32, first: u64) -> Line {
        Line::Computed { at_ms: 0, exchange, plan, batches: vec![Span { first, count: 2 }] }
    }

    fn done(at_ms: u64, exchange: u64, view: u32, contributors: &[PeerId], ledger: (u64, &[Span])) -> Line {
        let ledger = Ledger { target: 10, next: ledger.0, returned: ledger.1.to_vec() };
        Line::Done { at_ms, exchange, view, contributors: contributors.to_vec(), ledger }
    }

    /// Three members; the third dies in exchange 1, whose batches 8 and 9 the others do later.
    fn diaries() -> Vec<Diary> {
        let returned = [Span { first: 8, count: 2 }];
        let both = |peer: PeerId, batches: [u64; 3], at_ms: u64| Diary {
            peer,
            lines: vec![
                view(0, 0, &[A, B, C], &[]),
                computed(0, 0, batches[0]),
                done(at_ms, 0, 0, &[A, B], (4, &[])),
                computed(1, 0, batches[1]),
                view(1, 2, &[A, B], &[]),
                done(at_ms + 100, 1, 1, &[A, B], (10, &returned)),
                computed(2, 1, batches[2]),
                done(at_ms + 150, 2, 1, &[A], (10, &[])),
            ],
        };
        let third = vec![view(0, 0, &[A, B, C], &[]), done(1000, 0, 0, &[A, B], (4, &[])), computed(1, 0, 8)];
        vec![both(A, [0, 4, 8], 1000), both(B, [2, 6, 0], 1010), Diary { peer: C, lines: third }]
    }

    #[test]
    fn what_was_returned_and_done_again_counts_once() {
        let expected = Audit { batches_total: 10, peers_lost: 1, ..Audit::default() };
        assert_eq!(audit(&diaries()), Ok(expected));
    }

    #[test]
    fn lost_and_double_batches_are_found_whatever_the_ledgers_say() {
        let mut lost = diaries();
        for diary in &mut lost[..2] {
            diary.lines.pop();
        }
        let found = audit(&lost).unwrap();
        assert_eq!((found.batches_lost, found.batches_double), (2, 0));
        let mut double = diaries();
        double[0].lines[6] = computed(2, 1, 0);
        let problem = audit(&double).unwrap_err();
        assert!(problem.contains("exchange 2") && problem.contains("counts 10"), "{problem}");
    }

    #[test]
    fn contradictions_are_told() {
        let mut apart = diaries();
        apart[1].lines[5] = done(1110, 1, 1, &[A], (10, &[]));
        assert!(audit(&apart).unwrap_err().contains("disagree"), "{:?}", audit(&apart));
        let mut views = diaries();
        views[1].lines[4] = view(1, 2, &[B], &[A]);
        assert!(audit(&views).unwrap_err().contains("views 1"));
        let mut invented = diaries();
        invented[0].lines.remove(1);
        assert!(audit(&invented).unwrap_err().contains("computed none"));
    }

    #[test]
    fn work_that_was_begun_anew_from_a_checkpoint_counts_as_it_was_done_last() {
        let fresh =
            Line::View { at_ms: 0, number: 1, plan: 1, from: 0, fresh: true, full: vec![A, B], listeners: vec![] };
        let mut diaries = diaries();
        diaries.truncate(2);
        for (diary, first) in diaries.iter_mut().zip([0, 2]) {
            // The first two steps are forgotten by the second peer.
            diary.lines = vec![view(0, 0, &[A, B], &[]), computed(0, 0, first)];
        }
        diaries[0].lines.push(done(1, 0, 0, &[A], (2, &[])));
        for (diary, first) in diaries.iter_mut().zip([2, 0]) {
            diary.lines.extend([fresh.clone(), computed(0, 1, first), done(9, 0, 1, &[A, B], (4, &[]))]);
        }
        let found = audit(&diaries).unwrap();
        assert_eq!((found.batches_lost, found.batches_double), (6, 0));
    }

    #[test]
    fn recovery_is_over_when_the_last_survivor_goes_on() {
        assert_eq!(recovery_ms(&diaries(), C, 1050), Some(60));
        assert_eq!(recovery_ms(&diaries(), C, 1105), Some(45), "one may have gone on before");
        let mut hangs = diaries();
        hangs[1].lines.truncate(5);
        assert_eq!(recovery_ms(&hangs, C, 1050), None);
        let mut back = diaries();
        back[0].lines.push(view(2, 3, &[A, B], &[C]));
        back[0].lines.push(view(3, 4, &[A, B, C], &[]));
        let found = audit(&back).unwrap();
        assert_eq!((found.peers_lost, found.peers_joined), (1, 1));
    }
}
