//! Which peer of a demo computes on what.

use crate::device::{Chosen, Wanted};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What the peers of a demo compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DemoDevice {
    /// All on the same.
    All(Wanted),
    /// Even ones natively, odd ones on a graphics device, in software if need be.
    Mixed,
}

impl Default for DemoDevice {
    fn default() -> Self {
        Self::All(Wanted::Auto)
    }
}

impl FromStr for DemoDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "mixed" { Ok(Self::Mixed) } else { text.parse().map(Self::All) }
    }
}

impl fmt::Display for DemoDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(wanted) => wanted.fmt(formatter),
            Self::Mixed => formatter.write_str("mixed"),
        }
    }
}

impl DemoDevice {
    /// What each of `peers` is to be asked for, and that in words. Devices that
    /// were not admitted yet are tested now.
    ///
    /// # Errors
    /// What was asked for is missing, refused, or computes something else; with advice.
    pub(super) fn of_peers(&self, peers: usize, cache: &Path) -> Result<(Vec<Wanted>, String), String> {
        match self {
            Self::All(wanted) => {
                let chosen = Chosen::choose(wanted, Some(cache))?;
                Ok((vec![settled(wanted, &chosen); peers], format!("all compute on {}", name(&chosen))))
            }
            Self::Mixed => {
                let best = Chosen::choose(&Wanted::Auto, Some(cache))?;
                let other = match best.device {
                    Some(_) => best,
                    None => Chosen::choose(&Wanted::Software, Some(cache))?,
                };
                let odd = settled(&Wanted::Software, &other);
                let of = |peer| if peer % 2 == 0 { Wanted::Native } else { odd.clone() };
                let said = format!("even ones compute natively, odd ones on {}", name(&other));
                Ok(((0..peers).map(of).collect(), said))
            }
        }
    }
}

fn name(chosen: &Chosen) -> String {
    format!("{} ({})", chosen.name(), chosen.kind())
}

/// The choice for a child, which need not look at every device again.
fn settled(wanted: &Wanted, chosen: &Chosen) -> Wanted {
    match (&chosen.device, wanted) {
        (None, _) => Wanted::Native,
        (Some(_), Wanted::Named(_)) => wanted.clone(),
        (Some(_), _) if chosen.kind() == "software" => Wanted::Software,
        (Some(_), _) => Wanted::Named(chosen.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_spelled_as_it_is_read() {
        for text in ["auto", "native", "gpu", "software", "mixed", "Radeon"] {
            assert_eq!(text.parse::<DemoDevice>().map(|device| device.to_string()), Ok(text.into()));
        }
        assert_eq!(DemoDevice::default().to_string(), "auto");
    }

    #[test]
    fn native_peers_need_no_device() {
        let cache = tempfile::tempdir().expect("a folder");
        let (devices, said) = DemoDevice::All(Wanted::Native).of_peers(3, cache.path()).expect("always there");
        assert_eq!(devices, vec![Wanted::Native; 3]);
        assert!(said.contains("native"), "{said}");
    }
}
