//! Scenario files: a history's options and faults, as TOML. An unknown key is
//! an error that names it and what is accepted.

use crate::faults::{FAULTS_MAX, Kind, When};
use crate::options::{Choice, FaultWish, Faults, Links, Mode, Options};
use crate::tamper::Break;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::Path;

/// Longest scenario file, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// A scenario as it is written. All keys may be left out; the seed then chooses.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Scenario {
    /// What it shows, for people.
    #[serde(rename = "about")]
    _about: String,
    seed: Option<u64>,
    peers: Option<usize>,
    members: Option<u16>,
    members_max: Option<u16>,
    rounds: Option<u32>,
    steps_per_round: Option<u32>,
    orders: Option<usize>,
    mode: Option<Mode>,
    solo: Option<bool>,
    links: Links,
    faults: Option<Which>,
    fault: Vec<FaultTable>,
    #[serde(rename = "break")]
    broken: Option<Break>,
}

/// Faults without times: `"drawn"`, or a list of kinds.
#[derive(Debug)]
pub(crate) enum Which {
    Drawn,
    Kinds(Vec<Kind>),
}

/// One fault.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FaultTable {
    kind: Kind,
    at_ms: Option<Written>,
    exchange: Option<u64>,
    after_ms: Option<u64>,
    #[serde(default)]
    hosts: Vec<usize>,
    lasts_ms: Option<Written>,
    noticed: Option<bool>,
}

/// A number, or the word `drawn`.
#[derive(Clone, Copy, Debug)]
struct Written(Choice);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrDrawn;
        impl Visitor<'_> for NumberOrDrawn {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of milliseconds, or \"drawn\"")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Written, E> {
                let number = u64::try_from(number)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))?;
                Ok(Written(Choice::Given(number)))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Written, E> {
                Ok(Written(Choice::Given(number)))
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Written, E> {
                match word {
                    "drawn" => Ok(Written(Choice::Drawn)),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(NumberOrDrawn)
    }
}

impl<'de> Deserialize<'de> for Which {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DrawnOrKinds;
        impl<'de> Visitor<'de> for DrawnOrKinds {
            type Value = Which;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"drawn\", \"none\", or a list of kinds of fault")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Which, E> {
                match word {
                    "drawn" => Ok(Which::Drawn),
                    "none" => Ok(Which::Kinds(Vec::new())),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Which, A::Error> {
                let mut kinds = Vec::new();
                while let Some(kind) = list.next_element()? {
                    if kinds.len() >= FAULTS_MAX {
                        return Err(A::Error::custom(format!("more than {FAULTS_MAX} faults")));
                    }
                    kinds.push(kind);
                }
                Ok(Which::Kinds(kinds))
            }
        }
        deserializer.deserialize_any(DrawnOrKinds)
    }
}

impl FaultTable {
    pub(crate) fn wish(self) -> Result<FaultWish, String> {
        let when = match (self.at_ms, self.exchange) {
            (Some(_), Some(_)) => return Err("a fault has at-ms or exchange, not both".into()),
            (Some(Written(Choice::Given(ms))), None) => Some(When::AtMs(ms)),
            (Some(Written(Choice::Drawn)) | None, None) => None,
            (None, Some(exchange)) => Some(When::Exchange { exchange, after_ms: self.after_ms.unwrap_or(0) }),
        };
        if self.after_ms.is_some() && self.exchange.is_none() {
            return Err("after-ms counts from an exchange: say which".into());
        }
        let lasts_ms = self.lasts_ms.map(|Written(choice)| choice);
        Ok(FaultWish { kind: self.kind, when, hosts: self.hosts, lasts_ms, noticed: self.noticed })
    }
}

/// The options that a scenario's text gives.
///
/// # Errors
/// Where the text is wrong, and what is accepted there.
pub fn parse(text: &str) -> Result<Options, String> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
    let listed = scenario.fault.into_iter().map(FaultTable::wish).collect::<Result<Vec<_>, _>>()?;
    let faults = match (scenario.faults, listed.is_empty()) {
        (Some(_), false) => return Err("either faults = … or [[fault]] tables, not both".into()),
        (Some(Which::Drawn), true) => Some(Faults::Drawn),
        (Some(Which::Kinds(kinds)), true) => Some(Faults::Kinds(kinds)),
        (None, false) => Some(Faults::Listed(listed)),
        (None, true) => None,
    };
    Ok(Options {
        seed: scenario.seed.unwrap_or(1),
        words: Vec::new(),
        peers: scenario.peers,
        members: scenario.members,
        members_max: scenario.members_max,
        rounds: scenario.rounds,
        steps_per_round: scenario.steps_per_round,
        orders: scenario.orders,
        mode: scenario.mode,
        solo: scenario.solo,
        links: scenario.links,
        faults,
        broken: scenario.broken,
    })
}

/// The options that a scenario file gives.
///
/// # Errors
/// The file cannot be read, or what is wrong in it.
pub fn read(path: &Path) -> Result<Options, String> {
    parse(&read_text(path)?).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// The text of a scenario file.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let in_file = |problem: String| format!("{}: {problem}", path.display());
    let length = std::fs::metadata(path).map_err(|error| in_file(error.to_string()))?.len();
    if length > BYTES_MAX {
        return Err(in_file(format!("{length} bytes, a scenario has at most {BYTES_MAX}")));
    }
    std::fs::read_to_string(path).map_err(|error| in_file(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_says_what_it_wants_and_leaves_the_rest_open() {
        let options = parse(
            "about = \"an example\"\nseed = 7\npeers = 4\nmode = \"local-steps\"\n[links]\nlatency-us = 200\n\
             [[fault]]\nkind = \"kill\"\nexchange = 2\nafter-ms = 5\nhosts = [1]\nlasts-ms = \"drawn\"\n\
             [[fault]]\nkind = \"partition\"\nat-ms = \"drawn\"\n",
        )
        .expect("it is right");
        assert_eq!((options.seed, options.peers, options.rounds), (7, Some(4), None));
        assert_eq!((options.mode, options.links.latency_us), (Some(Mode::LocalSteps), Some(200)));
        let Some(Faults::Listed(faults)) = &options.faults else { panic!("{options:?}") };
        assert_eq!(faults[0].when, Some(When::Exchange { exchange: 2, after_ms: 5 }));
        assert_eq!((faults[0].lasts_ms, faults[1].when), (Some(Choice::Drawn), None));
        assert_eq!(
            parse("faults = [\"kill\", \"join\"]").unwrap().faults,
            Some(Faults::Kinds(vec![Kind::Kill, Kind::Join]))
        );
        options.resolve().expect("possible");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        for (text, named) in [
            ("peer = 4", ["unknown field `peer`", "`peers`"]),
            ("[links]\nlatency = 4", ["unknown field `latency`", "`latency-us`"]),
            ("[[fault]]\nkind = \"explode\"", ["unknown variant `explode`", "`power-cut`"]),
            ("[[fault]]\nkind = \"kill\"\nwhen = 3", ["unknown field `when`", "`at-ms`"]),
            ("[[fault]]\nkind = \"kill\"\nat-ms = \"soon\"", ["\"soon\"", "\"drawn\""]),
            ("[[fault]]\nkind = \"kill\"\nat-ms = 1\nexchange = 1", ["at-ms or exchange", "not both"]),
            ("faults = \"many\"", ["\"many\"", "\"drawn\""]),
            ("mode = \"fast\"", ["unknown variant `fast`", "`every-step`"]),
        ] {
            let error = parse(text).expect_err(text);
            assert!(named.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
