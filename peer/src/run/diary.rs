//! What this member did in a run, exchange by exchange, written down on request:
//! lines of JSON from which anybody can count which batches were learnt from.
//!
//! For checking, not for going on: it is not synced, and a line that cannot be
//! written is lost. A kill does not lose what was written before it.

use manta_protocol::run::ledger::{Ledger, Span};
use manta_protocol::run::view::{Fate, Role, View};
use manta_protocol::{PeerId, RunId, Time};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// The own values of an exchange are there, computed of these batches.
    Computed {
        at_ms: u64,
        exchange: u64,
        /// Number of the view whose plan was followed.
        plan: u32,
        batches: Vec<Span>,
    },
    /// The step that follows an exchange was made.
    Done {
        at_ms: u64,
        exchange: u64,
        /// The view that it ended in.
        view: u32,
        /// Whose batches count.
        contributors: Vec<PeerId>,
        ledger: Ledger,
    },
    /// A view came into force here.
    View {
        at_ms: u64,
        number: u32,
        plan: u32,
        /// The first exchange of its plan.
        from: u64,
        /// Whether exchanges from there on are made anew.
        fresh: bool,
        full: Vec<PeerId>,
        listeners: Vec<PeerId>,
    },
}

/// The diary of one run; silent unless it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    file: Option<File>,
}

impl Diary {
    /// Goes on with the diary of `run` in `folder`, if there is to be one.
    pub(crate) fn open(folder: Option<&Path>, run: RunId) -> Self {
        let file = folder.and_then(|folder| {
            let opened = std::fs::create_dir_all(folder)
                .and_then(|()| OpenOptions::new().create(true).append(true).open(folder.join(format!("{run}.jsonl"))));
            opened.inspect_err(|error| tracing::warn!(%error, "no diary of the run is kept")).ok()
        });
        Self { file }
    }

    /// Own values are there.
    pub(crate) fn computed(&mut self, at: Time, exchange: u64, plan: u32, batches: &[Span]) {
        self.write(|| Line::Computed { at_ms: at.as_unix_ms(), exchange, plan, batches: batches.to_vec() });
    }

    /// A step was made.
    pub(crate) fn exchange_done(&mut self, at: Time, exchange: u64, view: u32, of: &[PeerId], ledger: &Ledger) {
        let (contributors, ledger) = (of.to_vec(), ledger.clone());
        self.write(|| Line::Done { at_ms: at.as_unix_ms(), exchange, view, contributors, ledger });
    }

    /// A view came into force.
    pub(crate) fn view_changed(&mut self, at: Time, view: &View) {
        let of = |role: Role| {
            let members = view.members.iter().filter(|member| member.role == role);
            members.map(|member| member.contact.peer).collect()
        };
        self.write(|| Line::View {
            at_ms: at.as_unix_ms(),
            number: view.number,
            plan: view.plan,
            from: view.from,
            fresh: view.fate == Fate::Fresh,
            full: of(Role::Full),
            listeners: of(Role::Listener),
        });
    }

    fn write(&mut self, line: impl FnOnce() -> Line) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(&line()).map_err(std::io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            // In one call, so that a kill leaves whole lines.
            file.write_all(&line)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "the diary of the run ends here");
            self.file = None;
        }
    }
}

/// The lines of a diary, up to one that was cut off.
pub(crate) fn read(path: &Path) -> std::io::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId([1; 32]);

    #[test]
    fn what_was_written_is_read_and_a_torn_line_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let batches = [Span { first: 3, count: 2 }];
        let (ledger, me) = (Ledger::new(9), PeerId([2; 32]));
        let mut diary = Diary::open(Some(folder.path()), RUN);
        diary.computed(Time(5_000_000), 1, 0, &batches);
        // After a restart it goes on.
        let mut diary = Diary::open(Some(folder.path()), RUN);
        diary.exchange_done(Time(7_000_000), 1, 0, &[me], &ledger);
        let path = folder.path().join(format!("{RUN}.jsonl"));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"computed\":{\"at").unwrap();
        let expected = [
            Line::Computed { at_ms: 5, exchange: 1, plan: 0, batches: batches.to_vec() },
            Line::Done { at_ms: 7, exchange: 1, view: 0, contributors: vec![me], ledger },
        ];
        assert_eq!(read(&path).unwrap(), expected);
        Diary::open(None, RunId([7; 32])).computed(Time(0), 0, 0, &[]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nobody has asked for it");
    }
}
