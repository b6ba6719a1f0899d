//! What measurements have in common.

use std::path::PathBuf;

/// The middle one of some samples, or the mean of the middle two; 0 without any.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}

/// Processor time of all threads of this process so far, in milliseconds: other programs on the machine disturb it less
/// than the time on the clock. Threads that have ended are not counted. Not a number where the system does not tell.
pub fn processor_ms() -> f64 {
    let of_task = |path: PathBuf| -> Option<u64> {
        std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let spent_ns: u64 = tasks.filter_map(|task| of_task(task.ok()?.path())).sum();
    spent_ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_found_in_any_order() {
        assert_eq!([median(&[]), median(&[2.0]), median(&[9.0, 1.0, 4.0])], [0.0, 2.0, 4.0]);
        assert_eq!(median(&[8.0, 1.0, 2.0, 4.0]), 3.0);
    }
}
