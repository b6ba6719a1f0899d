use super::*;
use proptest::prelude::*;

fn ticket() -> Ticket {
    let addresses = ["/ip4/192.0.2.7/udp/4001/quic-v1", "/ip6/2001:db8::7/tcp/4001", "/dns4/example.org/tcp/443"];
    Ticket::new(
        NetworkId::from_name("test"),
        Identity::from_secret([3; 32]).peer_id(),
        addresses.map(|text| text.parse().expect("an address")),
    )
}

#[test]
fn base32_agrees_with_rfc_4648() {
    for (plain, text) in
        [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foob", "mzxw6yq"), ("fooba", "mzxw6ytb")]
    {
        assert_eq!(base32(plain.as_bytes()), text);
        assert_eq!(unbase32(text).as_deref(), Some(plain.as_bytes()));
    }
    // One character alone, non-zero fill bits, upper case and padding are not ours.
    for bad in ["m", "mz7", "MY", "my======", "m1"] {
        assert_eq!(unbase32(bad), None, "{bad}");
    }
}

#[test]
fn a_ticket_round_trips_and_names_what_is_wrong() {
    let ticket = ticket();
    let text = ticket.to_string();
    assert_eq!(format!(" {text}\n").parse(), Ok(ticket.clone()));
    assert_eq!(ticket.check_network(ticket.network), Ok(()));
    assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
    assert!(matches!(text[..text.len() - 1].parse::<Ticket>(), Err(TicketError::Damaged(_))));
    let other = NetworkId::from_name("other");
    let error = ticket.check_network(other).expect_err("another network");
    assert!(error.to_string().contains(&other.short()) && error.to_string().contains(&ticket.network.short()));
}

#[test]
fn another_version_is_told_apart_from_damage() {
    let mut body = ticket().encode_body();
    body[0] = 3;
    body.extend_from_slice(&checksum(&body));
    let text = format!("{PREFIX}{}", base32(&body));
    assert_eq!(text.parse::<Ticket>(), Err(TicketError::OtherVersion { found: 3 }));
}

/// A ticket of the invite-only swarm `lab`, by the peer whose secret is 3s.
fn inviting() -> Ticket {
    let founder = Identity::from_secret([3; 32]);
    let genesis = Genesis { name: "lab".into(), founder: founder.peer_id() };
    let (network, bearer) = (genesis.network_id(), Identity::from_secret([7; 32]).peer_id());
    let end = Time(1_790_000_000_000_000_000);
    let permitted = SignedPermission::issue(&founder, network, Serial([5; 16]), Role::Guest, bearer, end);
    let mut ticket = Ticket::new(network, founder.peer_id(), ["/ip4/192.0.2.7/tcp/4001".parse().expect("one")]);
    ticket.genesis = Some(genesis);
    ticket.invitation = Some(TicketInvitation { permitted, secret: [7; 32] });
    ticket
}

#[test]
fn a_ticket_that_invites_has_exactly_this_text() {
    let text = "manta1aicknbeafakawwrq4nw2ioalm2ppjzg3k63xmkatbbihtso4xdxgr3kjfddcruocy3vosazysbmzkyjjlettuxdd7e3dnq\
                kgcswion6raeeajqaaaidqmd5baebwyylc5vesrrri2hbmn2xjam4jawmvmeuvsjz2lrr7snrwyfdbjlehg7iqd3kjfddcruocy3\
                vosazysbmzkyjjlettuxdd7e3dnqkgcswion6raucqkbifaucqkbifaucqkbifauarrv23qqr7gaaak6cm6jhjaiydzjrzj7vwnz\
                epo2sd5ll3p527otztejjdpjalv2urj7wee26eys7lhynepx3xehzugj6ud3b3cxdmusbth7nlr7574biha4dqobyha4dqobyha4\
                dqobyha4dqobyha4dqobyha4dqobyha6zf5zds";
    assert_eq!(inviting().to_string(), text);
    let ticket: Ticket = text.parse().expect("reads");
    assert_eq!(ticket, inviting());
    let invitation = ticket.invitation.as_ref().expect("it invites");
    assert_eq!(invitation.permitted.verify(ticket.network, Time(0)), Ok(()));
    assert!(!format!("{ticket:?}").contains("7, 7, 7"), "the secret is not shown");
}

#[test]
fn a_ticket_may_name_an_invite_only_swarm_or_invite_to_an_open_one() {
    let mut address_only = inviting();
    address_only.invitation = None;
    assert_eq!(address_only.to_string().parse(), Ok(address_only.clone()));
    let mut open = inviting();
    open.genesis = None;
    assert_eq!(open.to_string().parse(), Ok(open.clone()));
    // The same swarm under another network, another swarm's name, and an invitation to nothing.
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = address_only.encode_body();
        change(&mut body);
        body.extend_from_slice(&checksum(&body));
        format!("{PREFIX}{}", base32(&body)).parse::<Ticket>().expect_err("changed")
    };
    let differ = TicketError::Damaged("its swarm and its network differ");
    assert_eq!(refused(&|body| body[1] ^= 1), differ);
    let name_at = address_only.encode_body().len() - 1 - 32 - 3;
    assert_eq!(refused(&|body| body[name_at] ^= 1), differ);
    assert_eq!(refused(&|body| body[name_at] = 0xff), TicketError::Damaged("the swarm's name is none"));
    let nothing = |body: &mut Vec<u8>| {
        body.truncate(name_at - 2);
        body.extend([0, 0]);
    };
    assert_eq!(refused(&nothing), TicketError::Damaged("it invites to nothing"));
}

#[test]
fn surplus_and_oversized_addresses_are_left_out() {
    let long: Multiaddr = format!("/dns4/{}.example.org/tcp/1", "a".repeat(130)).parse().expect("an address");
    let many = (0..20).map(|port| format!("/ip4/10.0.0.1/tcp/{port}").parse().expect("an address"));
    let base = ticket();
    let ticket = Ticket::new(base.network, base.peer, std::iter::once(long).chain(many));
    assert_eq!(ticket.addresses.len(), MAX_TICKET_ADDRESSES);
    assert_eq!(ticket.to_string().parse(), Ok(ticket));
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        let _ = text.parse::<Ticket>();
        let _ = format!("{PREFIX}{text}").parse::<Ticket>();
    }

    #[test]
    fn any_body_with_a_good_checksum_is_canonical_or_refused(
        version in 1u8..3, tail in proptest::collection::vec(any::<u8>(), 0..400), count in 0u8..10,
    ) {
        let mut body = ticket().encode_body();
        body.truncate(65);
        body[0] = version;
        body.push(count);
        body.extend_from_slice(&tail);
        body.extend_from_slice(&checksum(&body));
        let text = format!("{PREFIX}{}", base32(&body));
        if let Ok(ticket) = text.parse::<Ticket>() {
            prop_assert_eq!(ticket.to_string(), text);
        }
    }

    #[test]
    fn one_wrong_character_is_always_refused(at in any::<proptest::sample::Index>(), wrong in any::<char>()) {
        let text = ticket().to_string();
        let mut characters: Vec<char> = text.chars().collect();
        let at = at.index(characters.len());
        prop_assume!(characters[at] != wrong);
        characters[at] = wrong;
        let damaged: String = characters.into_iter().collect();
        prop_assume!(damaged.trim() != text);
        prop_assert!(damaged.parse::<Ticket>().is_err(), "{}", damaged);
    }
}
