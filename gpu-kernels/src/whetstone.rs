//! The Whetstone benchmark (Curnow and Wichmann, "A synthetic benchmark", The
//! Computer Journal 19, 1976) in double precision on one thread: what a unit of
//! computing power is defined by.
//!
//! Eight loops in the proportions of Longbottom's 1996 form, with ten times as many
//! rounds of the first one as BOINC's client makes of it, so that the figures can be
//! compared with BOINC's. One pass of scale 1 counts as 100,000 Whetstone operations.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Scale of a pass: about 3 ms on a processor of 2020.
const SCALE: u64 = 100;
/// Whetstone operations of a pass of scale 1.
const OPERATIONS: u64 = 100_000;

/// Whetstone operations per second of one thread, measured for about `duration_ms`.
///
/// It is the rate of the fastest pass: BOINC counts processor time for the same
/// reason, that what else the machine does should not matter.
pub fn measure_whetstone_operations_per_s(duration_ms: u64) -> u64 {
    let begun = Instant::now();
    let mut fastest = Duration::MAX;
    while begun.elapsed() < Duration::from_millis(duration_ms) || fastest == Duration::MAX {
        let start = Instant::now();
        black_box(pass(black_box(SCALE)));
        fastest = fastest.min(start.elapsed());
    }
    ((OPERATIONS * SCALE) as f64 / fastest.as_secs_f64().max(1e-9)) as u64
}

/// Results of all loops, so that none of them can be left out.
fn pass(scale: u64) -> [f64; 8] {
    // Values that a compiler could compute ahead are hidden from it.
    let (t, t1, t2) = black_box((0.499_999_75, 0.500_000_25, 2.0));
    let mut array = black_box([1.0, -1.0, -1.0, -1.0]);
    array_elements(&mut array, 120 * scale, t);
    let elements = array[3];
    for _ in 0..14 * scale {
        array_as_parameter(&mut array, t, t2);
    }
    let parameter = array[3];
    let jumps = conditional_jumps(345 * scale, black_box(1));
    let integers = integer_arithmetic(&mut array, 210 * scale);
    let angles = trigonometric_functions(32 * scale, t, t2);
    let mut xyz = black_box([1.0; 3]);
    for _ in 0..899 * scale {
        procedure(&mut xyz, t, t1, t2);
    }
    let (mut places, order) = black_box(([1.0, 2.0, 3.0], [0, 1, 2]));
    for _ in 0..616 * scale {
        array_references(&mut places, order);
    }
    let standard = standard_functions(93 * scale, t1);
    [elements, parameter, jumps as f64, integers, angles, xyz[2], places[0], standard]
}

fn array_elements(e: &mut [f64; 4], rounds: u64, t: f64) {
    for _ in 0..rounds {
        e[0] = (e[0] + e[1] + e[2] - e[3]) * t;
        e[1] = (e[0] + e[1] - e[2] + e[3]) * t;
        e[2] = (e[0] - e[1] + e[2] + e[3]) * t;
        e[3] = (-e[0] + e[1] + e[2] + e[3]) * t;
    }
}

fn array_as_parameter(e: &mut [f64; 4], t: f64, t2: f64) {
    for _ in 0..6 {
        e[0] = (e[0] + e[1] + e[2] - e[3]) * t;
        e[1] = (e[0] + e[1] - e[2] + e[3]) * t;
        e[2] = (e[0] - e[1] + e[2] + e[3]) * t;
        e[3] = (-e[0] + e[1] + e[2] + e[3]) / t2;
    }
}

fn conditional_jumps(rounds: u64, one: i64) -> i64 {
    let (mut j, mut k) = (one, one);
    for _ in 0..rounds {
        let l = if j == 1 { one } else { k };
        j = if k > 2 { one } else { 1 };
        k = if l < 1 { 1 } else { one };
    }
    j
}

fn integer_arithmetic(e: &mut [f64; 4], rounds: u64) -> f64 {
    let (mut j, mut k, mut l) = black_box((1i64, 2i64, 3i64));
    for _ in 0..rounds {
        j = j.wrapping_mul(k.wrapping_sub(j)).wrapping_mul(l.wrapping_sub(k));
        k = l.wrapping_mul(k).wrapping_sub(l.wrapping_sub(j).wrapping_mul(k));
        l = l.wrapping_sub(k).wrapping_mul(k.wrapping_add(j));
        e[(l & 3) as usize] = j.wrapping_add(k).wrapping_add(l) as f64;
        e[(k & 3) as usize] = j.wrapping_mul(k).wrapping_mul(l) as f64;
    }
    e[2] + e[3]
}

fn trigonometric_functions(rounds: u64, t: f64, t2: f64) -> f64 {
    let (mut x, mut y) = (0.5f64, 0.5f64);
    for _ in 0..rounds {
        x = t * (t2 * x.sin() * x.cos() / ((x + y).cos() + (x - y).cos() - 1.0)).atan();
        y = t * (t2 * y.sin() * y.cos() / ((x + y).cos() + (x - y).cos() - 1.0)).atan();
    }
    x + y
}

fn procedure(xyz: &mut [f64; 3], t: f64, t1: f64, t2: f64) {
    let [x, y, z] = xyz;
    *x = *y;
    *y = *z;
    *x = t * (*x + *y);
    *y = t1 * (*x + *y);
    *z = (*x + *y) / t2;
}

fn array_references(e: &mut [f64; 3], [j, k, l]: [usize; 3]) {
    e[j] = e[k];
    e[k] = e[l];
    e[l] = e[j];
}

fn standard_functions(rounds: u64, t1: f64) -> f64 {
    let mut x = 0.75f64;
    for _ in 0..rounds {
        x = (x.ln() / t1).exp().sqrt();
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_end_where_the_published_ones_do() {
        // What Longbottom's program prints, whose rounds are others.
        let [elements, parameter, jumps, integers, angles, z, place, standard] = pass(SCALE);
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 2e-3, "{found}, not {expected}");
        near(elements, -1.124_740_6);
        assert!((parameter + 1.131).abs() < 0.02, "{parameter}");
        assert_eq!((jumps, integers, place), (1.0, 12.0, 3.0));
        near(angles, 2.0 * 0.499_110_4);
        near(z, 0.999_999_8);
        near(standard, 0.751_108_6);
    }

    #[test]
    fn the_speed_is_plausible() {
        let speed = measure_whetstone_operations_per_s(20);
        assert!((10_000_000..100_000_000_000).contains(&speed), "{speed}");
    }
}
