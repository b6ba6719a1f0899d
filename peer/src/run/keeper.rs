//! What of runs outlives a restart of this peer: the node's own records, and the
//! orders of which runs came, so that a model still finds its folder.

use crate::api::OrderRequest;
use crate::store::journal::{Journal, JournalError, Key};
use manta_protocol::RunId;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// An order as it is needed at the end of its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptOrder {
    pub(crate) request: OrderRequest,
    /// Entropy of the training unigram model on the validation part, nats a token.
    pub(crate) unigram_loss: f64,
}

/// Which kind of value: the first byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Record = 1,
    Order = 2,
}

/// What was found at the start of the peer.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The node's records, to resume from.
    pub(crate) records: Vec<(RunId, Vec<u8>)>,
    pub(crate) orders: Vec<(RunId, KeptOrder)>,
}

/// The journal of this peer's runs.
#[derive(Debug)]
pub(crate) struct Keeper {
    journal: Journal,
}

impl Keeper {
    /// Opens the journal at `path`.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        Ok(Self { journal: Journal::open(path)? })
    }

    /// Everything that was kept; what cannot be read is left alone and logged.
    pub(crate) fn found(&self) -> Found {
        let mut found = Found::default();
        for (key, value) in self.journal.iter() {
            let Some((kind, run, content)) = split(value).filter(|(kind, run, _)| *key == key_of(*kind, *run)) else {
                tracing::warn!("the journal holds a value of another release; it is left alone");
                continue;
            };
            match kind {
                Kind::Record => found.records.push((run, content.to_vec())),
                Kind::Order => match serde_json::from_slice(content) {
                    Ok(order) => found.orders.push((run, order)),
                    Err(error) => tracing::warn!(run = %run.short(), %error, "a kept order cannot be read"),
                },
            }
        }
        found
    }

    /// Keeps the node's record of a run, or forgets it; durable when it returns.
    ///
    /// # Errors
    /// As [`Journal::put`].
    pub(crate) fn record(&mut self, run: RunId, record: Option<&[u8]>) -> Result<(), JournalError> {
        self.set(Kind::Record, run, record)
    }

    /// Keeps the order of a run, or forgets it; durable when it returns.
    ///
    /// # Errors
    /// As [`Journal::put`].
    pub(crate) fn order(&mut self, run: RunId, order: Option<&KeptOrder>) -> Result<(), JournalError> {
        // Only a map with keys that are no texts, or a failing writer, could fail here.
        let encoded = order.and_then(|order| serde_json::to_vec(order).ok());
        self.set(Kind::Order, run, encoded.as_deref())
    }

    fn set(&mut self, kind: Kind, run: RunId, content: Option<&[u8]>) -> Result<(), JournalError> {
        let key = key_of(kind, run);
        match content {
            Some(content) => self.journal.put(&key, &[&[kind as u8], run.as_bytes().as_slice(), content].concat()),
            None if self.journal.get(&key).is_some() => self.journal.remove(&key),
            None => Ok(()),
        }
    }
}

fn key_of(kind: Kind, run: RunId) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 journal of runs v1");
    hasher.update(&[kind as u8]).update(run.as_bytes());
    *hasher.finalize().as_bytes()
}

fn split(value: &[u8]) -> Option<(Kind, RunId, &[u8])> {
    let (kind, rest) = value.split_first()?;
    let (run, content) = rest.split_first_chunk()?;
    let kind = match kind {
        1 => Kind::Record,
        2 => Kind::Order,
        _ => return None,
    };
    Some((kind, RunId(*run), content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Basis;
    use manta_protocol::market::demand::Share;

    const RUN: RunId = RunId([5; 32]);

    fn order() -> KeptOrder {
        let request = OrderRequest {
            data: None,
            out: "/somewhere/model".into(),
            overwrite: true,
            preset: "nano".into(),
            basis: Basis::default(),
            peers_min: 1,
            peers_max: 4,
            rounds: 3,
            steps_per_round: 2,
            local: true,
            solo: false,
            seed: 9,
            patience_ms: 10,
            deadline_ms: 20,
            share: Share::Invited,
        };
        KeptOrder { request, unigram_loss: 3.25 }
    }

    #[test]
    fn records_and_orders_come_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut keeper = Keeper::open(&path).unwrap();
        keeper.record(RUN, Some(b"first")).unwrap();
        keeper.record(RUN, Some(b"second")).unwrap();
        keeper.record(RunId([6; 32]), Some(b"")).unwrap();
        keeper.order(RUN, Some(&order())).unwrap();
        drop(keeper);
        let mut keeper = Keeper::open(&path).unwrap();
        let mut found = keeper.found();
        found.records.sort();
        assert_eq!(found.records, [(RUN, b"second".to_vec()), (RunId([6; 32]), Vec::new())]);
        assert_eq!(found.orders, [(RUN, order())]);
        keeper.record(RUN, None).unwrap();
        keeper.order(RUN, None).unwrap();
        keeper.order(RUN, None).unwrap();
        drop(keeper);
        let found = Keeper::open(&path).unwrap().found();
        assert_eq!((found.records.len(), found.orders.len()), (1, 0));
    }
}
