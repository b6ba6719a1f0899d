//! Where a process is to die: a test aid, hidden in `manta up --die-at`.
//!
//! What must be durable goes through numbered steps, and a crash between any two
//! of them has to be survived. Of a process that was told so the chosen step ends
//! it, as `kill -9` does: no destructor runs, nothing is flushed, nothing is said.
//! A process that was not told passes each step with one comparison.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::str::FromStr;

/// What is being made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A document that appears as a whole, under a name of its own.
    Document,
    /// A former ledger that gives way.
    Former,
    /// A file for blocks to come.
    File,
    Block,
    /// A record of the consensus log.
    Log,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// What it takes the place of is gone.
    Cleared,
    /// Nothing of it is written.
    Begun,
    /// Half of it is written.
    Torn,
    /// All of it is written, nothing synced.
    Written,
    /// It is synced; what follows from it was not done.
    Synced,
    /// It has its name, which is not synced.
    Named,
}

/// A point at which a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    what: What,
    step: Step,
}

/// All points there are.
pub(crate) const POINTS: [(&str, What, Step); 16] = [
    ("document-begun", What::Document, Step::Begun),
    ("document-torn", What::Document, Step::Torn),
    ("document-written", What::Document, Step::Written),
    ("document-synced", What::Document, Step::Synced),
    ("document-named", What::Document, Step::Named),
    ("former-named", What::Former, Step::Named),
    ("file-named", What::File, Step::Named),
    ("block-begun", What::Block, Step::Begun),
    ("block-torn", What::Block, Step::Torn),
    ("block-written", What::Block, Step::Written),
    ("block-synced", What::Block, Step::Synced),
    ("log-cleared", What::Log, Step::Cleared),
    ("log-begun", What::Log, Step::Begun),
    ("log-torn", What::Log, Step::Torn),
    ("log-written", What::Log, Step::Written),
    ("log-synced", What::Log, Step::Synced),
];

/// A point, and how often it is passed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    at: Point,
    passes_left: u64,
}

impl FromStr for Death {
    type Err = String;

    /// `block-torn`, or `block-torn:3` to pass it three times before.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, passes) = text.split_once(':').unwrap_or((text, "0"));
        let point = POINTS.iter().find(|(known, ..)| *known == name);
        match (point, passes.parse()) {
            (Some((_, what, step)), Ok(passes_left)) => {
                Ok(Self { at: Point { what: *what, step: *step }, passes_left })
            }
            _ => {
                let names = POINTS.map(|(name, ..)| name).join(", ");
                Err(format!("expected a point, and `:` with a number of passes; points: {names}"))
            }
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = POINTS.iter().find(|(_, what, step)| (*what, *step) == (self.what, self.step));
        f.write_str(name.map_or("a point without a name", |(name, ..)| name))
    }
}

/// What a store passes on its way; see the module.
#[derive(Debug, Default)]
pub(crate) struct FaultPoint(Option<Death>);

impl FaultPoint {
    /// One at which this process dies, if it was told to.
    pub(crate) fn new(death: Option<Death>) -> Self {
        Self(death)
    }

    /// A step is reached.
    pub(crate) fn pass(&mut self, what: What, step: Step) {
        if self.0.is_none() {
            return;
        }
        if self.is_last(what, step) {
            die(Point { what, step });
        }
        if let Some(death) = &mut self.0
            && death.at == (Point { what, step })
        {
            death.passes_left -= 1;
        }
    }

    /// Writes `bytes`, with the steps before and after.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, what: What, file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        self.pass(what, Step::Begun);
        if self.is_last(what, Step::Torn) {
            file.write_all(&bytes[..bytes.len() / 2])?;
        }
        self.pass(what, Step::Torn);
        file.write_all(bytes)?;
        self.pass(what, Step::Written);
        Ok(())
    }

    /// Writes `bytes` and syncs them, with the steps before and after.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write_synced(&mut self, what: What, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        self.write(what, file, bytes)?;
        file.sync_data()?;
        self.pass(what, Step::Synced);
        Ok(())
    }

    fn is_last(&self, what: What, step: Step) -> bool {
        self.0 == Some(Death { at: Point { what, step }, passes_left: 0 })
    }
}

fn die(at: Point) -> ! {
    eprintln!("dies at {at}, as it was told to");
    #[cfg(unix)]
    {
        use rustix::process::{Signal, getpid, kill_process};
        // It cannot be caught; should it fail, what follows ends the process, too.
        let _ = kill_process(getpid(), Signal::KILL);
    }
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_as_they_are_spelled() {
        for (name, what, step) in POINTS {
            let at = Point { what, step };
            assert_eq!(at.to_string(), name, "each name once");
            assert_eq!(name.parse(), Ok(Death { at, passes_left: 0 }));
            assert_eq!(format!("{name}:7").parse(), Ok(Death { at, passes_left: 7 }));
        }
        for wrong in ["", "block", "block-torn:", "block-torn:-1", "log-named"] {
            let refused = wrong.parse::<Death>();
            assert!(refused.as_ref().is_err_and(|error| error.contains("block-torn, ")), "{wrong}: {refused:?}");
        }
    }

    #[test]
    fn only_the_chosen_step_counts_and_what_is_written_is_whole_until_then() {
        let mut fault = FaultPoint::new("block-torn:2".parse().ok());
        let mut file = Vec::new();
        for part in ["first", "second"] {
            fault.pass(What::Log, Step::Torn);
            fault.write(What::Block, &mut file, part.as_bytes()).unwrap();
        }
        assert_eq!((file, fault.is_last(What::Block, Step::Torn)), (b"firstsecond".to_vec(), true));
        let mut never = FaultPoint::default();
        for (_, what, step) in POINTS {
            never.pass(what, step);
        }
    }
}
