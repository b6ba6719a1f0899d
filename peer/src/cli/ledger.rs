//! `manta ledger`.

use super::{Error, format, recover};
use crate::account::{
    AccountView, BlockView, LedgerStatus, Question, RecentBlock, ReliabilityView, TransactionView, TransferRequest,
    Transferred,
};
use crate::api::PeerFile;
use crate::http::client::PeerClient;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// Blocks that are shown.
const BLOCKS_SHOWN: usize = 5;

/// Look at the ledger that the swarm agrees on, and move credits.
#[derive(Args, Debug)]
#[command(after_help = "\
The ledger is a chain of small blocks. It keeps who has which power, proven by
drills that several peers do alike (`manta drill`, `manta power`), and accounts
in credits that agreed drills and blocks are rewarded with.

Examples:
  manta ledger status                   where it stands, who decides, who is missing
  manta ledger block 12                 one block, its transactions, who signed it
  manta ledger account                  what this peer has
  manta ledger transfer PEER 0.5        give half a credit to another peer
  manta ledger recover --help           if most of the committee has left for good")]
pub(super) struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Where the ledger stands, who decides on it, who is missing
    Status(JsonArgs),
    /// One block: what is in it and who has signed it
    Block(BlockArgs),
    /// What a peer has
    Account(AccountArgs),
    /// Where a transaction is
    Tx(TxArgs),
    /// Give credits to another peer
    Transfer(TransferArgs),
    /// Replace a committee that has left for good
    Recover(recover::RecoverArgs),
}

#[derive(Args, Debug)]
pub(super) struct JsonArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct BlockArgs {
    /// Which block, from 1
    height: u64,
    #[command(flatten)]
    print: JsonArgs,
}

#[derive(Args, Debug)]
struct AccountArgs {
    /// A peer's id, or the beginning of one [default: this peer]
    #[arg(value_parser = id)]
    peer: Option<String>,
    #[command(flatten)]
    print: JsonArgs,
}

#[derive(Args, Debug)]
struct TxArgs {
    /// A transaction's id, or the beginning of one; `manta ledger block` and
    /// `manta ledger transfer` print them
    #[arg(value_name = "ID", value_parser = id)]
    id: String,
    #[command(flatten)]
    print: JsonArgs,
}

#[derive(Args, Debug)]
struct TransferArgs {
    /// Whose account: a peer's id, or the beginning of one that is registered
    #[arg(value_parser = id)]
    peer: String,
    /// How much, in credits, as in `2` or `0.25`
    #[arg(value_parser = micro_credits)]
    amount: u64,
    #[command(flatten)]
    print: JsonArgs,
}

/// An id or the beginning of one.
pub(super) fn id(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("expected an id, or the beginning of one, in hexadecimal; `manta ledger status` lists peers".into());
    }
    Ok(text.to_ascii_lowercase())
}

/// Credits with at most six places after the point, as millionths.
fn micro_credits(text: &str) -> Result<u64, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let read = || {
        let micro: u64 = if part.is_empty() { 0 } else { format!("{part:0<6}").parse().ok()? };
        whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micro)
    };
    match read() {
        Some(micro) if micro > 0 && part.len() <= 6 && is_number(whole) && is_number(part) => Ok(micro),
        _ => Err("expected more than 0 credits, with at most six places after the point, as in `2` or `0.25`".into()),
    }
}

pub(super) async fn run(arguments: LedgerArgs, data_dir: &Path) -> Result<(), Error> {
    let client = PeerClient::of(&PeerFile::read(data_dir)?);
    match arguments.command {
        LedgerCommand::Status(print) => {
            let ledger = client.status().await?.ledger.filter(|ledger| !ledger.ledger.is_empty());
            let ledger = ledger.ok_or(
                "this peer has no ledger yet: it founds one after some seconds, or follows that of the peers it finds; \
                 see `manta status`",
            )?;
            print.print(&ledger, status_text)
        }
        LedgerCommand::Block(BlockArgs { height, print }) => {
            print.print(&client.ledger::<BlockView>(&Question::Block(height)).await?, block_text)
        }
        LedgerCommand::Account(AccountArgs { peer, print }) => {
            let question = Question::Account(peer.unwrap_or_default());
            print.print(&client.ledger::<AccountView>(&question).await?, account_text)
        }
        LedgerCommand::Tx(TxArgs { id, print }) => {
            print.print(&client.ledger::<TransactionView>(&Question::Transaction(id)).await?, transaction_text)
        }
        LedgerCommand::Recover(arguments) => recover::run(arguments, &client).await,
        LedgerCommand::Transfer(TransferArgs { peer, amount, print }) => {
            let sent = client.transfer(&TransferRequest { to: peer, amount }).await?;
            print.print(&sent, |Transferred { transaction }| {
                format!(
                    "{} credits are on their way in transaction {transaction}\nTo see when a block has it:\n  \
                     manta ledger tx {}\n",
                    credits(amount),
                    format::short(transaction)
                )
            })
        }
    }
}

impl JsonArgs {
    pub(super) fn print<T: Serialize>(&self, view: &T, text: impl Fn(&T) -> String) -> Result<(), Error> {
        print(self.json, view, text)
    }
}

/// Prints a view as JSON or as text.
///
/// # Errors
/// When standard output is closed.
pub(super) fn print<T: Serialize>(json: bool, view: &T, text: impl Fn(&T) -> String) -> Result<(), Error> {
    let text = if json { format!("{}\n", serde_json::to_string(view)?) } else { text(view) };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Millionths of a credit, for people.
pub(super) fn credits(micro: u64) -> String {
    let text = format!("{}.{:06}", format::grouped(micro / 1_000_000), micro % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The ledger in short, as `manta status` shows it, too.
pub(super) fn write_summary(text: &mut String, ledger: &LedgerStatus) -> std::fmt::Result {
    let LedgerStatus { height, epoch_ms, committee, drills, waiting, balance, own, .. } = ledger;
    writeln!(
        text,
        "  {}  block {height}, one each {:.1} s, {} in the committee",
        format::short(&ledger.ledger),
        *epoch_ms as f64 / 1e3,
        committee.len()
    )?;
    writeln!(
        text,
        "  drills: {} agreed, {} trusted, {} disputed, {} open; {} faults",
        drills.agreed, drills.trusted, drills.disputed, drills.open, drills.faults
    )?;
    match own {
        Some(own) => writeln!(
            text,
            "  this peer: power {:.6}, weight {}, {} credits",
            own.effective_power,
            own.weight,
            credits(*balance)
        )?,
        None if ledger.follows_only => writeln!(text, "  this peer only follows (--drill-share 0)")?,
        None => writeln!(text, "  this peer is not registered yet")?,
    }
    if let Some(waiting) = waiting {
        writeln!(text, "  WAITS: {waiting}")?;
    }
    write_split(text, "  DIFFERS: ", ledger)?;
    Ok(())
}

/// Names both ledgers of a swarm that has two, and asks for a decision.
fn write_split(text: &mut String, label: &str, ledger: &LedgerStatus) -> std::fmt::Result {
    let Some(theirs) = &ledger.other_ledger else { return Ok(()) };
    writeln!(
        text,
        "{label}this peer keeps the ledger {}, others of this swarm keep {} or follow a recovery of that name; the two never \
         merge by themselves: agree on one; those who keep the other stop, move the folder `ledger` of their data away, and \
         start again",
        format::short(&ledger.ledger),
        format::short(theirs)
    )
}

fn status_text(ledger: &LedgerStatus) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = write_status(&mut text, ledger);
    text
}

fn write_status(text: &mut String, ledger: &LedgerStatus) -> std::fmt::Result {
    writeln!(text, "ledger      {}  ({})", ledger.ledger, ledger.name)?;
    writeln!(
        text,
        "block       {} of {}, one each {:.1} s",
        ledger.height,
        age(ledger.time_ms),
        ledger.epoch_ms as f64 / 1e3
    )?;
    writeln!(text, "state root  {}", ledger.state_root)?;
    writeln!(text, "supply      {} credits made, {} taken out", credits(ledger.minted), credits(ledger.burned))?;
    let drills = &ledger.drills;
    writeln!(
        text,
        "drills      {} agreed, {} trusted, {} disputed, {} void, {} expired, {} open; {} faults",
        drills.agreed, drills.trusted, drills.disputed, drills.void, drills.expired, drills.open, drills.faults
    )?;
    if let Some(waiting) = &ledger.waiting {
        writeln!(text, "WAITS       {waiting}")?;
    }
    write_chains(text, ledger)?;
    let total: u64 = ledger.committee.iter().map(|member| member.weight).fold(0, u64::saturating_add);
    writeln!(text, "\nCommittee: a block needs weight {} of {total}", ledger.quorum_weight)?;
    for member in &ledger.committee {
        let away = if member.connected { "" } else { "  not connected" };
        writeln!(text, "  {}  weight {}{away}", format::short(&member.peer), member.weight)?;
    }
    writeln!(text, "\nPeers by weight: {}", ledger.standings.len())?;
    for peer in &ledger.standings {
        let own = ledger.own.as_ref().is_some_and(|own| own.peer == peer.peer);
        let marks = [(own, " (this peer)"), (peer.standby, " standing by"), (peer.faults > 0, " has lied or failed")];
        let marks: String = marks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark).collect();
        writeln!(
            text,
            "  {}  weight {}  power {:.6}  reliability {}{marks}",
            format::short(&peer.peer),
            peer.weight,
            peer.effective_power,
            reliability(&peer.reliability)
        )?;
    }
    if !ledger.faults.is_empty() {
        writeln!(text, "\nFaults")?;
    }
    for fault in &ledger.faults {
        let task = fault.task.as_deref().map_or("", format::short);
        writeln!(
            text,
            "  {}  {} {task} in block {}: lost {:.6} power",
            format::short(&fault.peer),
            fault.kind,
            fault.height,
            fault.lost
        )?;
    }
    writeln!(text, "\nLatest blocks")?;
    for block in ledger.recent.iter().rev().take(BLOCKS_SHOWN) {
        let RecentBlock { height, proposer, transactions, state_root, .. } = block;
        let (proposer, root) = (format::short(proposer), format::short(state_root));
        writeln!(text, "  {height}  by {proposer}, {transactions} transactions, state {root}")?;
    }
    Ok(())
}

/// Recoveries that are followed here and elsewhere, and what cannot be followed any more.
fn write_chains(text: &mut String, ledger: &LedgerStatus) -> std::fmt::Result {
    if let Some(recovery) = &ledger.recovery {
        writeln!(text, "recovery    {recovery}")?;
    }
    for offer in &ledger.recoveries_offered {
        writeln!(text, "\nOFFERED: others go on with this ledger under another committee, this peer does not")?;
        writeln!(text, "{}", recover::plan_text(offer))?;
        let name = format::short(&offer.recovery);
        writeln!(text, "If it is what the owners have agreed on:\n  manta ledger recover accept {name}")?;
    }
    write_split(text, "DIFFERS     ", ledger)
}

/// How often a peer was there when it was wanted, for people.
pub(super) fn reliability(of: &ReliabilityView) -> String {
    let ReliabilityView { permille, probes, probes_answered, leases, leases_kept } = of;
    let Some(permille) = permille else { return "not probed or leased yet".into() };
    let percent = f64::from(*permille) / 10.0;
    format!("{percent:.1} % ({probes_answered} of {probes} probes answered, {leases_kept} of {leases} leases kept)")
}

fn age(time_ms: u64) -> String {
    let seconds = super::invite::now_ms().saturating_sub(time_ms) / 1_000;
    format!("{seconds} s ago")
}

fn block_text(block: &BlockView) -> String {
    let signers: Vec<_> = block.signers.iter().map(|signer| format::short(signer)).collect();
    let mut text = format!(
        "block       {}  {}\nparent      {}\nproposer    {}\nstate root  {}\nsigned by   {} in round {}\n\n\
         Transactions: {}\n",
        block.height,
        block.hash,
        block.parent,
        block.proposer,
        block.state_root,
        signers.join(", "),
        block.round,
        block.transactions.len()
    );
    for each in &block.transactions {
        let (id, author) = (format::short(&each.id), format::short(&each.author));
        // Writing into a string does not fail.
        let _ = writeln!(text, "  {id}  {author}  {}: {}", each.kind, each.what);
    }
    text
}

fn account_text(account: &AccountView) -> String {
    let registration = match &account.registration {
        None => "not registered: it takes no part in drills and decisions".into(),
        Some(key) => format!(
            "since block {}, drill units up to class {}{}",
            key.registered_at,
            key.class,
            if key.standby { ", standing by" } else { "" }
        ),
    };
    format!(
        "peer        {}\nbalance     {} credits\nheld        {} credits, until a result of it is compared\n\
         reliability {}\nregistered  {registration}\n",
        account.peer,
        credits(account.balance),
        credits(account.held),
        reliability(&account.reliability)
    )
}

fn transaction_text(transaction: &TransactionView) -> String {
    let place = match transaction.height {
        Some(height) => format!("in block {height}"),
        None => "waits for a block".into(),
    };
    format!(
        "transaction {}\nauthor      {}\n{:<11} {}\nplace       {place}\n",
        transaction.id, transaction.author, transaction.kind, transaction.what
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{DrillCounts, FaultView, MemberWeight, Standing};
    use crate::recovery::RecoveryDocument;

    #[test]
    fn credits_are_exact() {
        for (text, micro) in [("2", 2_000_000), ("0.25", 250_000), ("0.000001", 1), ("1.5", 1_500_000)] {
            assert_eq!(micro_credits(text), Ok(micro));
            assert_eq!(credits(micro), text);
        }
        for bad in ["", "0", "0.0000001", "-1", "1,5", "1e3", ".", "1.+1", "99999999999999999999"] {
            assert!(micro_credits(bad).is_err_and(|error| error.contains("six places")), "{bad}");
        }
        assert_eq!(credits(1_234_000_000), "1,234");
    }

    #[test]
    fn the_status_says_who_is_missing_and_who_has_lied() {
        let reliability =
            ReliabilityView { permille: Some(995), probes: 12, probes_answered: 11, leases: 3, leases_kept: 2 };
        let own = Standing {
            peer: "aaaaaaaa00".into(),
            weight: 70,
            effective_power: 0.25,
            reliability,
            ..Standing::default()
        };
        let liar = Standing { peer: "bbbbbbbb00".into(), faults: 1, ..Standing::default() };
        let ledger = LedgerStatus {
            ledger: "cccccccc00".into(),
            height: 12,
            waiting: Some("block 13 has been waiting for 9 s".into()),
            recoveries_offered: vec![RecoveryDocument { recovery: "eeeeeeee00".into(), ..RecoveryDocument::default() }],
            other_ledger: Some("dddddddd00".into()),
            committee: vec![MemberWeight { peer: "aaaaaaaa00".into(), weight: 70, connected: true }],
            quorum_weight: 47,
            drills: DrillCounts { agreed: 3, disputed: 1, ..DrillCounts::default() },
            faults: vec![FaultView { peer: "bbbbbbbb00".into(), kind: "wrong-result".into(), ..FaultView::default() }],
            own: Some(own.clone()),
            standings: vec![own, liar],
            ..LedgerStatus::default()
        };
        let text = status_text(&ledger);
        for part in [
            "block       12",
            "WAITS       block 13",
            "ledger recover accept eeeeeeee",
            "others of this swarm keep dddddddd",
            "weight 47 of 70",
            "3 agreed, 0 trusted, 1 disputed",
            "power 0.250000",
            "reliability 99.5 % (11 of 12 probes answered, 2 of 3 leases kept) (this peer)",
            "not probed or leased yet has lied",
            "has lied",
            "wrong-result",
            "keeps the ledger cccccccc, others of this swarm keep dddddddd",
        ] {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
        let mut summary = String::new();
        write_summary(&mut summary, &ledger).expect("a string");
        assert!(summary.contains("cccccccc  block 12") && summary.contains("WAITS"), "{summary}");
        assert!(summary.contains("DIFFERS") && summary.contains("dddddddd"), "{summary}");
    }
}
