//! From work to power, and from power to weight.

use super::MicroPower;

/// The weight of a peer in elections, from its effective power:
/// 0.4·T_D + 0.6·min(T_T, κ·T_D), in millionths, rounded down; at most 2⁶⁴ − 1.
///
/// The papers print the second term as T_T × 0.6 × T_D, which mixes units; what
/// it means is kept: training counts only as far as drilling backs it. So a
/// peer that pays itself for training gains nothing by that.
pub fn weight(drilling: MicroPower, training: MicroPower, kappa_milli: u32) -> u64 {
    let drilling = u128::from(drilling.0);
    let backed = drilling * u128::from(kappa_milli) / 1000;
    let tenths = 4 * drilling + 6 * backed.min(u128::from(training.0));
    u64::try_from(tenths / 10).unwrap_or(u64::MAX)
}

/// The power of `operations` if power 1 is `operations_per_power` of them,
/// rounded down; at most 2⁶⁴ − 1. Where an operation is worth nothing
/// (`operations_per_power` is zero), so is the work.
///
/// This is a task's whole difficulty; the papers' T_D = difficulty ÷ number of
/// tasks is one [`MicroPower::shared_by`] of it.
pub fn drill_credit(operations: u64, operations_per_power: u64) -> MicroPower {
    let micro = (u128::from(operations) * 1_000_000).checked_div(u128::from(operations_per_power)).unwrap_or(0);
    MicroPower(u64::try_from(micro).unwrap_or(u64::MAX))
}
