//! `manta ledger recover`: people replace a committee that has left for good.

use super::consent::confirm;
use super::ledger::{JsonArgs, id};
use super::{Error, format};
use crate::http::client::PeerClient;
use crate::recovery::{RecoveryAnswer, RecoveryDocument, RecoveryRequest};
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Longest file that is read, in bytes: a committee of 200 fits four times.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Replace a committee that has left for good.
#[derive(Args, Debug)]
#[command(after_help = "\
A block needs more than two thirds of the committee's weight. Where so much is
away the ledger waits, and goes on by itself when it is back: it never replaces
its committee, for in a divided network both sides would. Only if the missing
members will never come back, the owners of those who are left agree on a new
committee:

  1. One of them makes a plan, of the members that are there, or of others:
       manta ledger recover propose --out recovery.json
  2. The file goes to the owner of each new member in turn, who consents:
       manta ledger recover accept recovery.json
  3. With the last consent that peer follows the recovery, and the other new
     members follow it when they hear of it. All other peers are told, and go on
     once their owners say so, by the file or by its name:
       manta ledger recover accept 3f9a01c2

Agree on one recovery, and be sure that the others do not go on somewhere else:
two recoveries, or one beside a committee that still decides, make two ledgers
of one, which never merge again.")]
pub(super) struct RecoverArgs {
    #[command(subcommand)]
    command: RecoverCommand,
}

#[derive(Debug, Subcommand)]
enum RecoverCommand {
    /// Make a plan for a new committee, with this peer's consent if it is in it
    Propose(ProposeArgs),
    /// Consent to a plan, or follow what all of its members have consented to
    Accept(AcceptArgs),
}

#[derive(Args, Debug)]
struct ProposeArgs {
    /// The file that the plan is written to; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A new member: a peer's id, or the beginning of one that is registered
    /// [default: members of the present committee that were heard lately]
    #[arg(long = "member", value_name = "PEER", value_parser = id)]
    members: Vec<String>,
    #[command(flatten)]
    print: JsonArgs,
}

#[derive(Args, Debug)]
struct AcceptArgs {
    /// The file of a plan, which gets this peer's consent; or the name of a recovery
    /// that others follow, or the beginning of it (`manta ledger status` lists them)
    #[arg(value_name = "FILE|NAME")]
    what: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    print: JsonArgs,
}

pub(super) async fn run(arguments: RecoverArgs, client: &PeerClient) -> Result<(), Error> {
    match arguments.command {
        RecoverCommand::Propose(arguments) => propose(arguments, client).await,
        RecoverCommand::Accept(arguments) => accept(arguments, client).await,
    }
}

async fn propose(arguments: ProposeArgs, client: &PeerClient) -> Result<(), Error> {
    let ProposeArgs { out, members, print } = arguments;
    if out.exists() {
        return Err(format!("{} exists; name another file with --out", out.display()).into());
    }
    let answer = client.recover(&RecoveryRequest::Propose { members }).await?;
    write(&out, &answer.document)?;
    print.print(&answer, |answer| proposed_text(answer, &out))
}

async fn accept(arguments: AcceptArgs, client: &PeerClient) -> Result<(), Error> {
    let AcceptArgs { what, yes, print } = arguments;
    let path = Path::new(&what);
    let file = path.exists().then_some(path);
    let (document, request) = match (file, id(&what)) {
        (Some(path), _) => {
            let document = read(path)?;
            (document.clone(), RecoveryRequest::Accept { document })
        }
        (None, Ok(recovery)) => (offered(client, &recovery).await?, RecoveryRequest::AcceptOffered { recovery }),
        (None, Err(_)) => return Err(format!("{what}: there is no such file, and it is no name of a recovery").into()),
    };
    // What is shown is what was signed, not what a file says that it is.
    document.read().map_err(|problem| format!("{what}: {problem}"))?;
    eprintln!("{}", plan_text(&document));
    confirm(yes, "say --yes if this peer is to go on with that committee", "nothing was done")?;
    let answer = client.recover(&request).await?;
    if let Some(path) = file.filter(|_| answer.document != document) {
        write(path, &answer.document)?;
    }
    print.print(&answer, |answer| accepted_text(answer, &what))
}

/// The recovery of this name that others follow.
async fn offered(client: &PeerClient, name: &str) -> Result<RecoveryDocument, Error> {
    let ledger = client.status().await?.ledger.ok_or("this peer has no ledger yet; see `manta status`")?;
    let found = ledger.recoveries_offered.into_iter().find(|offer| offer.recovery.starts_with(name));
    Ok(found.ok_or_else(|| {
        format!("no recovery `{name}` is followed by others; `manta ledger status` lists those that are")
    })?)
}

fn read(path: &Path) -> Result<RecoveryDocument, Error> {
    let fail = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{} is no recovery: it is longer than {FILE_BYTES_MAX} bytes", path.display()).into());
    }
    Ok(serde_json::from_str(&text).map_err(|error| format!("{} is no recovery: {error}", path.display()))?)
}

/// The file appears whole or stays as it was: it may hold others' consents.
fn write(path: &Path, document: &RecoveryDocument) -> Result<(), Error> {
    let text = format!("{}\n", serde_json::to_string_pretty(document)?);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error).map(drop)
    };
    Ok(write().map_err(|error| format!("cannot write {}: {error}", path.display()))?)
}

/// What a recovery says, in short.
pub(super) fn plan_text(document: &RecoveryDocument) -> String {
    let RecoveryDocument { recovery, ledger, height, members, .. } = document;
    let total = members.iter().map(|member| u128::from(member.weight)).sum::<u128>().max(1);
    let mut text = format!(
        "recovery    {recovery}\nledger      {ledger}\nfrom block  {height} on these decide, and nobody else:\n"
    );
    for member in members {
        let share = u128::from(member.weight) * 100 / total;
        let consent = if member.consent.is_some() { "" } else { ", has not consented yet" };
        // Writing into a string does not fail.
        let _ = writeln!(text, "  {}  {share} % of the weight{consent}", member.peer);
    }
    text.truncate(text.trim_end().len());
    text
}

fn missing_text(answer: &RecoveryAnswer, file: &str) -> String {
    let names: Vec<_> = answer.missing.iter().map(|peer| format::short(peer)).collect();
    match names.as_slice() {
        [] => format!(
            "All have consented. To follow it, here and on other peers:\n  manta ledger recover accept {file}\n"
        ),
        names => format!(
            "Now the owners of {}, one after the other:\n  manta ledger recover accept {file}\n",
            names.join(", ")
        ),
    }
}

fn proposed_text(answer: &RecoveryAnswer, out: &Path) -> String {
    let RecoveryAnswer { document, backing_permille, .. } = answer;
    let out = out.display().to_string();
    format!(
        "{}\nThey had {:.1} % of the former committee's weight. If the others are not gone for good but only cut off,\n\
         this makes two ledgers of one.\n\nThe plan is in {out}. {}",
        plan_text(document),
        *backing_permille as f64 / 10.0,
        missing_text(answer, &out)
    )
}

fn accepted_text(answer: &RecoveryAnswer, what: &str) -> String {
    let name = format::short(&answer.document.recovery);
    if answer.followed {
        return format!(
            "This peer follows the recovery {name} from block {} on; `manta ledger status` shows how it goes on.\n\
             Others that are connected hear of it; their owners accept it by `manta ledger recover accept {name}`.\n",
            answer.document.height
        );
    }
    format!("This peer has consented to the recovery {name}. {}", missing_text(answer, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::RecoveryMember;

    fn document() -> RecoveryDocument {
        let member = |peer: &str, weight, consent: Option<&str>| RecoveryMember {
            peer: peer.into(),
            weight,
            consent: consent.map(Into::into),
        };
        let members = vec![member("aaaaaaaa00", 30, Some("ff")), member("bbbbbbbb00", 10, None)];
        RecoveryDocument { recovery: "cccccccc00".into(), height: 12, members, ..RecoveryDocument::default() }
    }

    #[test]
    fn people_see_what_they_consent_to_and_what_comes_next() {
        let missing = vec!["bbbbbbbb00".to_owned()];
        let mut answer = RecoveryAnswer { document: document(), missing, followed: false, backing_permille: 400 };
        let text = proposed_text(&answer, Path::new("r.json"));
        for part in
            ["from block  12", "75 % of the weight\n", "bbbbbbbb00  25 % of the weight, has not", "40.0 %", "r.json"]
        {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
        assert!(accepted_text(&answer, "r.json").contains("owners of bbbbbbbb, one after the other"));
        answer.missing.clear();
        assert!(accepted_text(&answer, "r.json").contains("All have consented"));
        answer.followed = true;
        assert!(accepted_text(&answer, "r.json").contains("follows the recovery cccccccc from block 12"));
    }

    #[test]
    fn a_file_comes_back_and_something_else_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.json");
        write(&path, &document()).expect("it is written");
        write(&path, &document()).expect("and replaced");
        assert_eq!(read(&path).expect("it is read"), document());
        std::fs::write(&path, "{}").expect("it is replaced");
        assert!(read(&path).is_err_and(|error| error.to_string().contains("is no recovery")));
        std::fs::write(&path, vec![b' '; FILE_BYTES_MAX as usize + 9]).expect("it is replaced");
        assert!(read(&path).is_err_and(|error| error.to_string().contains("longer than")));
        assert!(read(&folder.path().join("none")).is_err_and(|error| error.to_string().contains("cannot read")));
    }
}
