//! Power against BOINC's published formula, and what a history explains.

use manta_protocol::Hash;
use manta_protocol::power::average::HALF_LIFE_MS;
use manta_protocol::power::history::ENTRIES_MAX;
use manta_protocol::power::{
    Average, Branch, Cause, Entry, History, MicroPower, PowerRecord, WHETSTONE_OPERATIONS_PER_POWER, drill_credit,
    weight,
};
use manta_protocol::wire::codec;
use proptest::prelude::*;

const DAY_MS: u64 = 86_400_000;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// The oracle: what BOINC's `update_average` (lib/util.cpp) does to an average
/// that has begun. Times in seconds.
fn boinc_update_average(average: &mut f64, averaged_at: &mut f64, now: f64, work: f64) {
    let half_life = 7.0 * SECONDS_PER_DAY;
    let elapsed = (now - *averaged_at).max(0.0);
    let kept = (-elapsed * std::f64::consts::LN_2 / half_life).exp();
    *average *= kept;
    *average += if 1.0 - kept > 1e-6 {
        (1.0 - kept) * work / (elapsed / SECONDS_PER_DAY)
    } else {
        std::f64::consts::LN_2 * work * SECONDS_PER_DAY / half_life
    };
    *averaged_at = now;
}

fn gap_ms() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..2_000u64, 2_000..DAY_MS, DAY_MS..60 * DAY_MS]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn averages_are_those_of_boinc(
        start in 0u64..1 << 40,
        updates in proptest::collection::vec((gap_ms(), prop_oneof![Just(0u64), 0..1u64 << 20, 0..1u64 << 45]), 1..60),
    ) {
        let mut now_ms = 1_700_000_000_000;
        let mut found = Average::starting(MicroPower(start), now_ms);
        // Counted from the beginning, so that milliseconds keep their digits in an f64.
        let (mut average, mut averaged_at, begun_ms) = (start as f64, 0.0, now_ms);
        for (gap_ms, work) in updates {
            now_ms += gap_ms;
            found.add(MicroPower(work), now_ms);
            boinc_update_average(&mut average, &mut averaged_at, (now_ms - begun_ms) as f64 / 1000.0, work as f64);
            let distance = (found.at(now_ms).0 as f64 - average).abs();
            // BOINC takes the limit for spans under 0.9 s, which is up to 5·10⁻⁷ off.
            prop_assert!(distance <= 1.0 + 1e-6 * average, "{found:?} and {average}");
        }
        let later_ms = now_ms + 3 * DAY_MS;
        boinc_update_average(&mut average, &mut averaged_at, (later_ms - begun_ms) as f64 / 1000.0, 0.0);
        prop_assert!((found.at(later_ms).0 as f64 - average).abs() <= 1.0 + 1e-6 * average);
    }

    #[test]
    fn how_often_an_average_is_updated_does_not_matter_to_its_decay(
        start in 0u64..1 << 50, gaps in proptest::collection::vec(0u64..DAY_MS, 0..100),
    ) {
        let whole = Average::starting(MicroPower(start), 0);
        let (mut often, mut now_ms) = (whole, 0);
        for gap_ms in gaps {
            now_ms += gap_ms;
            often.add(MicroPower::ZERO, now_ms);
        }
        prop_assert!(whole.at(now_ms).0.abs_diff(often.at(now_ms).0) <= 1);
    }

    #[test]
    fn any_arguments_are_computed(start: u64, updates in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..20)) {
        let mut average = Average::starting(MicroPower(start), 0);
        for (now_ms, work, add) in updates {
            let before = average.at(now_ms);
            if add {
                average.add(MicroPower(work), now_ms);
                prop_assert!(average.at(now_ms) >= before);
            } else {
                average.take(MicroPower(work), now_ms);
                prop_assert!(average.at(now_ms) <= before);
            }
            let bytes = codec::encode(&average);
            prop_assert_eq!(codec::decode::<Average>(&bytes, 64), Ok(average));
        }
    }

    #[test]
    fn every_point_of_real_power_is_explained(
        start in 0u64..1 << 40,
        steps in proptest::collection::vec((any::<bool>(), any::<bool>(), prop_oneof![0u64..1 << 41, any::<u64>()]), 0..120),
    ) {
        let mut record = PowerRecord::starting(MicroPower(start), 0);
        let mut history = History::default();
        let entry = |height, branch, gained, lost, cause| Entry { height, at_ms: height * 10_000, branch, gained, lost, cause };
        history.note(entry(0, Branch::Drilling, MicroPower(start), MicroPower::ZERO, Cause::Start));
        for ((credit, drilling, work), height) in steps.into_iter().zip(1..) {
            let (branch, work, task) = (if drilling { Branch::Drilling } else { Branch::Training }, MicroPower(work), Hash([7; 32]));
            history.note(if credit {
                // Lifetime sums of gains are counted up to 2⁶⁴ − 1.
                let work = MicroPower(work.0 >> 24);
                let gained = record.credit(branch, work, height * 10_000);
                entry(height, branch, gained, MicroPower::ZERO, Cause::Drill { task, seats: 3 })
            } else {
                let lost = record.penalise(branch, work, height * 10_000);
                entry(height, branch, MicroPower::ZERO, lost, Cause::WrongResult { task })
            });
            for branch in [Branch::Drilling, Branch::Training] {
                prop_assert_eq!(history.total(branch), record.real(branch));
            }
        }
        prop_assert!(history.entries().len() <= ENTRIES_MAX && history.validate().is_ok());
        let bytes = codec::encode(&history);
        prop_assert_eq!(codec::decode::<History>(&bytes, 4_096), Ok(history));
        let bytes = codec::encode(&record);
        prop_assert_eq!(codec::decode::<PowerRecord>(&bytes, 256), Ok(record));
    }

    #[test]
    fn training_without_drilling_weighs_nothing(drilling: u64, training: u64, kappa_milli: u32) {
        prop_assert_eq!(weight(MicroPower::ZERO, MicroPower(training), kappa_milli), 0);
        let (least, found) = (weight(MicroPower(drilling), MicroPower::ZERO, kappa_milli), weight(MicroPower(drilling), MicroPower(training), kappa_milli));
        let most = u128::from(drilling) * 4 / 10 + u128::from(drilling) * u128::from(kappa_milli) * 6 / 10_000 + 1;
        prop_assert!(least <= found && u128::from(found) <= most);
    }
}

#[test]
fn a_week_without_work_halves_effective_power() {
    let start = MicroPower::from_power(8);
    let average = Average::starting(start, 5);
    let after = |weeks| average.at(5 + weeks * HALF_LIFE_MS);
    assert_eq!([0, 1, 2, 3].map(after), [8, 4, 2, 1].map(MicroPower::from_power));
    assert_eq!((average.at(0), after(100)), (start, MicroPower::ZERO));
    // A core that works all day long, credited each ten seconds for half a year, has power 1.
    let mut busy = Average::starting(MicroPower::ZERO, 0);
    for tick in 1..=180 * DAY_MS / 10_000 {
        // 115.74 millionths each, on average.
        busy.add(MicroPower(tick * 1_000_000 / 8_640 - (tick - 1) * 1_000_000 / 8_640), tick * 10_000);
    }
    assert!(busy.at(180 * DAY_MS).0.abs_diff(1_000_000) <= 2, "{busy:?}");
}

#[test]
fn a_penalty_undoes_a_credit_of_the_moment() {
    let mut record = PowerRecord::starting(MicroPower::from_power(3), 0);
    let before = record;
    assert_eq!(record.credit(Branch::Drilling, MicroPower(700_000), 0), MicroPower(700_000));
    assert_eq!(record.effective(Branch::Drilling, 0), MicroPower(3_069_314), "ln 2 ÷ 7 of it at once");
    assert_eq!(record.penalise(Branch::Drilling, MicroPower(700_000), 0), MicroPower(700_000));
    assert_eq!(record, before);
    // It takes no more than there is, and nothing of the other branch.
    assert_eq!(record.penalise(Branch::Drilling, MicroPower::from_power(100), 0), MicroPower::from_power(3));
    assert_eq!(record.penalise(Branch::Training, MicroPower(1), 0), MicroPower::ZERO);
    assert_eq!(
        (record.real(Branch::Drilling), record.effective(Branch::Drilling, 0)),
        (MicroPower::ZERO, MicroPower::ZERO)
    );
}

#[test]
fn weight_and_credit_have_these_values() {
    let power = MicroPower::from_power;
    assert_eq!(weight(power(10), power(0), 1_000), 4_000_000);
    assert_eq!(weight(power(10), power(10), 1_000), 10_000_000);
    assert_eq!(weight(power(10), power(1_000), 1_000), 10_000_000, "training beyond κ times drilling counts nothing");
    assert_eq!(weight(power(10), power(1_000), 2_500), 19_000_000);
    assert_eq!(weight(MicroPower(7), MicroPower(3), 1_000), 4, "rounded down once");
    assert_eq!(weight(MicroPower(u64::MAX), MicroPower(u64::MAX), u32::MAX), u64::MAX);
    assert_eq!(drill_credit(WHETSTONE_OPERATIONS_PER_POWER, WHETSTONE_OPERATIONS_PER_POWER), power(1));
    assert_eq!(drill_credit(1_000_000_000, WHETSTONE_OPERATIONS_PER_POWER), MicroPower(11), "a second of a core");
    assert_eq!(drill_credit(u64::MAX, 1), MicroPower(u64::MAX));
    assert_eq!(drill_credit(u64::MAX, 0), MicroPower::ZERO);
    assert_eq!((power(1).shared_by(3), power(1).shared_by(0)), (MicroPower(333_333), MicroPower::ZERO));
    assert_eq!((power(3).to_string(), MicroPower(1_000_007).to_string()), ("3.000000".into(), "1.000007".into()));
}
