//! Attacks on reliability: users that lie about leases. What a lie gains is the
//! liar's share of all weight, as among the checkers, whether it is told often or
//! seldom, by one key or by many.

use super::agent::Policy;
use super::arena::{Arena, rules};
use super::table::{About, Outcome, Scale};
use super::theory::{Leased, hoarded, leased};
use manta_protocol::ledger::{Action, LeaseReport, Parameters, ProbeResult, State, Transaction};
use manta_protocol::{Hash, RunId, Seed};

/// Power of all honest checkers but the one that it is about, in millionths.
const HONEST: u64 = 160_000_000;
const CHECKERS: usize = 8;
/// Power of the peer that it is about: next to nothing, so that others probe it.
const SUBJECT: u64 = 20_000;
/// Power of the liars: a fifth of all.
const LIARS: u64 = 40_000_000;
/// Epochs from probe to probe of one peer.
const INTERVAL: u64 = 2;
/// Heights from report to report.
const EVERY: u64 = 10;
/// Heights that are not measured: counts begin at nothing.
const BEFORE: u64 = 150;

const DEFAMED: About = About {
    attack: "defamation",
    what: "a user with 20 % of all weight reports every lease of a peer that is always there as broken",
    measure: "share of its reliability that the peer loses",
};
const SPLIT: About = About {
    attack: "defamation, split",
    what: "the same weight in four keys",
    measure: "share of its reliability that the peer loses",
};
const HOARDED: About = About {
    attack: "defamation, hoarded",
    what: "the same user reports one broken lease, as long as can be",
    measure: "share of its reliability that the peer loses at once",
};
const LIFTED: About = About {
    attack: "praise",
    what: "a user with 20 % of all weight reports every lease of a peer that never answers as kept",
    measure: "reliability of that peer",
};

/// A peer that is probed, and users that say how it kept their leases.
struct Scene {
    arena: Arena,
    /// The last of the agents.
    subject: usize,
    users: std::ops::Range<usize>,
    /// Whether the subject answers probes, and whether users say that it keeps leases.
    answers: bool,
    kept: bool,
    /// The height of the last consents.
    consented: u64,
}

impl Scene {
    fn new(seed: Seed, liars: &[u64], answers: bool) -> Result<Self, String> {
        let mut founders = vec![(HONEST / CHECKERS as u64, Policy::Honest); CHECKERS];
        founders.extend(liars.iter().map(|power| (*power, Policy::Idle)));
        founders.push((SUBJECT, Policy::Idle));
        let subject = founders.len() - 1;
        let rules = rules(1, founders.len() as u32);
        let probing = Parameters { tasks_per_1000_owners: 0, probe_interval_ms: INTERVAL * rules.epoch_ms, ..rules };
        let arena = Arena::new(seed, &founders, probing)?;
        Ok(Self { arena, subject, users: CHECKERS..subject, answers, kept: !answers, consented: 0 })
    }

    /// One height, with honest probes of the subject; `reports`: users tell of their leases.
    fn step(&mut self, reports: bool) -> Result<(), String> {
        let mut said = self.probes();
        if reports {
            said.extend(self.reports());
            self.consented = self.arena.state.height();
        }
        self.arena.step_with(said)
    }

    fn probes(&self) -> Vec<Transaction> {
        let (state, height) = (&self.arena.state, self.arena.state.height());
        let Some(election) = state.probe_election(height) else { return Vec::new() };
        let subject = &self.arena.agents[self.subject];
        let (ledger, beacon) = (state.ledger(), state.beacon().0);
        let mut said = Vec::new();
        for checker in &self.arena.agents[..self.subject] {
            let (output, proof) = checker.vrf.prove(&election.input);
            for seat in 0..election.seats(&checker.peer, &output) {
                if election.target(&checker.peer, &output, seat) == Some(subject.peer) {
                    let reply = || ProbeResult::reply(&subject.identity, &ledger, &beacon, &checker.peer);
                    let result = ProbeResult { height, seat, proof, reply: self.answers.then(reply) };
                    said.push(Transaction::sign(&checker.identity, &ledger, 0, Action::Probe(result)));
                }
            }
        }
        said
    }

    /// The subject has consented to a lease of each user since the last report.
    fn reports(&self) -> Vec<Transaction> {
        let (ledger, height) = (self.arena.state.ledger(), self.consented);
        let subject = &self.arena.agents[self.subject];
        let report = |user: usize| {
            let user = &self.arena.agents[user];
            let run = RunId(Hash::of(&height.to_le_bytes()).0);
            let consent = LeaseReport::consent(&subject.identity, &ledger, &user.peer, &run, height);
            let report = LeaseReport { trainer: subject.peer, run, height, consent, kept: self.kept };
            Transaction::sign(&user.identity, &ledger, 0, Action::Lease(report))
        };
        self.users.clone().map(report).collect()
    }

    fn reliability(&self) -> f64 {
        let of = self.arena.state.reliability(&self.arena.agents[self.subject].peer).copied().unwrap_or_default();
        of.good as f64 / of.all.max(1) as f64
    }

    /// The share of all weight that the users and the subject have.
    fn shares(&self) -> [f64; 2] {
        let state: &State = &self.arena.state;
        let weight = |agent: usize| state.weight(&self.arena.agents[agent].peer).unwrap_or(0) as f64;
        let total: f64 = (0..=self.subject).map(weight).sum();
        [self.users.clone().map(weight).sum::<f64>() / total, weight(self.subject) / total]
    }

    /// What is expected of lies that are told all the time, and measured over so many heights.
    fn lied(&mut self, heights: u64) -> Result<(Leased, f64), String> {
        let [share, own] = self.shares();
        let predicted = leased(share, own, self.probes_per_height(), heights as f64);
        let mut sum = 0.0;
        for height in 1..=BEFORE + heights {
            self.step(height.is_multiple_of(EVERY))?;
            if height > BEFORE {
                sum += if self.answers { 1.0 - self.reliability() } else { self.reliability() };
            }
        }
        Ok((predicted, sum / heights as f64))
    }

    /// Each seat asks one of all but its holder.
    fn probes_per_height(&self) -> f64 {
        let listed = (self.subject + 1) as f64;
        listed / INTERVAL as f64 / (listed - 1.0)
    }
}

fn always(seed: Seed, about: About, liars: &[u64], answers: bool, heights: u64) -> Result<Outcome, String> {
    let mut scene = Scene::new(seed, liars, answers)?;
    let (Leased { mean, sigma }, measured) = scene.lied(heights)?;
    Ok(about.outcome(mean, measured, [mean - 3.0 * sigma, mean + 3.0 * sigma], heights))
}

/// Lies about leases gain no more than lies about probes would.
pub(super) fn lied_leases(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let heights = 400 * scale.times;
    let mut outcomes = vec![
        always(seed, DEFAMED, &[LIARS], true, heights)?,
        always(seed.child("split", 0), SPLIT, &[LIARS / 4; 4], true, heights)?,
        always(seed.child("praise", 0), LIFTED, &[LIARS], false, heights)?,
    ];
    let mut scene = Scene::new(seed.child("hoard", 0), &[LIARS], true)?;
    let [share, own] = scene.shares();
    for _ in 0..heights {
        scene.step(false)?;
    }
    scene.step(true)?;
    let Leased { mean, sigma } = hoarded(share, own, scene.probes_per_height(), heights as f64);
    let measured = 1.0 - scene.reliability();
    outcomes.push(HOARDED.outcome(mean, measured, [mean - 3.0 * sigma, mean + 3.0 * sigma], heights));
    Ok(outcomes)
}

/// Canary: as if a word counted for more than its author's weight.
pub(super) fn loud_liar(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let heights = 400 * scale.times;
    let [share, own] = Scene::new(seed, &[LIARS], true)?.shares();
    let mut scene = Scene::new(seed, &[4 * LIARS], true)?;
    let Leased { mean, sigma } = leased(share, own, scene.probes_per_height(), heights as f64);
    let (_, measured) = scene.lied(heights)?;
    Ok(vec![DEFAMED.outcome(mean, measured, [mean - 3.0 * sigma, mean + 3.0 * sigma], heights)])
}
