//! Leases: users tell whether machines that trained for them were there.
//!
//! That a machine took part, its own consent proves; how it went is its user's
//! word alone, as a probe without an answer is the checker's. So a lease counts
//! for what its author has to say among the checkers: of the probes that the
//! machine is sent in that time, the author's share by weight. A weight in many
//! keys says no more than in one, all users together no more than all checkers,
//! and no time of a machine counts twice for one user.

use super::super::limits::{LEASE_BLOCKS_MAX, LEASE_MASS_MIN, LEASE_PROBES_MAX, PROBE_MASS};
use super::super::refusal::Refusal;
use super::super::state::State;
use super::super::transaction::LeaseReport;
use super::probe;
use crate::ids::PeerId;

/// The height from which on the lease counts in the block of height `now`: its
/// beginning, or the last report of the same user on this machine.
///
/// # Errors
/// Why the report can count neither in that block nor later.
pub(in super::super) fn begins(state: &State, author: &PeerId, report: &LeaseReport, now: u64) -> Result<u64, Refusal> {
    let LeaseReport { trainer, height, .. } = *report;
    let user = state.keys.get(author).ok_or(Refusal::NotRegistered(*author))?;
    // One that stands by meanwhile has leased its machine all the same.
    let machine = state.keys.get(&trainer).ok_or(Refusal::NotRegistered(trainer))?;
    let is_users = |peer: PeerId| peer == *author || peer == user.owner;
    if is_users(trainer) || is_users(machine.owner) {
        return Err(Refusal::OwnLease(trainer));
    }
    let is_due = height < now && height.saturating_add(LEASE_BLOCKS_MAX) >= now;
    let refused = Refusal::NoLease(height);
    let Some(leases) = state.leases.get(&trainer).filter(|_| is_due) else {
        return if is_due { Ok(height) } else { Err(refused) };
    };
    match leases.latest.get(author) {
        Some(last) if height > last.began => Ok(height.max(last.at)),
        None if height >= leases.since => Ok(height),
        _ => Err(refused),
    }
}

/// What the lease counts for in the block of height `now`, in 2⁻³² probes.
///
/// # Errors
/// Why it does not count.
pub(in super::super) fn judge(state: &State, author: &PeerId, report: &LeaseReport, now: u64) -> Result<u64, Refusal> {
    let from = begins(state, author, report, now)?;
    if state.keys.get(author).is_none_or(|key| key.standby) {
        return Err(Refusal::NotElectable(*author));
    }
    if !report.is_consented(&state.ledger, author) {
        return Err(Refusal::BadConsent(report.trainer));
    }
    let found = mass(state, author, now.saturating_sub(from));
    if found < LEASE_MASS_MIN { Err(Refusal::LightLease { found }) } else { Ok(found) }
}

/// The probes that one machine is sent by `author` in so many blocks, on average.
fn mass(state: &State, author: &PeerId, blocks: u64) -> u64 {
    let Some(election) = probe::election(state, state.height) else { return 0 };
    let weight = u128::from(election.standings.weight(author).unwrap_or(0));
    // Each seat asks one of all listed but its holder.
    let asked = 1_000 * election.standings.0.len().saturating_sub(1).max(1) as u128;
    let longest = u128::from(LEASE_PROBES_MAX * PROBE_MASS);
    let probes = u128::from(blocks) * u128::from(election.expected_milli) * u128::from(PROBE_MASS) / asked;
    let share = (weight * probes.min(longest)).checked_div(u128::from(election.total));
    share.and_then(|share| u64::try_from(share).ok()).unwrap_or(0)
}

/// Counts a lease.
pub(in super::super) fn lease(state: &mut State, author: &PeerId, report: &LeaseReport) -> Result<(), Refusal> {
    let now = state.height;
    let mass = judge(state, author, report, now)?;
    state.leases.entry(report.trainer).note(*author, report.height, now);
    state.reliability.entry(report.trainer).lease(report.kept, mass);
    Ok(())
}

#[cfg(test)]
mod tests;
