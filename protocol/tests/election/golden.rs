//! Golden values of elections and power: another implementation must get the
//! same. A change of any of them is a change of the protocol.

use crate::{output, peer, unhex};
use manta_protocol::election::{Beacon, Domain, VrfOutput, VrfPublic, election_input, lottery, seats};
use manta_protocol::power::{Average, Branch, Cause, Entry, History, MicroPower, PowerRecord};
use manta_protocol::wire::{Identity, codec};
use manta_protocol::{Hash, PeerId, RunId};
use std::fmt::Write;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn the_chain_of_beacons_has_exactly_these_values() {
    let genesis = Beacon::genesis(&Hash([0x11; 32]));
    let next = genesis.next(&VrfOutput([0x22; 64]));
    let found = [genesis.0, next.0, next.idle(1).0, next.idle(2).0, next.lottery_seed(7, 0), next.lottery_seed(7, 1)];
    let expected = [
        "f07d2eb0e4da15caa6569988933dcb763db9724597aa7a00c285c23079c22c86",
        "7c68d074d3e7699e14bc7b4c5bf8bd4989d7c08835008fc96ed46cfd2be0d99b",
        "3b423b5c3f2274d05da35bdc2a999b83799151bedd91566ad0c447e4850b85a1",
        "e273a730d04e21ca3f77e8a6896a1f42b9c27110615ef20ab56b1099624238da",
        "13f547a6a8057aba1e4610413a2051d8954ef1fc3e69a3adce273a73dc399e7e",
        "0e053288de8ed295092a6573ec8f109276d54cd599ed695507dd61b7887955ee",
    ];
    assert_eq!(found.map(|hash| hash.to_string()), expected);
}

#[test]
fn keys_inputs_and_outputs_have_exactly_these_bytes() {
    let secret = Identity::from_secret([1; 32]).vrf();
    let beacon = Beacon(Hash([0x33; 32]));
    let input = election_input(Domain::Drill, &beacon, &[b"ab", &7u64.to_le_bytes()]);
    let (output, proof) = secret.prove(&input);
    assert_eq!(
        hex(&input),
        "6d616e746120323032362d313120656c656374696f6e2076310233333333333333333333333333333333333333333333333333333333333333330200000000000000616208000000000000000700000000000000"
    );
    assert_eq!(secret.public().to_string(), "104546eef213b40aa8e6946c1e6af0f856d3eba0b92ef66cdfcd47be1a08026e");
    assert_eq!(
        proof.to_string(),
        "dc583ee9e6dc60f192f3bf804891439b7ecb57657ffbfa1911cfdea11b61cf4992163219536f505ba9dbc76cd4c868a0de9147cadf0d8fce2742a933fdacdbf833ada8e8a762c6fa7c8295d537115906"
    );
    assert_eq!(
        output.to_string(),
        "991bbfd211ec1bcf07567972c7718a5d5ccdf5424eb4d02bc7fb614b1a2413975f1e39ec67c22d56630cafe375aef4546dd5e953eaa320a3280dfb5f8acdae29"
    );
    assert_eq!(
        output.of_task(&[0x44; 32]).to_string(),
        "234f9ee4de2037dfd4fd6c1e30455615fdc9e4f627184172e7c0939e78415a6feb4672a9f93b639dc5054514fce01e10c8725ab043fbe60ed3fcfafff44f70de"
    );
    assert_eq!(
        VrfPublic(unhex("104546eef213b40aa8e6946c1e6af0f856d3eba0b92ef66cdfcd47be1a08026e")).verify(&input, &proof),
        Some(output)
    );
}

/// Leading 16 bytes of the output, weight, total, expected milli-seats, seats.
/// Made with another implementation, in Python's integers, of docs/protocol.md.
const SEATS: [(&str, u64, u64, u64, u32); 18] = [
    ("5bc8fbbcbde5c0994164d8399f767c45", 1 << 40, 1 << 40, 64_000, 61),
    ("d76d4330f1446beab0c11fdecb91ce37", 1 << 40, 1 << 43, 64_000, 11),
    ("87b0b125ec1d7da0a6eb8c9ebd69fe29", 100_000, 100_000_000, 3_000, 0),
    ("c6a5387777330bdbd7210dff076ce2ef", 100_000, 100_000_000, 1_000, 0),
    ("0d464138a62332553fc1ea36f17fd374", 5, 10, 3_000, 0),
    ("5f2dd97f1cfb10f62827688de6a16a3b", 65, 65, 64_000, 64),
    ("617959ce3f1f65a8de5271007814e8a2", 7_000_000, 100_000_000, 7_000, 0),
    ("3fd4235992edcf451a1afe878b33e968", u64::MAX, u64::MAX, 64_000, 58),
    // Pairs around the exact P(seats ≤ k), from a hundred and fifty decimal
    // digits: the point itself, and the first one below the stated error.
    ("cb394854badcd89e41e98c44af6b4347", 1 << 40, 1 << 40, 64_000, 70),
    ("cb394854badcd89e41e99244af6b460e", 1 << 40, 1 << 40, 64_000, 71),
    ("97b12ebcce632beb1a721c8863cd5b18", 1 << 40, 1 << 43, 64_000, 8),
    ("97b12ebcce632beb1a72228863cd5b73", 1 << 40, 1 << 43, 64_000, 9),
    ("ff3bafc5f592cfa291a582635514a70e", 100_000, 100_000_000, 3_000, 0),
    ("ff3bafc5f592cfa291a58263551dced9", 100_000, 100_000_000, 3_000, 1),
    ("ffffffecb776f338ce7293f326c04c54", 100_000, 100_000_000, 3_000, 2),
    ("ffffffecb776f338ce7293f326c97433", 100_000, 100_000_000, 3_000, 3),
    ("fffffe002aa8b2b9bb79f468a98b356c", 1 << 30, 1 << 40, 500, 1),
    ("fffffe002aa8b2b9bb79f46a298b3581", 1 << 30, 1 << 40, 500, 2),
];

#[test]
fn seats_have_exactly_these_numbers() {
    for (leading, weight, total, expected_milli, won) in SEATS {
        let output = output(u128::from_be_bytes(unhex(leading)));
        assert_eq!(seats(&output, weight, total, expected_milli), won, "{leading} {weight} {total} {expected_milli}");
    }
}

#[test]
fn draws_have_exactly_these_winners() {
    let weights: Vec<(PeerId, u64)> = (0u16..8).map(|number| (peer(number), 1 + 100 * u64::from(number))).collect();
    let seed = |height| Beacon(Hash([0x55; 32])).lottery_seed(height, 0);
    let number = |id: PeerId| u16::from_be_bytes([id.0[0], id.0[1]]);
    let drawn: Vec<_> = (0..16).filter_map(|height| lottery::draw(&seed(height), &weights)).map(number).collect();
    assert_eq!(drawn, [7, 7, 7, 6, 2, 6, 5, 6, 6, 7, 2, 6, 3, 6, 2, 7]);
    assert_eq!(
        lottery::sample(&seed(0), &weights, 8).into_iter().map(number).collect::<Vec<_>>(),
        [7, 4, 3, 6, 5, 2, 1, 0]
    );
}

#[test]
fn averages_have_exactly_these_values() {
    let mut average = Average::starting(MicroPower(1_000_000), 1_000);
    let spans = [0, 1, 60_000, 86_400_000, 604_800_000, 3_000_000_000];
    assert_eq!(
        spans.map(|span_ms| average.at(1_000 + span_ms).0),
        [1_000_000, 999_999, 999_931, 905_723, 500_000, 32_121]
    );
    average.add(MicroPower(123_456_789), 61_000);
    average.take(MicroPower(500_000), 86_461_000);
    average.add(MicroPower(77), 86_461_000);
    assert_eq!(hex(&codec::encode(&average)), "a3001a00b60214011aaa905c95021a05274a48");
}

#[test]
fn records_and_histories_have_exactly_these_bytes() {
    let mut record = PowerRecord::starting(MicroPower(5_000_000), 1_790_000_000_000);
    let gained = record.credit(Branch::Training, MicroPower(250_000), 1_790_000_010_000);
    let lost = record.penalise(Branch::Drilling, MicroPower(1_000), 1_790_000_020_000);
    assert_eq!(
        hex(&codec::encode(&record)),
        "a4001a004c4758011a0003d09002a3001a004c4a6a011a5f63f483021b000001a0c450ba2003a3001960b3011a1d55e6ca021b000001a0c4509310"
    );
    assert_eq!(record.weight(1_000, 1_790_086_400_000), 1_824_863);
    let (task, run) = (Hash([0x66; 32]), RunId([0x77; 32]));
    let causes = [
        (Cause::Start, MicroPower(5_000_000), MicroPower::ZERO),
        (Cause::Drill { task, seats: 3 }, gained, MicroPower::ZERO),
        (Cause::Probation { task }, gained, MicroPower::ZERO),
        (Cause::Training { run }, gained, MicroPower::ZERO),
        (Cause::WrongResult { task }, MicroPower::ZERO, lost),
        (Cause::Unrevealed { task }, MicroPower::ZERO, lost),
        (Cause::Disagreement { task }, MicroPower::ZERO, lost),
    ];
    let mut history = History::default();
    for (height, (cause, gained, lost)) in (1..).zip(causes) {
        history.note(Entry { height, at_ms: 1_790_000_000_000, branch: Branch::Drilling, gained, lost, cause });
    }
    assert_eq!(
        hex(&codec::encode(&history)),
        "a400a20000010001a20000010002000387a60001011b000001a0c4506c000200031a004c4b4004000500a60002011b000001a0c4506c000200031a0003d090040005a101a200582066666666666666666666666666666666666666666666666666666666666666660103a60003011b000001a0c4506c000200031a0003d090040005a102a10058206666666666666666666666666666666666666666666666666666666666666666a60004011b000001a0c4506c000200031a0003d090040005a103a10058207777777777777777777777777777777777777777777777777777777777777777a60005011b000001a0c4506c0002000300041903e805a104a10058206666666666666666666666666666666666666666666666666666666666666666a60006011b000001a0c4506c0002000300041903e805a105a10058206666666666666666666666666666666666666666666666666666666666666666a60007011b000001a0c4506c0002000300041903e805a106a10058206666666666666666666666666666666666666666666666666666666666666666"
    );
}
