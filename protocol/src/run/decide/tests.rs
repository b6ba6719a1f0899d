//! Decisions about the next view, from tables of what members say.

use super::*;
use crate::ids::{Hash, RunId};
use crate::run::allreduce::ChunkPlan;
use crate::run::ledger::Span;
use crate::run::view::Ballot;
use crate::seed::Seed;
use crate::wire::message::Body as _;
use proptest::prelude::*;

/// The exchange in which the view ends; batches of each member in it.
const NUMBER: u64 = 5;
const SHARE: u32 = 2;

fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn contact(number: u8) -> Contact {
    Contact { peer: peer(number), bulk_port: 4_001, addresses: Vec::new() }
}

fn spec(solo: bool) -> RunSpec {
    let miniature = RunSpec::miniature(Seed::from_number(1), Hash::of(b"data"));
    RunSpec { micro_batches: SHARE, rounds: 50, steps_per_round: 2, solo, ..miniature }
}

/// What a proposer knows; each test changes what it is about.
struct Case {
    spec: RunSpec,
    view: View,
    answers: BTreeMap<PeerId, ViewState>,
    leaver: Option<PeerId>,
    accused: BTreeMap<PeerId, AbortReason>,
    caught_up: Vec<PeerId>,
    joins: BTreeMap<PeerId, Contact>,
    shares: Option<BTreeMap<PeerId, u32>>,
    members_max: usize,
    plan: Plan,
    ledger: Ledger,
    patient: bool,
}

fn live(exchange: u64, sums: &[u32], whole: u16) -> Holding {
    let bytes = sums.iter().max().map_or(0, |last| *last as usize / 8 + 1);
    let mut map = vec![0u8; bytes];
    sums.iter().for_each(|chunk| map[*chunk as usize / 8] |= 1 << (chunk % 8));
    Holding::Live { exchange, ledger: Ledger::new(1), sums: map, whole }
}

fn restarted(exchange: Option<u64>) -> Holding {
    let checkpoint = exchange.map(|exchange| {
        let ledger = Ledger { target: 600, next: exchange * 6, returned: Vec::new() };
        Checkpoint { exchange, ledger }
    });
    Holding::Restarted { checkpoint }
}

impl Case {
    /// Members 1 to `full`, all of whom have answered that they hold the state before the
    /// exchange and none of its sums; each owns four chunks.
    fn of(full: u8) -> Self {
        Self::with_chunks(full, 4)
    }

    fn with_chunks(full: u8, each: u64) -> Self {
        let ledger = Ledger { target: 600, next: 40, returned: vec![Span { first: 3, count: 1 }] };
        let member = |number| Member { contact: contact(number), role: Role::Full, since: 0, share: SHARE };
        let members: Vec<_> = (1..=full).map(member).collect();
        let chunks = ChunkPlan::new(each * u64::from(full), usize::from(full), 1).expect("a plan");
        let ranks: Vec<_> = (1..=full).map(peer).collect();
        let shares = vec![SHARE; ranks.len()];
        let view = View {
            number: 3,
            plan: 3,
            from: 2,
            members,
            fate: Fate::Reduced,
            ledger: ledger.clone(),
            left: Vec::new(),
        };
        let mut case = Self {
            spec: spec(true),
            view,
            answers: BTreeMap::new(),
            leaver: None,
            accused: BTreeMap::new(),
            caught_up: Vec::new(),
            joins: BTreeMap::new(),
            shares: None,
            members_max: MEMBERS_MAX,
            plan: Plan { number: 3, from: 2, ranks, shares, chunks },
            ledger,
            patient: false,
        };
        (1..=full).for_each(|number| case.answers(number, live(NUMBER, &[], 0)));
        case
    }

    fn answers(&mut self, number: u8, holding: Holding) {
        let ballot = Ballot { counter: 1, proposer: peer(1) };
        let state =
            ViewState { run: RunId([7; 32]), view: self.view.number, ballot, accepted: None, unreachable: 0, holding };
        self.answers.insert(peer(number), state);
    }

    fn silent(&mut self, number: u8) {
        self.answers.remove(&peer(number));
    }

    fn listener(&mut self, number: u8) {
        let listener = Member { contact: contact(number), role: Role::Listener, since: 2, share: SHARE };
        self.view.members.push(listener);
        self.answers(number, Holding::Following);
    }

    fn cannot_reach(&mut self, from: u8, to: u8) {
        let index = self.view.members.iter().position(|member| member.contact.peer == peer(to)).expect("a member");
        self.answers.get_mut(&peer(from)).expect("an answer").unreachable |= 1 << index;
    }

    fn next(&self) -> Option<View> {
        let reduce = AllReduce::new(self.plan.chunks.clone(), Some(0));
        let after = self.ledger.after(&self.ledger.assign(&self.plan.shares), |_| true);
        let view = next_view(&Knowledge {
            spec: &self.spec,
            view: &self.view,
            answers: &self.answers,
            leaver: self.leaver,
            accused: &self.accused,
            caught_up: &self.caught_up,
            joins: &self.joins,
            shares: self.shares.as_ref(),
            members_max: self.members_max,
            exchange: &|number| match number {
                NUMBER => Some((&reduce, &self.plan, &self.ledger)),
                _ if number == NUMBER + 1 => Some((&reduce, &self.plan, &after)),
                _ => None,
            },
            patient: self.patient,
        })?;
        assert_eq!(view.validate(), Ok(()));
        assert_eq!(view.number, self.view.number + 1);
        Some(view)
    }

    fn decided(&self) -> View {
        self.next().expect("a view")
    }
}

fn roles(view: &View) -> Vec<(u8, Role, u32)> {
    view.members.iter().map(|member| (member.contact.peer.as_bytes()[0], member.role, member.since)).collect()
}

fn left(view: &View) -> Vec<(PeerId, AbortReason)> {
    view.left.iter().map(|departure| (departure.peer, departure.reason)).collect()
}

fn handover(first: u32, count: u32, by: u16) -> Handover {
    Handover { first, count, by }
}

/// 3 of three is lost; of its chunks 8 to 11 the others have all sums, and of their own all its values.
fn nothing_is_missing() -> Case {
    let mut case = Case::of(3);
    case.silent(3);
    case.answers(1, live(NUMBER, &[8, 9], 0b100));
    case.answers(2, live(NUMBER, &[10, 11], 0b100));
    case
}

#[test]
fn with_all_that_the_lost_one_owed_the_exchange_stands() {
    let case = nothing_is_missing();
    let view = case.decided();
    assert_eq!(view.fate, Fate::Kept { handovers: vec![handover(8, 2, 0), handover(10, 2, 1)] });
    assert_eq!((view.plan, view.from), (4, NUMBER + 1));
    assert_eq!(roles(&view), [(1, Role::Full, 0), (2, Role::Full, 0)]);
    assert_eq!(left(&view), [(peer(3), AbortReason::MemberLost)]);
    assert_eq!(view.ledger.done(), case.ledger.done() + 3 * u64::from(SHARE), "3's batches count");
}

#[test]
fn with_one_bit_missing_the_sums_are_made_anew() {
    let cases = [
        ("a sum of 3's is nowhere", 1, live(NUMBER, &[9], 0b100)),
        ("another", 1, live(NUMBER, &[8], 0b100)),
        ("another's", 2, live(NUMBER, &[10], 0b100)),
        ("1 lacks values of 3", 1, live(NUMBER, &[8, 9], 0b011)),
        ("2 lacks values of 3", 2, live(NUMBER, &[10, 11], 0b011)),
        ("2 lacks them for one of its own sums", 2, live(NUMBER, &[4, 5, 6, 10, 11], 0)),
    ];
    for (why, number, holding) in cases {
        let mut case = nothing_is_missing();
        case.answers(number, holding);
        let view = case.decided();
        assert_eq!(view.fate, Fate::Reduced, "{why}");
        assert_eq!(view.ledger.done(), case.ledger.done() + 2 * u64::from(SHARE), "{why}: 3's batches come back");
    }
    let mut case = nothing_is_missing();
    case.answers(2, live(NUMBER, &[4, 5, 6, 7, 10, 11], 0));
    assert!(matches!(case.decided().fate, Fate::Kept { .. }), "2 needs no values for sums that it has");
}

#[test]
fn if_somebody_is_ahead_the_exchange_stands() {
    let mut case = Case::of(3);
    case.silent(3);
    case.answers(2, live(NUMBER + 1, &[], 0));
    let view = case.decided();
    assert_eq!(view.fate, Fate::Kept { handovers: vec![handover(8, 4, 1)] }, "whoever ended it has all sums");
    assert_eq!(view.from, NUMBER + 1);
}

#[test]
fn if_nobody_is_lost_nothing_changes_hands() {
    let mut case = Case::of(3);
    case.joins.insert(peer(9), contact(9));
    let view = case.decided();
    assert_eq!(view.fate, Fate::Kept { handovers: Vec::new() });
    assert_eq!((view.plan, view.members.len()), (3, 4), "the same full members: the same plan");
}

#[test]
fn half_of_them_decide_if_the_lowest_is_among_them() {
    for (there, decide) in
        [(&[1, 2][..], true), (&[1, 4], true), (&[2, 3], false), (&[3, 4], false), (&[2, 3, 4], true), (&[1], false)]
    {
        let mut case = Case::of(4);
        (1..=4).filter(|number| !there.contains(number)).for_each(|number| case.silent(number));
        assert_eq!(case.next().is_some(), decide, "{there:?}");
    }
}

#[test]
fn the_last_one_goes_on_alone_only_if_the_spec_says_so() {
    for solo in [true, false] {
        let mut case = Case::of(2);
        case.silent(2);
        case.spec.solo = solo;
        assert_eq!(case.next().is_some(), solo);
        let mut case = Case::of(3);
        case.spec.solo = solo;
        case.accused = [(peer(2), AbortReason::BadGradient), (peer(3), AbortReason::Stalled)].into();
        assert_eq!(case.next().is_some(), solo, "a majority has answered, but two of them must leave");
        case.accused.insert(peer(1), AbortReason::Stalled);
        assert_eq!(case.next(), None, "nobody is left to compute");
        let mut case = Case::of(1);
        case.spec.solo = solo;
        case.joins.insert(peer(2), contact(2));
        assert!(case.next().is_some(), "it was alone before");
    }
}

#[test]
fn who_is_accused_leaves_whatever_it_answers() {
    let mut case = Case::of(3);
    case.accused.insert(peer(2), AbortReason::ParametersDiffer);
    let view = case.decided();
    assert_eq!(left(&view), [(peer(2), AbortReason::ParametersDiffer)]);
    assert_eq!(view.fate, Fate::Reduced);
}

#[test]
fn restarted_ones_listen() {
    let mut case = Case::of(3);
    case.listener(4);
    case.answers(3, restarted(Some(4)));
    case.answers(4, restarted(None));
    case.joins.insert(peer(4), contact(4));
    let view = case.decided();
    let listens = Role::Listener;
    assert_eq!(
        roles(&view),
        [(1, Role::Full, 0), (2, Role::Full, 0), (3, listens, 4), (4, listens, 4)],
        "3 anew, and 4 anew, for it has asked to come in again"
    );
    assert_eq!((view.fate, view.left), (Fate::Reduced, Vec::new()));
}

#[test]
fn when_all_are_restarted_the_newest_checkpoint_is_the_state() {
    let mut case = Case::of(3);
    case.answers(1, restarted(Some(2)));
    case.answers(2, restarted(Some(4)));
    case.answers(3, restarted(None));
    assert_eq!(case.next(), None, "somebody who holds the state may still answer");
    case.patient = true;
    let view = case.decided();
    assert_eq!((view.from, view.fate.clone(), view.ledger.done()), (4, Fate::Fresh, 24));
    assert_eq!(roles(&view), [(1, Role::Listener, 4), (2, Role::Full, 0), (3, Role::Listener, 4)]);
    case.answers(2, restarted(None));
    case.answers(1, restarted(None));
    let view = case.decided();
    assert_eq!((view.from, view.ledger), (0, Ledger::new(600)), "from the beginning");
    assert_eq!(view.members.iter().filter(|member| member.role == Role::Full).count(), 3);
}

#[test]
fn who_follows_but_holds_no_checkpoint_does_not_begin_the_run_anew() {
    let mut case = Case::of(2);
    case.patient = true;
    case.silent(2);
    case.answers(1, Holding::Following);
    assert_eq!(case.next(), None);
}

#[test]
fn a_listeners_checkpoint_is_none() {
    let mut case = Case::of(2);
    case.listener(3);
    case.patient = true;
    (1..=2).for_each(|number| case.answers(number, restarted(Some(2))));
    case.answers(3, restarted(Some(4)));
    let view = case.decided();
    assert_eq!(view.from, 2, "only full members are known to have held what all hold");
    assert_eq!(view.role(&peer(3)), Some(Role::Listener));
}

#[test]
fn of_two_that_cannot_reach_each_other_one_goes() {
    for (cuts, gone) in [
        (&[(2, 3)][..], 3),
        (&[(3, 2)], 3),
        (&[(2, 3), (3, 2)], 3),
        (&[(2, 1), (2, 3), (4, 2)], 2),
        (&[(1, 2), (1, 3), (1, 4)], 1),
    ] {
        let mut case = Case::of(4);
        cuts.iter().for_each(|(from, to)| case.cannot_reach(*from, *to));
        assert_eq!(left(&case.decided()), [(peer(gone), AbortReason::MemberLost)], "{cuts:?}");
    }
    let mut case = Case::of(3);
    [4, 5].into_iter().for_each(|number| case.listener(number));
    [(1, 4), (4, 2), (5, 2)].into_iter().for_each(|(from, to)| case.cannot_reach(from, to));
    let gone = [4, 5].map(|number| (peer(number), AbortReason::MemberLost));
    assert_eq!(left(&case.decided()), gone, "listeners before full members");
    let mut case = Case::of(4);
    case.cannot_reach(2, 4);
    case.silent(4);
    assert_eq!(left(&case.decided()).len(), 1, "who is lost takes nobody with it");
}

#[test]
fn newcomers_come_in_as_far_as_there_is_room() {
    for (members_max, come) in [(0, 0), (3, 0), (5, 2), (100, 13)] {
        let mut case = Case::of(3);
        case.joins = (2..=60).map(|number| (peer(number), contact(number))).collect();
        case.members_max = members_max;
        let view = case.decided();
        let new: Vec<_> = roles(&view).into_iter().filter(|(number, ..)| *number > 3).collect();
        assert_eq!(new.len(), come, "{members_max}");
        assert!(new.iter().all(|(_, role, since)| (*role, *since) == (Role::Listener, 4)));
        assert!(view.members.iter().all(|member| member.share == SHARE));
        assert_eq!(view.members.len(), 3 + come, "who is in already does not come twice");
    }
}

#[test]
fn a_listener_that_has_caught_up_becomes_a_full_member() {
    for (caught_up, joins, following, full) in
        [(true, false, true, true), (false, false, true, false), (true, true, true, false), (true, false, false, false)]
    {
        let mut case = Case::of(2);
        case.listener(3);
        if !following {
            case.answers(3, restarted(None));
        }
        case.caught_up.extend(caught_up.then_some(peer(3)));
        case.joins.extend(joins.then(|| (peer(3), contact(3))));
        let view = case.decided();
        let role = if full { Role::Full } else { Role::Listener };
        let since = if full || joins { 4 } else { 2 };
        assert_eq!(roles(&view)[2], (3, role, since));
        assert_eq!(view.plan, if full { 4 } else { 3 });
        assert_eq!(view.fate, Fate::Kept { handovers: Vec::new() }, "it has no part in the exchange");
    }
}

#[test]
fn other_shares_are_another_plan_of_the_same_members() {
    let mut case = Case::of(3);
    case.shares = Some([(peer(1), 3), (peer(3), 1)].into());
    let view = case.decided();
    assert_eq!(view.members.iter().map(|member| member.share).collect::<Vec<_>>(), [3, SHARE, 1]);
    assert_eq!((view.plan, &view.fate), (4, &Fate::Kept { handovers: Vec::new() }));
    assert_eq!(view.ledger.done(), case.ledger.done() + 3 * u64::from(SHARE), "this exchange was begun with the old");
}

#[test]
fn more_handovers_than_a_view_can_say_are_not_made() {
    for (each, kept) in [(HANDOVERS_MAX as u64, true), (HANDOVERS_MAX as u64 + 1, false)] {
        let mut case = Case::with_chunks(3, each);
        case.silent(3);
        let first = 2 * each as u32;
        let of = |odd: u32| (first..first + each as u32).filter(|chunk| chunk % 2 == odd).collect::<Vec<_>>();
        case.answers(1, live(NUMBER, &of(0), 0b100));
        case.answers(2, live(NUMBER, &of(1), 0b100));
        assert_eq!(matches!(case.decided().fate, Fate::Kept { .. }), kept, "{each}");
    }
}

fn any_holding() -> impl Strategy<Value = Option<Holding>> {
    let sums = prop::collection::btree_set(0u32..24, 0..24);
    let live = (NUMBER..=NUMBER + 1, sums, any::<u16>())
        .prop_map(|(exchange, sums, whole)| live(exchange, &sums.into_iter().collect::<Vec<_>>(), whole));
    let restarted = prop::option::of(0u64..NUMBER).prop_map(restarted);
    prop_oneof![
        1 => Just(None),
        4 => live.prop_map(Some),
        1 => restarted.prop_map(Some),
        1 => Just(Some(Holding::Following)),
    ]
}

proptest! {
    #[test]
    fn whatever_members_hold_the_next_view_is_sound(
        holdings in prop::collection::vec((any_holding(), any::<u16>(), any::<bool>(), 0u8..8), 1..7),
        listeners in 0u8..3,
        joins in prop::collection::btree_set(1u8..40, 0..20),
        (members_max, solo, patient) in (0usize..20, any::<bool>(), any::<bool>()),
    ) {
        let full = holdings.len() as u8;
        let mut case = Case::of(full);
        (full + 1..=full + listeners).for_each(|number| case.listener(number));
        (case.spec.solo, case.patient, case.members_max) = (solo, patient, members_max);
        case.joins = joins.into_iter().map(|number| (peer(number), contact(number))).collect();
        case.caught_up.extend((full + 1..=full + listeners).map(peer));
        for (number, (holding, unreachable, far, accused)) in (1..).zip(holdings) {
            match holding {
                None => case.silent(number),
                Some(holding) => case.answers(number, holding),
            }
            if let Some(answer) = case.answers.get_mut(&peer(number)).filter(|_| far) {
                answer.unreachable = unreachable;
            }
            if accused == 0 {
                case.accused.insert(peer(number), AbortReason::Stalled);
            }
        }
        let Some(view) = case.next() else { return Ok(()) };
        prop_assert!(case.view.is_quorum(|peer| case.answers.contains_key(peer)));
        prop_assert_eq!(view.ledger.target, case.ledger.target);
        if view.fate == Fate::Fresh {
            prop_assert!(patient && view.from < NUMBER);
        } else {
            prop_assert!(view.ledger.done() >= case.ledger.done(), "what counts is not lost");
        }
        for member in &view.members {
            let (peer, was) = (member.contact.peer, case.view.member(&member.contact.peer).is_some());
            prop_assert!(!case.accused.contains_key(&peer) || !was);
            let may = if was { case.answers.contains_key(&peer) } else { case.joins.contains_key(&peer) };
            prop_assert!(may, "{peer:?} has not answered, or not asked to come in");
        }
        let gone = case.view.members.iter().filter(|member| view.member(&member.contact.peer).is_none()).count();
        prop_assert_eq!(gone, view.left.len());
        if let Fate::Kept { handovers } = &view.fate {
            for handover in handovers {
                let by = case.plan.ranks[usize::from(handover.by)];
                prop_assert_eq!(view.role(&by), Some(Role::Full), "who hands over is there");
            }
        }
    }
}
