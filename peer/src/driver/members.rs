//! Members that come to a run and leave it: where they are reached, and what
//! they may send and read.

use super::open_run::OpenRun;
use super::{Driver, TaskDone};
use crate::net::addresses;
use crate::net::swarm::NetCommand;
use crate::run::diary::Diary;
use crate::run::fetch::{blocking, fetch_data};
use crate::run::state::RunState;
use crate::store::state_file::{StateFolder, StateOf};
use manta_protocol::effect::{Entry, RunStart};
use manta_protocol::market::listing::Contact;
use manta_protocol::run::view::View;
use manta_protocol::{PeerId, RunId};
use std::net::SocketAddr;
use std::sync::Arc;

impl Driver {
    /// A run begins here.
    pub(super) fn prepare(&mut self, start: Arc<RunStart>) {
        let now = self.last_now;
        let entry = start.entry;
        tracing::info!(run = %start.run.short(), members = start.members.len(), ?entry, "a run begins");
        self.board.run_began(&start, now);
        let diary = Diary::open(self.parts.diaries.as_deref(), start.run);
        let mut open = OpenRun::new(start.clone(), diary);
        if start.entry == Entry::First {
            let first = View::first(&start.spec, &start.members);
            open.diary.view_changed(now, &first);
            self.board.view_changed(start.run, &first, now);
        }
        for contact in start.members.iter().filter(|contact| contact.peer != start.me) {
            self.introduce(contact);
            open.admitted.insert(contact.peer);
        }
        let readers = open.admitted.clone();
        self.run = Some(open);
        self.readmit(start.run);
        let (bulk, store, library) = (self.parts.bulk.clone(), self.parts.store.clone(), self.parts.library.clone());
        let states = self.parts.states.clone();
        self.spawn(async move {
            let data = fetch_data(start.clone(), readers, bulk, store, library).await;
            let fetched = match data {
                Ok(data) => Ok((data, own_state(&start, states).await)),
                Err(problem) => Err(problem),
            };
            TaskDone::DataFetched(start, fetched)
        });
    }

    /// Somebody comes to the run.
    pub(super) fn admit(&mut self, run: RunId, contact: &Contact) {
        let Some(open) = self.open_run(run).filter(|open| open.start.me != contact.peer) else { return };
        open.admitted.insert(contact.peer);
        self.introduce(contact);
        self.readmit(run);
    }

    /// Somebody has left the run.
    pub(super) fn dismiss(&mut self, run: RunId, peer: PeerId) {
        let Some(open) = self.open_run(run) else { return };
        open.admitted.remove(&peer);
        self.readmit(run);
        self.depart(peer);
    }

    /// Tells the transports who the members are now.
    fn readmit(&mut self, run: RunId) {
        let Some(open) = self.open_run(run) else { return };
        let admitted = open.admitted.clone();
        let chunk_bytes = open.start.spec.chunk_elements.saturating_mul(4);
        self.parts.library.set_readers(run, &admitted);
        self.parts.bulk.admit(run, admitted, chunk_bytes);
    }

    /// Tells the transports where a member is.
    pub(super) fn introduce(&mut self, contact: &Contact) {
        let peer = contact.peer;
        let known_at: Vec<Vec<u8>> = contact.addresses.iter().map(|address| address.0.clone()).collect();
        let known = self.connected.get(&peer).copied().flatten();
        let told = known_at.iter().filter_map(|bytes| addresses::ip(&addresses::from_bytes(bytes)?));
        let ips = known.into_iter().chain(told);
        let sockets = dedup(ips.map(|ip| SocketAddr::new(ip, contact.bulk_port)));
        self.parts.bulk.set_peer_addresses(peer, sockets);
        self.command(NetCommand::AddAddresses { peer, addresses: known_at.clone() });
        self.command(NetCommand::Guard { peer, addresses: known_at });
    }

    /// The transports need not look after a member any more.
    pub(super) fn depart(&mut self, peer: PeerId) {
        self.command(NetCommand::Unguard { peer });
        self.parts.bulk.forget_peer(&peer);
    }
}

/// The state that this member has written down before a restart, if it is still good.
async fn own_state(start: &RunStart, states: StateFolder) -> Option<RunState> {
    let Entry::Again { checkpoint: Some(exchange) } = start.entry else { return None };
    let of = StateOf { run: start.run, exchange };
    let loaded = blocking(move || states.load(of).map_err(|error| error.to_string())).await;
    match loaded {
        Ok(Some(vectors)) => Some(RunState { exchange, vectors }),
        Ok(None) => None,
        Err(problem) => {
            tracing::warn!(run = %start.run.short(), problem, "the own checkpoint cannot be used");
            None
        }
    }
}

fn dedup(sockets: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut kept = Vec::new();
    for socket in sockets.filter(|socket| socket.port() != 0) {
        if !kept.contains(&socket) {
            kept.push(socket);
        }
    }
    kept
}
