//! Keys and credits.

use super::super::limits::{ACCOUNTS_MAX, KEYS_MAX, OPENING_TRANSFER_MIN};
use super::super::records::{Power, Registration};
use super::super::refusal::Refusal;
use super::super::state::State;
use super::super::transaction::{Register, Transfer};
use crate::ids::PeerId;
use crate::power::{History, MicroPower, PowerRecord};

/// Registers the author's key, or changes what it says. Either way it counts in
/// elections only by weights of this height on: nobody fits a key to a beacon.
pub(in super::super) fn register(
    state: &mut State,
    author: &PeerId,
    nonce: u64,
    register: &Register,
) -> Result<(), Refusal> {
    let count = state.genesis.parameters.classes.len();
    if usize::from(register.class) >= count {
        return Err(Refusal::NoSuchClass { found: register.class, count });
    }
    if !register.vrf.is_valid() {
        return Err(Refusal::BadVrfKey);
    }
    if !register.is_consented(&state.ledger, author, nonce) {
        return Err(Refusal::NotConsented(register.owner));
    }
    let known = state.keys.get(author).copied();
    if known.is_none() && state.keys.len() >= KEYS_MAX {
        let idle = idlest(state).ok_or(Refusal::KeysFull)?;
        forget(state, &idle);
    }
    let height = state.height;
    let key = Registration {
        vrf: register.vrf,
        owner: register.owner,
        class: register.class,
        standby: known.is_some_and(|key| key.standby),
        registered_at: height,
        alive_at: height,
        barred_until: known.map_or(0, |key| key.barred_until),
        struck_at: known.map_or(0, |key| key.struck_at),
    };
    state.keys.insert(*author, key);
    state.accounts.entry(*author);
    if !state.power.contains(author) {
        let record = PowerRecord::starting(MicroPower::ZERO, state.time_ms());
        state.power.insert(*author, Power { record, history: History::default(), unverified: MicroPower::ZERO });
    }
    Ok(())
}

/// The key that makes room for a newcomer: of those that weigh nothing and never
/// had credits, the one that was silent longest.
fn idlest(state: &State) -> Option<PeerId> {
    let is_idle = |peer: &PeerId| {
        let weightless = state.epoch().standings.weight(peer).is_none_or(|weight| weight == 0);
        weightless && state.accounts.get(peer).is_none_or(|account| !account.funded)
    };
    let idle = state.keys.iter().filter(|(peer, key)| key.alive_at < state.height && is_idle(peer));
    idle.min_by_key(|(peer, key)| (key.alive_at, **peer)).map(|(peer, _)| *peer)
}

/// Forgets a key and all about it. Its account never had credits, so a number
/// that begins again lets nobody repeat a transfer.
fn forget(state: &mut State, peer: &PeerId) {
    let owner = state.keys.remove(peer).map_or(*peer, |key| key.owner);
    if state.keys.values().all(|key| key.owner != owner) {
        state.trust.remove(&owner);
    }
    state.accounts.remove(peer);
    state.power.remove(peer);
    state.reliability.remove(peer);
    state.leases.remove(peer);
}

/// Steps back, or in again.
pub(in super::super) fn standby(state: &mut State, author: &PeerId, on: bool) -> Result<(), Refusal> {
    let height = state.height;
    let key = state.keys.get_mut(author).ok_or(Refusal::NotRegistered(*author))?;
    key.standby = on;
    key.alive_at = height;
    Ok(())
}

/// Moves credits.
pub(in super::super) fn transfer(state: &mut State, author: &PeerId, transfer: &Transfer) -> Result<(), Refusal> {
    let Transfer { to, amount } = *transfer;
    if amount == 0 || to == *author {
        return Err(Refusal::EmptyTransfer);
    }
    let found = state.accounts.get(author).map_or(0, |account| account.balance);
    let left = found.checked_sub(amount).ok_or(Refusal::Balance { found, needed: amount })?;
    let opens = !state.accounts.contains(&to);
    if opens && (amount < OPENING_TRANSFER_MIN || state.accounts.len() >= ACCOUNTS_MAX) {
        return Err(Refusal::Opening);
    }
    state.accounts.entry(*author).balance = left;
    let account = state.accounts.entry(to);
    // All balances together are what was minted, which is counted in 64 bits.
    account.balance = account.balance.saturating_add(amount);
    account.funded = true;
    Ok(())
}

/// Makes credits for a registered peer, as long as they can be counted at all.
pub(in super::super) fn mint(state: &mut State, peer: &PeerId, amount: u64) {
    let Some(minted) = state.totals.minted.checked_add(amount) else { return };
    let Some(account) = state.accounts.get_mut(peer).filter(|_| amount > 0) else { return };
    account.balance = account.balance.saturating_add(amount);
    account.funded = true;
    state.totals.minted = minted;
}

/// Makes the reward of a drill: it can be spent once a result was compared.
pub(super) fn reward(state: &mut State, peer: &PeerId, amount: u64, compared: bool) {
    mint(state, peer, amount);
    let Some(account) = state.accounts.get_mut(peer) else { return };
    if compared {
        account.balance = account.balance.saturating_add(std::mem::take(&mut account.held));
    } else {
        // What could not be minted is not in the balance.
        let held = amount.min(account.balance);
        account.balance -= held;
        account.held = account.held.saturating_add(held);
    }
}

/// Takes out the rewards that were held back.
pub(super) fn burn_held(state: &mut State, peer: &PeerId) {
    if let Some(account) = state.accounts.get_mut(peer) {
        let held = std::mem::take(&mut account.held);
        state.totals.burned = state.totals.burned.saturating_add(held);
    }
}
