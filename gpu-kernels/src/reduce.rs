//! Sums over peers: canonical addition in rank order, of values nobody has checked yet.

use crate::arithmetic::{add, canon, in_range};
use crate::error::EngineError;

/// `accumulator[i] += contribution[i]` for every i, canonically. Peers that add
/// the same contributions in the same order get the same bits.
///
/// # Errors
/// Unequal lengths, or a contribution or sum that is not a number under 2⁴⁰;
/// `accumulator` is then unchanged.
pub fn accumulate(accumulator: &mut [f32], contribution: &[f32]) -> Result<(), EngineError> {
    if accumulator.len() != contribution.len() {
        let expected = accumulator.len().to_string();
        return Err(EngineError::Length { what: "contribution", expected, found: contribution.len() });
    }
    check("contribution", contribution)?;
    let sum = |a: f32, b: f32| add(a, canon(b));
    let bad = accumulator.iter().zip(contribution).position(|(&a, &b)| !in_range(sum(a, b)));
    if let Some(index) = bad {
        return Err(EngineError::Value { what: "sum", index, value: sum(accumulator[index], contribution[index]) });
    }
    for (a, &b) in accumulator.iter_mut().zip(contribution) {
        *a = sum(*a, b);
    }
    Ok(())
}

/// Refuses a vector that holds NaN, infinity, or a number of 2⁴⁰ or more in magnitude.
///
/// # Errors
/// Names the first such element.
pub fn check(what: &'static str, values: &[f32]) -> Result<(), EngineError> {
    // Most vectors are fine, and the maximum of all bits is found much faster than a position.
    if crate::arithmetic::peak(values) < crate::arithmetic::RANGE_LIMIT_BITS {
        return Ok(());
    }
    match values.iter().position(|&value| !in_range(value)) {
        Some(index) => Err(EngineError::Value { what, index, value: values[index] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_contributions_change_nothing() {
        let before = vec![1.0, 2.0, 1.09e12];
        for (bad, index) in [([0.5, f32::NAN, 0.0], 1), ([f32::INFINITY, 0.0, 0.0], 0), ([0.0, 0.0, 1e12], 2)] {
            let mut sum = before.clone();
            match accumulate(&mut sum, &bad) {
                Err(EngineError::Value { index: found, .. }) => assert_eq!(found, index),
                other => panic!("{other:?}"),
            }
            assert_eq!(sum, before);
        }
        let mut sum = before.clone();
        assert!(matches!(accumulate(&mut sum, &[1.0]), Err(EngineError::Length { found: 1, .. })));
        accumulate(&mut sum, &[0.5, f32::from_bits(1), -0.0]).unwrap();
        assert_eq!(sum, vec![1.5, 2.0, 1.09e12]);
    }

    #[test]
    fn sums_are_canonical() {
        let mut sum = vec![0.0, 1.0, 0.0];
        accumulate(&mut sum, &[-0.0, -1.0, 1e-38]).unwrap();
        assert!(sum.iter().all(|x| x.to_bits() == 0));
    }
}
