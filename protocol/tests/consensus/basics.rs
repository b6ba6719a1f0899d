//! Heights follow one another, and what stops them, stops them.

use crate::swarm::{Manner, Setup, Swarm};
use manta_protocol::Duration;

const MINUTE: Duration = Duration::from_s(60);

#[test]
fn a_committee_of_one_decides_at_once() {
    let mut swarm = Swarm::new(Setup::new(1, 1));
    swarm.run_for(Duration::from_ms(9_500));
    assert_eq!(swarm.hosts[0].chain.len(), 10, "one block an epoch");
    assert!(swarm.hosts[0].chain.iter().all(|block| block.certificate.round == 0));
}

#[test]
fn heights_follow_one_another_among_honest_members() {
    for members in [2, 3, 4, 7] {
        let mut swarm = Swarm::new(Setup::new(members as u64, members));
        assert!(swarm.run_to_height(5, MINUTE), "{members} members");
        assert!(swarm.hosts[0].chain.iter().all(|block| block.certificate.round == 0), "{members} members");
    }
}

#[test]
fn sixty_four_members_are_done_in_three_one_way_delays() {
    let mut swarm = Swarm::new(Setup { delay_ms: (50, 50), ..Setup::new(64, 64) });
    assert!(swarm.run_to_height(2, MINUTE));
    for (host, block) in swarm.hosts.iter().flat_map(|host| host.chain.iter().map(move |block| (host, block))) {
        let finality = block.decided_at.since(swarm.proposed_at[&block.certificate.height]);
        assert!(finality <= Duration::from_ms(3 * 50), "{finality:?} at {:?}", host.identity);
    }
}

#[test]
fn power_decides_and_not_heads() {
    // The last of four has more than two thirds of the weight.
    let mut swarm = Swarm::new(Setup { weights: vec![1, 1, 1, 10], ..Setup::new(6, 4) });
    (0..3).for_each(|place| swarm.crash(place));
    assert!(swarm.run_to_height(3, MINUTE));
    let mut swarm = Swarm::new(Setup { weights: vec![1, 1, 1, 10], ..Setup::new(6, 4) });
    swarm.crash(3);
    assert!(!swarm.run_to_height(1, MINUTE));
}

#[test]
fn onlookers_follow_by_the_same_gossip() {
    let mut swarm = Swarm::new(Setup { onlookers: 2, ..Setup::new(5, 4) });
    assert!(swarm.run_to_height(5, MINUTE));
    assert!(!swarm.hosts[4].engine.as_ref().unwrap().is_member());
    assert!(swarm.hosts[4].log.is_empty(), "who signs nothing needs no log");
}

#[test]
fn lossy_links_delay_and_nothing_else() {
    for seed in 0..30 {
        let setup = Setup { loss_permille: 200, duplicate_permille: 100, ..Setup::new(seed, 4 + seed as usize % 4) };
        let mut swarm = Swarm::new(setup);
        assert!(swarm.run_to_height(4, MINUTE), "seed {seed}");
    }
}

#[test]
fn a_liar_is_named_and_stops_nothing() {
    for seed in 0..30 {
        let mut swarm = Swarm::new(Setup { loss_permille: 50, ..Setup::new(seed, 4 + seed as usize % 4) });
        swarm.hosts[2].manner = Manner::TwoFaced;
        assert!(swarm.run_to_height(4, MINUTE), "seed {seed}");
        let accused = swarm.accused();
        assert_eq!(accused.into_iter().collect::<Vec<_>>(), [swarm.hosts[2].identity.peer_id()], "seed {seed}");
    }
}
