//! Values of arguments.

use manta_protocol::market::demand::Share;
use manta_protocol::wire::limits::MEMBERS_MAX;
use std::time::Duration;

/// How many members a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerRange {
    pub(super) min: u16,
    pub(super) max: u16,
}

/// `4` or `2..8`, both ends included.
pub(super) fn peer_range(text: &str) -> Result<PeerRange, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u16>().ok();
    match (number(min), number(max)) {
        (Some(min), Some(max)) if 1 <= min && min <= max && usize::from(max) <= MEMBERS_MAX => {
            Ok(PeerRange { min, max })
        }
        _ => Err(format!("expected a number from 1 to {MEMBERS_MAX}, or a range such as 2..8")),
    }
}

/// `own`, `invited` or `open`.
pub(super) fn share(text: &str) -> Result<Share, String> {
    match text {
        "own" => Ok(Share::Own),
        "invited" => Ok(Share::Invited),
        "open" => Ok(Share::Open),
        _ => Err("expected own, invited or open".into()),
    }
}

/// As [`duration`], or `500ms`.
pub(super) fn epoch(text: &str) -> Result<Duration, String> {
    match text.strip_suffix("ms").map(str::parse) {
        Some(Ok(ms)) => Ok(Duration::from_millis(ms)),
        _ => duration(text),
    }
}

/// `90s`, `30m`, `6h`, `2d`; a bare number is in seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_s = match unit {
        "" | "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds = number.parse::<u64>().ok().zip(unit_s).and_then(|(number, unit)| number.checked_mul(unit));
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err("expected a time such as 90s, 30m, 6h or 2d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ranges() {
        assert_eq!(peer_range("4"), Ok(PeerRange { min: 4, max: 4 }));
        assert_eq!(peer_range("2..8"), Ok(PeerRange { min: 2, max: 8 }));
        for bad in ["", "0", "17", "8..2", "2..", "..4", "2...4", "-1", "two", "2..70000"] {
            assert!(peer_range(bad).is_err_and(|e| e.contains("1 to 16")), "{bad}");
        }
    }

    #[test]
    fn shares() {
        let all = [("own", Share::Own), ("invited", Share::Invited), ("open", Share::Open)];
        assert!(all.into_iter().all(|(text, expected)| share(text) == Ok(expected)));
        assert!(share("all").is_err_and(|e| e.contains("own, invited or open")));
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("30m", 1800), ("6h", 21_600), ("2d", 172_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0", "h", "1w", "-1s", "1.5h", "99999999999999999999d", "9999999999999999999d"] {
            assert!(duration(bad).is_err_and(|e| e.contains("6h")), "{bad}");
        }
    }
}
