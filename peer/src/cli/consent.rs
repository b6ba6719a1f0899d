//! Before private text leaves the user's own peers: what goes to whom, and is
//! that meant?

use super::{Error, format};
use crate::api::OrderRequest;
use crate::data::corpus;
use crate::status::{Relation, Status};
use manta_protocol::market::demand::Share;
use std::io::{BufRead, IsTerminal as _, Write as _};

/// Other peers that are named one by one.
const NAMED_MAX: usize = 8;

/// Asks before an order whose text, or the model it goes on from, may go to others; `yes` was said on the
/// command line. The built-in text is public, and goes anywhere.
///
/// # Errors
/// When the user says no, or cannot be asked; and what is wrong with the text.
pub(super) fn ask(request: &OrderRequest, yes: bool, status: &Status) -> Result<(), Error> {
    if request.share == Share::Own {
        return Ok(());
    }
    match (&request.data, &request.basis.from) {
        (None, None) => return Ok(()),
        (Some(path), _) => {
            let name = path.to_str().ok_or_else(|| format!("{}: the path is not UTF-8; rename it", path.display()))?;
            let text = corpus::read(name)?;
            let (bytes, files) = (text.bytes.len() as u64, text.sources.files());
            drop(text);
            eprintln!("{}", warning(request.share, name, bytes, files, status));
        }
        (None, Some(_)) => {}
    }
    if let Some(from) = &request.basis.from {
        eprintln!("The model in {} goes to every member of the run, too, and members can keep it.", from.display());
    }
    confirm(yes, "say --yes if the text may leave your own peers", "nothing was sent")
}

/// Asks whether to go on, unless `yes` was said on the command line.
///
/// # Errors
/// With `advice` if nobody can be asked, and with `refused` if the answer is no.
pub(super) fn confirm(yes: bool, advice: &str, refused: &str) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(format!("nobody can be asked here; {advice}").into());
    }
    eprint!("Go on? [y/N] ");
    std::io::stderr().flush()?;
    if agrees(&mut stdin.lock())? { Ok(()) } else { Err(refused.into()) }
}

/// Only a clear yes is one.
fn agrees(input: &mut impl BufRead) -> std::io::Result<bool> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn warning(share: Share, name: &str, bytes: u64, files: usize, status: &Status) -> String {
    let network = &status.network;
    let (flag, whom) = match share {
        Share::Open => ("open", format!("anyone in the swarm `{network}`")),
        Share::Invited => {
            ("invited", format!("anyone whom you, or the founder of the swarm `{network}`, have invited"))
        }
        Share::Own => ("own", "your own peers".into()),
    };
    let others = status.listings.iter().filter(|listing| match listing.relation {
        Relation::Itself | Relation::Own => false,
        Relation::Invited => true,
        Relation::Stranger => share == Share::Open,
    });
    let others: Vec<_> = others.map(|listing| format::short(&listing.peer)).collect();
    let mut named = others.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    if others.len() > NAMED_MAX {
        named.push_str(&format!(" and {} more", others.len() - NAMED_MAX));
    }
    let now = if others.is_empty() { "nobody but your own peers".into() } else { named };
    let files = if files == 1 { "1 file".into() } else { format!("{files} files") };
    format!(
        "--share {flag}: all {} of {name} ({files}) go to every member of the run, which may be {whom}.\n\
         Members keep a copy and can read it. On offer now, besides your own: {now}.",
        format::bytes(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ListingStatus;

    fn status() -> Status {
        let listing = |peer: &str, relation| ListingStatus { peer: peer.into(), relation, ..ListingStatus::default() };
        Status {
            network: "lab".into(),
            listings: vec![
                listing("aaaaaaaa00", Relation::Itself),
                listing("bbbbbbbb00", Relation::Own),
                listing("cccccccc00", Relation::Invited),
                listing("dddddddd00", Relation::Stranger),
            ],
            ..Status::default()
        }
    }

    #[test]
    fn the_warning_says_what_goes_to_whom() {
        let open = warning(Share::Open, "diary.txt", 6_100_000, 1, &status());
        for part in ["6.1 MB of diary.txt (1 file)", "anyone in the swarm `lab`", "cccccccc, dddddddd"] {
            assert!(open.contains(part), "`{part}` in {open}");
        }
        assert!(!open.contains("bbbbbbbb") && !open.contains("aaaaaaaa"), "{open}");
        let invited = warning(Share::Invited, "diary.txt", 10, 3, &status());
        assert!(invited.contains("cccccccc") && !invited.contains("dddddddd"), "{invited}");
        assert!(warning(Share::Open, "x", 1, 1, &Status::default()).contains("nobody but your own"));
        let many = vec![ListingStatus { peer: "eeeeeeee".into(), ..ListingStatus::default() }; 10];
        let crowd = Status { listings: many, ..Status::default() };
        assert!(warning(Share::Open, "x", 1, 1, &crowd).contains("and 2 more"));
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        for (answer, expected) in [("y\n", true), (" YES \n", true), ("\n", false), ("", false), ("yo\n", false)] {
            assert_eq!(agrees(&mut answer.as_bytes()).expect("reads"), expected, "{answer:?}");
        }
    }
}
