//! Which swarm a starting peer belongs to, and by what right: from its papers,
//! its tickets and what its user says.

use crate::net::ticket::Ticket;
use crate::papers::Papers;
use libp2p::Multiaddr;
use manta_protocol::membership::Genesis;
use manta_protocol::{NetworkId, PeerId, Time};

/// Name of the swarm if none is given.
pub(crate) const DEFAULT_NAME: &str = "manta";

/// What the user says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// The swarm's name.
    pub(crate) name: Option<&'a str>,
    /// Found an invite-only swarm, or go on as its founder.
    pub(crate) invite_only: bool,
    /// Tickets and multiaddresses.
    pub(crate) join: &'a [String],
}

/// Where a peer belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joining {
    pub(crate) network: NetworkId,
    pub(crate) name: String,
    /// Peers to begin with.
    pub(crate) bootstrap: Vec<Multiaddr>,
}

/// Decides; what was decided or accepted is noted in `papers`, which the caller stores.
///
/// # Errors
/// What does not fit together, and what to do.
pub(crate) fn decide(wanted: &Wanted<'_>, papers: &mut Papers, me: PeerId, now: Time) -> Result<Joining, String> {
    let (mut tickets, mut bootstrap) = (Vec::<Ticket>::new(), Vec::new());
    for text in wanted.join.iter().map(|text| text.trim()) {
        if text.starts_with('/') {
            let address = text.parse().map_err(|error| format!("--join {text}: not a network address ({error})"))?;
            bootstrap.push(address);
        } else {
            tickets.push(text.parse().map_err(|error| format!("--join: {error}"))?);
        }
    }
    let invited_to = tickets.iter().find_map(|ticket| ticket.genesis.clone());
    let genesis = match (papers.genesis.clone(), invited_to) {
        (Some(known), Some(other)) if known != other => {
            return Err(format!(
                "the data directory belongs to the invite-only swarm `{}`, the ticket is for `{}`; \
                 use another directory with --data-dir",
                known.name, other.name
            ));
        }
        (known, invited_to) => known.or(invited_to).or_else(|| {
            let name = wanted.name.unwrap_or(DEFAULT_NAME).to_owned();
            wanted.invite_only.then_some(Genesis { name, founder: me })
        }),
    };
    let (network, name) = match &genesis {
        Some(genesis) => {
            genesis.validate()?;
            may_be_in(genesis, wanted, me)?;
            (genesis.network_id(), genesis.name.clone())
        }
        None => {
            let name = wanted.name.unwrap_or(DEFAULT_NAME);
            (NetworkId::from_name(name), name.to_owned())
        }
    };
    for ticket in &tickets {
        ticket.check_network(network).map_err(|error| format!("--join: {error}"))?;
        papers.accept(ticket, me, now).map_err(|error| format!("--join: {error}"))?;
        bootstrap.extend(ticket.dial_addresses());
    }
    if let Some(genesis) = &genesis {
        check_invited(genesis, papers, me, now)?;
    }
    papers.genesis = genesis;
    Ok(Joining { network, name, bootstrap })
}

/// Whether what the user says fits the invite-only swarm that it will be.
fn may_be_in(genesis: &Genesis, wanted: &Wanted<'_>, me: PeerId) -> Result<(), String> {
    if let Some(name) = wanted.name.filter(|name| *name != genesis.name) {
        return Err(format!(
            "--network {name}: this peer belongs to the invite-only swarm `{}`; use another directory with --data-dir",
            genesis.name
        ));
    }
    if wanted.invite_only && genesis.founder != me {
        return Err(format!(
            "--invite-only: this peer belongs to the swarm `{}` that {} has founded; to found another, use another \
             directory with --data-dir",
            genesis.name,
            genesis.founder.short()
        ));
    }
    Ok(())
}

/// Others would shut us out: better to say so before they do.
fn check_invited(genesis: &Genesis, papers: &Papers, me: PeerId, now: Time) -> Result<(), String> {
    let Genesis { name, founder } = genesis;
    if *founder == me {
        return Ok(());
    }
    let ask = format!("ask the founder, {}, for a ticket made with `manta invite`", founder.short());
    let network = genesis.network_id();
    let ours = papers.credentials.iter().map(|credential| credential.permission());
    let ours: Vec<_> = ours.filter(|of| of.network == network && of.issuer == *founder).collect();
    if ours.iter().any(|permission| permission.expires_at > now && !papers.is_revoked(permission)) {
        return Ok(());
    }
    let revoked = ours.iter().any(|permission| papers.is_revoked(permission));
    Err(match (ours.is_empty(), revoked) {
        (true, _) => format!("the swarm `{name}` is invite-only, and this ticket is no invitation; {ask}"),
        (false, true) => format!("the invitation of this peer to the swarm `{name}` was revoked; {ask}"),
        (false, false) => format!("the invitation of this peer to the swarm `{name}` has expired; {ask}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ticket::TicketInvitation;
    use manta_protocol::membership::{Revocation, Role};
    use manta_protocol::wire::Identity;

    const NOW: Time = Time(1_790_000_000_000_000_000);
    const LATER: Time = Time(NOW.0 + 1_000_000_000);

    fn founder() -> Identity {
        Identity::from_secret([1; 32])
    }

    fn me() -> PeerId {
        Identity::from_secret([2; 32]).peer_id()
    }

    fn genesis() -> Genesis {
        Genesis { name: "lab".into(), founder: founder().peer_id() }
    }

    /// A ticket to the swarm `lab`, with an invitation or without.
    fn ticket(invites: bool) -> String {
        let network = genesis().network_id();
        let mut ticket = Ticket::new(network, founder().peer_id(), ["/ip4/192.0.2.1/tcp/1".parse().expect("one")]);
        ticket.genesis = Some(genesis());
        let issued = Papers::default().invite(&founder(), network, Role::Guest, LATER, NOW).expect("room");
        ticket.invitation = invites.then_some(TicketInvitation { permitted: issued.permitted, secret: issued.secret });
        ticket.to_string()
    }

    fn decide(wanted: Wanted<'_>, papers: &mut Papers, me: PeerId, now: Time) -> Result<Joining, String> {
        super::decide(&wanted, papers, me, now)
    }

    #[test]
    fn without_anything_it_is_the_open_swarm() {
        let mut papers = Papers::default();
        let joining = decide(Wanted::default(), &mut papers, me(), NOW).expect("open");
        assert_eq!((joining.network, joining.name.as_str()), (NetworkId::from_name("manta"), "manta"));
        assert_eq!(papers, Papers::default());
        let open = Ticket::new(NetworkId::from_name("other"), me(), []).to_string();
        let error = decide(Wanted { join: &[open], ..Wanted::default() }, &mut papers, me(), NOW).expect_err("other");
        assert!(error.contains("network"), "{error}");
    }

    #[test]
    fn a_founder_founds_once_and_stays() {
        let mut papers = Papers::default();
        let wanted = Wanted { name: Some("lab"), invite_only: true, join: &[] };
        let joining = decide(wanted.clone(), &mut papers, founder().peer_id(), NOW).expect("founded");
        assert_eq!((joining.network, papers.genesis.as_ref()), (genesis().network_id(), Some(&genesis())));
        for again in [wanted, Wanted::default()] {
            assert_eq!(decide(again, &mut papers, founder().peer_id(), NOW).expect("again").network, joining.network);
        }
        let other = Wanted { name: Some("other"), ..Wanted::default() };
        assert!(decide(other, &mut papers, founder().peer_id(), NOW).is_err_and(|e| e.contains("--data-dir")));
    }

    #[test]
    fn an_invitation_admits_and_its_ticket_may_be_lost() {
        let mut papers = Papers::default();
        let join = [ticket(true)];
        let joining = decide(Wanted { join: &join, ..Wanted::default() }, &mut papers, me(), NOW).expect("invited");
        assert_eq!((joining.network, joining.bootstrap.len()), (genesis().network_id(), 1));
        decide(Wanted::default(), &mut papers, me(), NOW).expect("without the ticket");
        let found = Wanted { invite_only: true, ..Wanted::default() };
        assert!(decide(found, &mut papers.clone(), me(), NOW).is_err_and(|e| e.contains("has founded")));
        let error = decide(Wanted::default(), &mut papers.clone(), me(), LATER).expect_err("too late");
        assert!(error.contains("expired") && error.contains("manta invite"), "{error}");
        let serial = papers.credentials[0].permission().serial;
        papers.revocations.push(Revocation::sign(&founder(), genesis().network_id(), serial, LATER));
        let error = decide(Wanted::default(), &mut papers, me(), NOW).expect_err("revoked");
        assert!(error.contains("revoked") && error.contains("manta invite"), "{error}");
    }

    #[test]
    fn whoever_was_not_invited_is_told_whom_to_ask() {
        let mut papers = Papers::default();
        let join = [ticket(false)];
        let error = decide(Wanted { join: &join, ..Wanted::default() }, &mut papers, me(), NOW).expect_err("no right");
        assert!(error.contains("invite-only") && error.contains(&founder().peer_id().short()), "{error}");
        assert_eq!(papers, Papers::default(), "nothing is kept of it");
        let mut other = Papers { genesis: Some(Genesis { name: "home".into(), founder: me() }), ..Papers::default() };
        let join = [ticket(true)];
        let error = decide(Wanted { join: &join, ..Wanted::default() }, &mut other, me(), NOW).expect_err("elsewhere");
        assert!(error.contains("`home`") && error.contains("`lab`"), "{error}");
    }
}
