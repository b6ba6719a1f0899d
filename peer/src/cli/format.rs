//! Numbers for people.

use std::time::Duration;

/// `12,345,678`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.4 MB`, in powers of 1000.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1e3, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A speed without decimals; `–` for none or nonsense.
pub(super) fn rate(per_s: f64) -> String {
    if per_s.is_finite() && per_s > 0.0 { grouped(per_s.round() as u64) } else { "–".into() }
}

/// `2 h 5 min`, `3 min 20 s`, `7 s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// As [`duration`], and `12 days` from two days on.
pub(super) fn duration_long(length: Duration) -> String {
    match length.as_secs() / 86_400 {
        0 | 1 => duration(length),
        days => format!("{days} days"),
    }
}

/// A loss in nats a token; `–` for none.
pub(super) fn loss(loss: Option<f64>) -> String {
    loss.filter(|loss| loss.is_finite()).map_or_else(|| "–".into(), |loss| format!("{loss:.3}"))
}

/// The first eight digits of an id, or all of a shorter one.
pub(super) fn short(id: &str) -> &str {
    id.char_indices().nth(8).map_or(id, |(end, _)| &id[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1000, 999_960, 1_440_000].map(bytes), ["0 B", "999 B", "1.0 kB", "1.0 MB", "1.4 MB"]);
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        assert_eq!([12_345.6, 0.0, f64::NAN, -1.0].map(rate), ["12,346", "–", "–", "–"]);
        assert_eq!([7, 200, 7500].map(|s| duration(Duration::from_secs(s))), ["7 s", "3 min 20 s", "2 h 5 min"]);
        assert_eq!([90_000, 172_800].map(|s| duration_long(Duration::from_secs(s))), ["25 h 0 min", "2 days"]);
        assert_eq!([Some(2.34567), None, Some(f64::NAN)].map(loss), ["2.346", "–", "–"]);
        assert_eq!(["0123456789ab", "0123", "ééééééééé"].map(short), ["01234567", "0123", "éééééééé"]);
    }
}
