//! Golden bytes and digests, limits, and the choice of classes.

use super::*;

fn hash(byte: u8) -> Hash {
    Hash([byte; 32])
}

fn gemm() -> Unit {
    Unit::Gemm { class: GemmClass::try_from(3).expect("a class"), seed: Seed(hash(9)) }
}

fn segment() -> SegmentUnit {
    let spans = |first, count| vec![Span { first, count }];
    SegmentUnit {
        run: RunId([1; 32]),
        spec: hash(2),
        batch_operations: 1 << 33,
        first: 2,
        from: hash(3),
        exchanges: vec![
            Exchange { schedule_step: 2, contributors: vec![spans(8, 2), spans(10, 2)] },
            Exchange { schedule_step: 3, contributors: vec![spans(12, 1), spans(13, 3)] },
        ],
        members: Vec::new(),
    }
}

fn evaluate() -> EvaluateUnit {
    EvaluateUnit { run: RunId([1; 32]), spec: hash(2), window_operations: 1 << 30, state: hash(3), windows: 512 }
}

#[test]
fn units_have_exactly_these_bytes() {
    let own = vec![Own { steps: 40, moments: Some(hash(5)) }, Own { steps: 0, moments: None }];
    let local = SegmentUnit { members: own, ..segment() };
    let cases = [
        (gemm(), GEMM_HEX, GEMM_HASH),
        (Unit::Segment { unit: Box::new(segment()) }, SEGMENT_HEX, SEGMENT_HASH),
        (Unit::Segment { unit: Box::new(local) }, LOCAL_HEX, LOCAL_HASH),
        (Unit::Evaluate { unit: evaluate() }, EVALUATE_HEX, EVALUATE_HASH),
    ];
    for (unit, hex, hash) in cases {
        let bytes = codec::encode(&unit);
        let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, hex);
        assert_eq!(Unit::decode(&bytes), Ok(unit.clone()));
        assert_eq!(unit.hash().to_string(), hash);
    }
}

const GEMM_HEX: &str = "a100a200030158200909090909090909090909090909090909090909090909090909090909090909";
const GEMM_HASH: &str = "282ca5eb7124ade853bec030004d893607267740f4a7e0626c9c8c54a368b129";
const SEGMENT_HEX: &str = "a101a100a700582001010101010101010101010101010101010101010101010101010101010101010158200202020202020202020202020202020202020202020202020202020202020202021b0000000200000000030204582003030303030303030303030303030303030303030303030303030303030303030582a20002018281a20008010281a2000a0102a20003018281a2000c010181a2000d01030680";
const SEGMENT_HASH: &str = "13447e7d36dfd312635834e0819e7dd6660df55884be8aad1ad8d99ec1954a00";
const LOCAL_HEX: &str = "a101a100a700582001010101010101010101010101010101010101010101010101010101010101010158200202020202020202020202020202020202020202020202020202020202020202021b0000000200000000030204582003030303030303030303030303030303030303030303030303030303030303030582a20002018281a20008010281a2000a0102a20003018281a2000c010181a2000d01030682a20018280158200505050505050505050505050505050505050505050505050505050505050505a2000001f6";
const LOCAL_HASH: &str = "3400262e408a9132235ae3fa31505a50398c48286ffd3c467df2ddd6111b7e0a";
const EVALUATE_HEX: &str = "a102a100a500582001010101010101010101010101010101010101010101010101010101010101010158200202020202020202020202020202020202020202020202020202020202020202021a40000000035820030303030303030303030303030303030303030303030303030303030303030304190200";
const EVALUATE_HASH: &str = "a454405758e6fe0d66f4478db5363d80633539c3390b992388deebab7a04a764";

#[test]
fn digests_have_exactly_these_values() {
    let loss = LossSum { fixed: -5, tokens: 64 };
    let result = SegmentResult { state: hash(7), losses: vec![loss, LossSum { fixed: 1 << 40, tokens: 128 }] };
    assert_eq!(
        segment().digest(&result).to_string(),
        "f3e3aaed48a0cbc793a0d4fea2b1cf6344526cbabafb353cd9a0824291b9769f"
    );
    let evaluation = Evaluation { loss, hits: 17 };
    assert_eq!(
        evaluate().digest(&evaluation).to_string(),
        "89282d0b23454ccbc291223aac318f8995e7d32edb4df967a06bfe9682be0311"
    );
}

#[test]
fn every_part_of_a_result_changes_the_digest() {
    let loss = LossSum { fixed: 5, tokens: 64 };
    let result = SegmentResult { state: hash(7), losses: vec![loss] };
    let others = [
        SegmentResult { state: hash(8), ..result.clone() },
        SegmentResult { losses: vec![LossSum { fixed: 6, ..loss }], ..result.clone() },
        SegmentResult { losses: vec![loss, LossSum::default()], ..result.clone() },
    ];
    let digest = segment().digest(&result);
    assert!(others.iter().all(|other| segment().digest(other) != digest));
    assert_ne!(SegmentUnit { first: 3, ..segment() }.digest(&result), digest);
    let evaluation = Evaluation { loss, hits: 17 };
    let digest = evaluate().digest(&evaluation);
    for other in [Evaluation { hits: 16, ..evaluation }, Evaluation { loss: LossSum { tokens: 63, ..loss }, hits: 17 }]
    {
        assert_ne!(evaluate().digest(&other), digest);
    }
    assert_ne!(EvaluateUnit { windows: 511, ..evaluate() }.digest(&evaluation), digest);
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    assert!(GemmClass::try_from(10).is_err());
    let mut bytes = codec::encode(&gemm());
    let at = bytes.iter().position(|byte| *byte == 3).expect("the class");
    bytes[at] = 10;
    assert!(Unit::decode(&bytes).is_err_and(|error| error.contains("gemm class 10")));
    let span = |first, count| vec![Span { first, count }];
    let one = |contributors| Exchange { schedule_step: 0, contributors };
    let own = Own { steps: 0, moments: None };
    type Change = fn(&mut SegmentUnit);
    let changes: [(&str, Change); 3] = [
        ("0 exchanges", |unit| unit.exchanges.clear()),
        ("65 exchanges", |unit| unit.exchanges = vec![unit.exchanges[0].clone(); SEGMENT_EXCHANGES_MAX + 1]),
        ("from exchange", |unit| unit.first = u64::MAX),
    ];
    for (problem, change) in changes {
        let mut unit = segment();
        change(&mut unit);
        let refused = Unit::Segment { unit: Box::new(unit) }.validate();
        assert!(refused.as_ref().is_err_and(|error| error.contains(problem)), "{problem}: {refused:?}");
    }
    for (exchanges, members) in [
        (vec![one(vec![])], vec![]),
        (vec![one(vec![span(0, 1); MEMBERS_MAX + 1])], vec![]),
        (vec![one(vec![span(0, 1)])], vec![own; 2]),
        (vec![one(vec![span(0, 0)])], vec![]),
        (vec![one(vec![span(u64::MAX, 1)])], vec![]),
        (vec![one(vec![span(0, SEGMENT_BATCHES_MAX + 1)])], vec![]),
        (vec![one(vec![span(0, 1).repeat(SEGMENT_SPANS_MAX + 1)])], vec![]),
        (vec![one(vec![span(0, u64::MAX), span(0, u64::MAX)])], vec![]),
    ] {
        let unit = SegmentUnit { exchanges, members, ..segment() };
        assert!(Unit::Segment { unit: Box::new(unit.clone()) }.validate().is_err(), "{unit:?}");
    }
    for windows in [0, WINDOWS_MAX + 1] {
        assert!(Unit::Evaluate { unit: EvaluateUnit { windows, ..evaluate() } }.validate().is_err());
    }
}

#[test]
fn the_largest_segment_fits() {
    let far = Span { first: u64::MAX / 2, count: SEGMENT_BATCHES_MAX / SEGMENT_SPANS_MAX as u64 };
    let spans = vec![far; SEGMENT_SPANS_MAX / SEGMENT_EXCHANGES_MAX / MEMBERS_MAX];
    let exchange = Exchange { schedule_step: u64::MAX, contributors: vec![spans; MEMBERS_MAX] };
    let unit = SegmentUnit {
        exchanges: vec![exchange; SEGMENT_EXCHANGES_MAX],
        members: vec![Own { steps: u64::MAX, moments: Some(hash(1)) }; MEMBERS_MAX],
        batch_operations: u64::MAX,
        ..segment()
    };
    let unit = Unit::Segment { unit: Box::new(unit) };
    let bytes = codec::encode(&unit);
    assert!(bytes.len() <= UNIT_BYTES_MAX, "{} bytes", bytes.len());
    assert_eq!(Unit::decode(&bytes), Ok(unit.clone()));
    assert_eq!(unit.operations(), u64::MAX, "more than can be counted is the most that can");
    assert_eq!(unit.deadline_ms(1), DEADLINE_MAX_MS);
}

/// The two classes above.
fn above(class: GemmClass) -> Option<[GemmClass; 2]> {
    let of = |number| GemmClass::try_from(number).ok();
    Some([of(class.number() + 1)?, of(class.number() + 2)?])
}

#[test]
fn a_class_takes_about_a_second_where_it_is_chosen() {
    let mut last = 0;
    for class in GemmClass::all() {
        assert!(class.operations() >= 4 * last);
        last = class.operations();
        // Exactly two seconds, and one operation a second too slow for that.
        assert_eq!(GemmClass::for_speed(class.operations() / 2), class);
        let slower = GemmClass::for_speed(class.operations() / 2 - 1);
        assert_eq!(slower.number(), class.number().saturating_sub(1));
        let unit = Unit::Gemm { class, seed: Seed(hash(1)) };
        assert_eq!(unit.deadline_ms(class.operations_per_s_min()), DEADLINE_BASE_MS + 4_000);
        // Who claims to be two classes above what its device is misses it.
        if let Some([above, claimed]) = above(class) {
            let fastest = above.operations() / 2 - 1;
            let claim = Unit::Gemm { class: claimed, seed: Seed(hash(1)) };
            assert!(claimed.operations() / fastest > claim.deadline_ms(claimed.operations_per_s_min()) / 1_000);
        }
    }
    assert_eq!(GemmClass::for_speed(0), GemmClass::SMALLEST);
    assert_eq!(GemmClass::for_speed(u64::MAX), GemmClass::LARGEST);
    assert_eq!((GemmClass::LARGEST.number(), GemmClass::LARGEST.operations()), (9, 1 << 45));
}
