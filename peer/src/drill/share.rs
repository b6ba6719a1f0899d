//! The share of this machine that drilling may take: a token bucket of device time.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// As much of the share as is saved up at most, in wall time.
const SAVED: Duration = Duration::from_secs(120);

/// A share of a machine's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// In parts of 1,000.
    permille: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { permille: 50 }
    }
}

impl FromStr for Share {
    type Err = String;

    /// Reads percents: `5`, `2.5`, `5%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        let percent: f64 = number.parse().unwrap_or(f64::NAN);
        if (0.0..=100.0).contains(&percent) {
            Ok(Self { permille: (percent * 10.0).round() as u32 })
        } else {
            Err(format!("expected percents from 0 (never) to 100, found `{text}`"))
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}%", f64::from(self.permille) / 10.0)
    }
}

impl Share {
    /// Whether nothing is ever to be done.
    pub(crate) fn is_none(self) -> bool {
        self.permille == 0
    }

    /// The device time that the share of so much wall time is, in microseconds.
    fn of(self, wall: Duration) -> i64 {
        let micros = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        i64::try_from(u128::from(micros) * u128::from(self.permille) / 1_000).unwrap_or(i64::MAX)
    }
}

/// The device time that is left. Units reserve what they are expected to take;
/// what they take beyond that is owed, and nothing is accepted until it is paid back.
#[derive(Debug)]
pub(crate) struct Budget {
    share: Share,
    /// In microseconds; negative while time is owed.
    balance: i64,
    /// Of the balance and of what it will be, promised to units; in microseconds.
    reserved: i64,
    at: Instant,
}

impl Budget {
    /// An empty one.
    pub(crate) fn new(share: Share, now: Instant) -> Self {
        Self { share, balance: 0, reserved: 0, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let earned = self.share.of(now.saturating_duration_since(self.at));
        // Less than a microsecond is not lost but earned later.
        if earned > 0 {
            self.at = now;
            self.balance = self.balance.saturating_add(earned).min(self.share.of(SAVED));
        }
    }

    /// Promises device time that is to be used `within` so long; if that cannot be
    /// kept, what could be promised instead.
    pub(crate) fn reserve(&mut self, wanted: Duration, within: Duration, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        let free = self.balance.saturating_add(self.share.of(within)).saturating_sub(self.reserved).max(0);
        let micros = micros(wanted);
        if micros > free {
            return Err(Duration::from_micros(free.unsigned_abs()));
        }
        self.reserved += micros;
        Ok(())
    }

    /// Promises device time, whether there is any left or not.
    pub(crate) fn promise(&mut self, wanted: Duration) {
        self.reserved = self.reserved.saturating_add(micros(wanted));
    }

    /// What was promised is not needed any more.
    pub(crate) fn release(&mut self, promised: Duration) {
        self.reserved = (self.reserved - micros(promised)).max(0);
    }

    /// Device time was used.
    pub(crate) fn charge(&mut self, used: Duration, now: Instant) {
        self.refill(now);
        self.balance = self.balance.saturating_sub(micros(used));
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn shares_are_spelled_in_percents() {
        for (text, permille) in [("5", 50), ("2.5%", 25), ("0", 0), ("100 %", 1_000)] {
            assert_eq!(text.parse(), Ok(Share { permille }));
        }
        for bad in ["", "-1", "101", "nan", "five", "%"] {
            assert!(bad.parse::<Share>().is_err_and(|error| error.contains("percents")), "{bad}");
        }
        assert_eq!(Share::default().to_string(), "5%");
    }

    #[test]
    fn no_more_is_promised_than_the_share() {
        let start = Instant::now();
        let mut budget = Budget::new(Share::default(), start);
        assert_eq!(budget.reserve(SECOND, SECOND, start), Err(Duration::from_millis(50)));
        // In 20 seconds there will be a second.
        assert_eq!(budget.reserve(SECOND, 20 * SECOND, start), Ok(()));
        assert_eq!(budget.reserve(SECOND, 20 * SECOND, start), Err(Duration::ZERO));
        assert_eq!(budget.reserve(SECOND, 40 * SECOND, start), Ok(()));
        budget.release(SECOND);
        budget.release(SECOND);
        // However long it waits, no more than two minutes' share is saved up.
        let later = start + 3600 * SECOND;
        assert_eq!(budget.reserve(7 * SECOND, Duration::ZERO, later), Err(6 * SECOND));
        assert_eq!(budget.reserve(6 * SECOND, Duration::ZERO, later), Ok(()));
    }

    #[test]
    fn what_is_owed_is_paid_back_first() {
        let start = Instant::now();
        let mut budget = Budget::new(Share::default(), start);
        assert_eq!(budget.reserve(SECOND, 20 * SECOND, start), Ok(()));
        budget.charge(3 * SECOND, start);
        budget.release(SECOND);
        assert_eq!(budget.reserve(SECOND, Duration::ZERO, start + 60 * SECOND), Err(Duration::ZERO));
        assert_eq!(budget.reserve(SECOND, Duration::ZERO, start + 80 * SECOND), Ok(()));
    }

    #[test]
    fn over_an_hour_no_more_than_the_share_is_used() {
        let start = Instant::now();
        let mut budget = Budget::new(Share::default(), start);
        let (mut now, mut used) = (start, Duration::ZERO);
        // Every unit takes half as long again as it was thought to.
        while now < start + 3600 * SECOND {
            if budget.reserve(SECOND, 2 * SECOND, now).is_ok() {
                budget.charge(3 * SECOND / 2, now);
                budget.release(SECOND);
                used += 3 * SECOND / 2;
            }
            now += Duration::from_millis(130);
        }
        let most = Duration::from_secs(180);
        assert!(used <= most + 2 * SECOND && used >= most - 4 * SECOND, "{used:?}");
    }

    #[test]
    fn no_share_is_never() {
        let start = Instant::now();
        let mut budget = Budget::new(Share { permille: 0 }, start);
        assert_eq!(budget.reserve(Duration::from_micros(1), 9999 * SECOND, start), Err(Duration::ZERO));
    }
}
