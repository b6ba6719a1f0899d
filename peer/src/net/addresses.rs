//! Which multiaddrs are worth keeping, dialling and telling others.
//!
//! Addresses come from strangers, so each function takes only the forms that
//! this peer can dial: `/ip4|ip6|dns*/…/tcp/…` and `/…/udp/…/quic-v1`, with an
//! optional `/p2p/…` at the end that must name the expected peer.

use super::ticket::MAX_ADDRESS_BYTES;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::net::IpAddr;

/// The most addresses kept of one peer.
pub(crate) const MAX_ADDRESSES_PER_PEER: usize = 8;

/// Reads an address in its binary form, refusing long ones before parsing.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Multiaddr> {
    if bytes.is_empty() || bytes.len() > MAX_ADDRESS_BYTES {
        return None;
    }
    Multiaddr::try_from(bytes.to_vec()).ok()
}

/// The address without its `/p2p/…` end, and the peer which that end named.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (address, Some(peer))
        }
        _ => (address, None),
    }
}

/// The addresses of `peer` that can be dialled, without `/p2p/…`, each once, at most
/// [`MAX_ADDRESSES_PER_PEER`].
///
/// `same_host` says that the peer runs on this machine; only then are loopback
/// addresses its own and not ours.
pub(crate) fn dialable(
    peer: &PeerId,
    addresses: impl IntoIterator<Item = Multiaddr>,
    same_host: bool,
) -> Vec<Multiaddr> {
    let mut kept: Vec<Multiaddr> = Vec::new();
    for address in addresses {
        let (address, named) = split_peer(address);
        let mine = named.is_none_or(|named| named == *peer);
        let ip_fits = ip(&address).is_none_or(|ip| !ip.is_unspecified() && (same_host || !ip.is_loopback()));
        if mine && ip_fits && is_transport(&address) && !kept.contains(&address) {
            kept.push(address);
            if kept.len() == MAX_ADDRESSES_PER_PEER {
                break;
            }
        }
    }
    kept
}

/// The listening addresses to tell others, best first: public before private, QUIC before TCP;
/// loopback only if there is nothing else.
pub(crate) fn advertised(listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let only_loopback = listening.iter().all(|address| ip(address).is_some_and(|ip| ip.is_loopback()));
    let mut kept: Vec<Multiaddr> = listening
        .iter()
        .filter(|address| {
            ip(address)
                .is_some_and(|ip| !ip.is_unspecified() && !is_link_local(&ip) && ip.is_loopback() == only_loopback)
        })
        .cloned()
        .collect();
    kept.sort_by_key(|address| (ip(address).is_none_or(|ip| is_private(&ip)), !is_quic(address)));
    kept.dedup();
    kept
}

/// The IP address at the head of a multiaddr; `None` for names.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// The addresses that the routing table knows of a peer.
pub(crate) fn routed(kad: &mut kad::Behaviour<MemoryStore>, peer: &PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kad.kbucket(*peer) else { return Vec::new() };
    let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer);
    entry.map(|entry| entry.node.value.iter().cloned().collect()).unwrap_or_default()
}

/// Whether it leads to the peer over TCP, and not through a third one.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
        && !address.iter().any(|part| part == Protocol::P2pCircuit)
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

fn is_transport(address: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Ip4, Ip6, QuicV1, Tcp, Udp};
    let mut parts = address.iter();
    let host = matches!(parts.next(), Some(Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_)));
    let port = match parts.next() {
        Some(Tcp(port)) => port != 0,
        Some(Udp(port)) => port != 0 && parts.next() == Some(QuicV1),
        _ => false,
    };
    host && port && parts.next().is_none() && address.len() <= MAX_ADDRESS_BYTES
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        // Useless without the zone of an interface, which a multiaddr of another machine cannot know.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn loopback_is_told_only_if_there_is_nothing_else() {
        let loopback = all(&["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1/quic-v1"]);
        assert_eq!(advertised(&loopback), all(&["/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1/tcp/1"]),);
        let mixed = all(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/192.168.1.2/udp/1/quic-v1",
            "/ip6/fe80::1/tcp/1",
            "/ip4/203.0.113.9/tcp/1",
        ]);
        assert_eq!(
            advertised(&mixed),
            all(&["/ip4/203.0.113.9/tcp/1", "/ip4/192.168.1.2/udp/1/quic-v1", "/ip4/192.168.1.2/tcp/1"]),
        );
        assert!(advertised(&[]).is_empty());
    }

    #[test]
    fn only_dialable_forms_of_the_right_peer_are_kept() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let mut addresses = all(&[
            "/ip4/192.0.2.1/tcp/7",
            "/ip4/192.0.2.1/tcp/7",
            "/ip4/192.0.2.1/tcp/0",
            "/ip4/0.0.0.0/tcp/7",
            "/ip4/127.0.0.1/tcp/7",
            "/ip4/192.0.2.1/udp/7",
            "/ip4/192.0.2.1/tcp/7/ws",
            "/unix/tmp",
            "/dns4/example.org/udp/9/quic-v1",
        ]);
        addresses.push(format!("/ip4/192.0.2.2/tcp/7/p2p/{peer}").parse().expect("an address"));
        addresses.push(format!("/ip4/192.0.2.3/tcp/7/p2p/{other}").parse().expect("an address"));
        let remote = all(&["/ip4/192.0.2.1/tcp/7", "/dns4/example.org/udp/9/quic-v1", "/ip4/192.0.2.2/tcp/7"]);
        assert_eq!(dialable(&peer, addresses.clone(), false), remote);
        assert!(dialable(&peer, addresses, true).contains(&"/ip4/127.0.0.1/tcp/7".parse().expect("an address")));
        let many = (1..100).map(|port| format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("an address"));
        assert_eq!(dialable(&peer, many, false).len(), MAX_ADDRESSES_PER_PEER);
    }
}
