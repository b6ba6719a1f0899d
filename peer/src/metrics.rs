//! The peer's metrics in the OpenMetrics text format.
//!
//! Every scrape builds its families from one [`Status`], so that `/metrics`,
//! `/api/status` and the page can never disagree.

use crate::account::LedgerStatus;
use crate::status::{RunState, RunStatus, Status, Traffic};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// Content type of [`encode`]'s text (OpenMetrics 1.0).
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Real = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    run: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    run: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    direction: &'static str,
    purpose: &'static str,
}

/// The families of the runs, one series a run (a peer keeps its last 16).
#[derive(Default)]
struct RunFamilies {
    state: Family<StateLabels, Gauge>,
    round: Family<RunLabels, Gauge>,
    rounds: Family<RunLabels, Gauge>,
    batches: Family<RunLabels, Gauge>,
    batches_target: Family<RunLabels, Gauge>,
    view: Family<RunLabels, Gauge>,
    members: Family<RunLabels, Gauge>,
    loss: Family<RunLabels, Real>,
    tokens: Family<RunLabels, Counter>,
    tokens_per_second: Family<RunLabels, Real>,
    parameters_equal: Family<RunLabels, Gauge>,
}

/// The complete exposition of `status`, ending in `# EOF`; `now_ms` is the
/// present in Unix milliseconds.
///
/// # Errors
/// Never in practice: writing into a string cannot fail.
pub(crate) fn encode(status: &Status, now_ms: u64) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("manta");
    register_peer(&mut registry, status, now_ms);
    register_traffic(&mut registry, &status.traffic);
    register_runs(&mut registry, &status.runs);
    if let Some(ledger) = &status.ledger {
        register_ledger(&mut registry, ledger);
    }
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

fn register_peer(registry: &mut Registry, status: &Status, now_ms: u64) {
    registry.register("build", "The program", Info::new([("version", status.version.clone())]));
    registry.register(
        "device",
        "What computes",
        Info::new([("device", status.device.clone()), ("kind", status.device_kind.clone())]),
    );
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: usize| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge(registry, "connected_peers", "Peers that are connected now", status.connected_peers.len());
    gauge(registry, "listings", "Offers that are known now, the peer's own included", status.listings.len());
    gauge(registry, "orders", "Orders that were placed on this peer", status.orders.len());
    let counter = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter(registry, "demands_heard", "Demands that were heard", status.demands_heard);
    counter(
        registry,
        "gossip_refused",
        "Gossiped messages that were refused: damaged, forged, stale or of another network",
        status.envelopes_refused,
    );
    let stored = Gauge::<i64>::default();
    stored.set(i64::try_from(status.stored_bytes).unwrap_or(i64::MAX));
    registry.register_with_unit("stored", "Data of runs that is kept on disk", Unit::Bytes, stored);
    let uptime = Real::default();
    uptime.set(now_ms.saturating_sub(status.started_at_ms) as f64 / 1e3);
    registry.register_with_unit("uptime", "Time since the peer started", Unit::Seconds, uptime);
}

fn register_traffic(registry: &mut Registry, traffic: &Traffic) {
    let bytes = Family::<BytesLabels, Counter>::default();
    for (purpose, sent, received) in [
        ("gossip", traffic.gossip_bytes_sent, traffic.gossip_bytes_received),
        ("frames", traffic.frame_bytes_sent, traffic.frame_bytes_received),
        ("tensors", traffic.tensor_bytes_sent, traffic.tensor_bytes_received),
        ("data", traffic.data_bytes_sent, traffic.data_bytes_received),
    ] {
        bytes.get_or_create(&BytesLabels { direction: "sent", purpose }).inc_by(sent);
        bytes.get_or_create(&BytesLabels { direction: "received", purpose }).inc_by(received);
    }
    registry.register("bytes", "Bytes moved over the network, by direction and purpose", bytes);
}

fn register_ledger(registry: &mut Registry, ledger: &LedgerStatus) {
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: f64| {
        let gauge = Real::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let counter = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    gauge(registry, "ledger_height", "Height of the last block of the ledger", ledger.height as f64);
    gauge(registry, "ledger_committee", "Members of the committee of the next block", ledger.committee.len() as f64);
    gauge(registry, "ledger_waiting", "1 while a block waits for absent members", f64::from(ledger.waiting.is_some()));
    gauge(registry, "ledger_balance_credits", "What this peer can spend", ledger.balance as f64 / 1e6);
    counter(registry, "ledger_blocks", "Blocks of the ledger", ledger.height);
    let drills = &ledger.drills;
    counter(registry, "drills_agreed", "Drill tasks of the ledger whose results agree", drills.agreed);
    counter(registry, "drills_trusted", "Drill tasks in which a trusted owner's word was taken", drills.trusted);
    counter(registry, "drills_disputed", "Drill tasks whose results differed", drills.disputed);
    counter(registry, "drills_void", "Drill tasks that ended without a result", drills.void);
    counter(registry, "faults", "Faults that the ledger has named", drills.faults);
    if let Some(own) = &ledger.own {
        gauge(registry, "power_effective", "Effective power of this peer, in power units", own.effective_power);
        gauge(registry, "power_real", "Real power of this peer, in power units", own.real_power);
        gauge(registry, "power_weight", "Weight of this peer in elections", own.weight as f64);
        let of = &own.reliability;
        if let Some(permille) = of.permille {
            let help = "Share of probes that this peer answered and of leases that it kept, later ones counting more";
            gauge(registry, "reliability_ratio", help, f64::from(permille) / 1e3);
        }
        counter(registry, "probes", "Probes of this peer by elected checkers", of.probes);
        counter(registry, "probes_answered", "Probes of this peer that it answered", of.probes_answered);
        counter(registry, "leases", "Leases of this machine that their users have reported", of.leases);
        counter(registry, "leases_kept", "Leases of this machine that it kept to the end", of.leases_kept);
    }
}

fn register_runs(registry: &mut Registry, runs: &[RunStatus]) {
    let families = RunFamilies::default();
    for run in runs {
        families.fill(run);
    }
    let RunFamilies {
        state,
        round,
        rounds,
        batches,
        batches_target,
        view,
        members,
        loss,
        tokens,
        tokens_per_second,
        parameters_equal,
    } = families;
    registry.register("run_state", "1 for the state that the run is in at this member", state);
    registry.register("run_round", "Rounds that all members have agreed on", round);
    registry.register("run_rounds", "Rounds that the run has in all", rounds);
    registry.register("run_batches", "Batches that count in the run", batches);
    registry.register("run_batches_target", "Batches that the run has in all", batches_target);
    registry.register("run_view", "Number of the list of members that holds now", view);
    registry.register("run_members", "Present members of the run, those that come in included", members);
    registry.register("run_loss_nats_per_token", "Training loss of the last agreed round, over all members", loss);
    registry.register("run_tokens", "Tokens that all members together were trained on", tokens);
    registry.register("run_tokens_per_second", "Speed of all members together", tokens_per_second);
    registry.register(
        "run_parameters_equal",
        "1 while all members have held equal parameters after every round",
        parameters_equal,
    );
}

impl RunFamilies {
    fn fill(&self, run: &RunStatus) {
        let labels = RunLabels { run: run.run.clone() };
        self.state.get_or_create(&StateLabels { run: run.run.clone(), state: state_name(run.state) }).set(1);
        self.round.get_or_create(&labels).set(run.rounds_done.into());
        self.rounds.get_or_create(&labels).set(run.rounds.into());
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.batches.get_or_create(&labels).set(gauge(run.batches_done));
        self.batches_target.get_or_create(&labels).set(gauge(run.batches_target));
        self.view.get_or_create(&labels).set(run.view.into());
        self.members.get_or_create(&labels).set(i64::try_from(run.members.len()).unwrap_or(i64::MAX));
        if let Some(loss) = run.losses.last() {
            self.loss.get_or_create(&labels).set(*loss);
        }
        self.tokens.get_or_create(&labels).inc_by(run.tokens);
        self.tokens_per_second.get_or_create(&labels).set(run.tokens_per_s);
        self.parameters_equal.get_or_create(&labels).set(run.parameter_hashes_equal.into());
    }
}

/// The state as it is spelled everywhere: in JSON, in metrics, on screen.
pub(crate) fn state_name(state: RunState) -> &'static str {
    match state {
        RunState::Preparing => "preparing",
        RunState::Gathering => "gathering",
        RunState::Training => "training",
        RunState::Saving => "saving",
        RunState::Finished => "finished",
        RunState::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{DrillCounts, ReliabilityView, Standing};
    use std::collections::{BTreeMap, BTreeSet};

    /// A reader of the OpenMetrics text format as strict as its specification
    /// about what we emit: order, grouping, suffixes, labels, numbers, the end.
    fn read(text: &str) -> BTreeMap<String, f64> {
        let body = text.strip_suffix("# EOF\n").expect("ends in `# EOF`");
        let (mut families, mut samples) = (BTreeSet::new(), BTreeMap::new());
        let (mut family, mut kind, mut helped) = (String::new(), String::new(), String::new());
        for line in body.lines() {
            assert_eq!(line, line.trim(), "no stray white space");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("help has a text");
                assert!(help.ends_with('.') && help.len() > 5, "{line}");
                assert!(families.insert(name.to_owned()), "family {name} comes twice");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, its_kind) = rest.split_once(' ').expect("type has a kind");
                assert_eq!(name, helped, "a type follows its own help");
                (family, kind) = (name.to_owned(), its_kind.to_owned());
                assert!(!family.ends_with("_total") && !family.ends_with("_info"), "suffixes belong to samples");
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').expect("unit has a text");
                assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
                let bare = name.split('{').next().expect("a name");
                let suffix = match kind.as_str() {
                    "counter" => "_total",
                    "gauge" => "",
                    "info" => "_info",
                    other => panic!("unexpected type {other}"),
                };
                assert_eq!(bare, format!("{family}{suffix}"), "samples follow their family: {line}");
                check_labels(&name[bare.len()..]);
                let value: f64 = value.parse().expect("a number");
                assert!(samples.insert(name.to_owned(), value).is_none(), "{name} comes twice");
            }
        }
        samples
    }

    fn check_labels(labels: &str) {
        if labels.is_empty() {
            return;
        }
        let mut rest = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).expect("braces");
        loop {
            let (name, after) = rest.split_once("=\"").expect("a label");
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{labels}");
            let mut escaped = false;
            let end = after.find(|c| match c {
                _ if escaped => {
                    assert!(matches!(c, 'n' | '"' | '\\'), "unknown escape in {labels}");
                    escaped = false;
                    false
                }
                '\\' => {
                    escaped = true;
                    false
                }
                c => c == '"',
            });
            let after = &after[end.expect("a closed quote") + 1..];
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => break assert!(after.is_empty(), "{labels}"),
            }
        }
    }

    fn status() -> Status {
        let run = |name: &str, losses: &[f64]| RunStatus {
            run: name.into(),
            state: RunState::Training,
            rounds_done: u32::try_from(losses.len()).expect("few"),
            rounds: 40,
            losses: losses.to_vec(),
            tokens: 81_920,
            tokens_per_s: 1234.5,
            parameter_hashes_equal: true,
            ..RunStatus::default()
        };
        let reliability =
            ReliabilityView { permille: Some(995), probes: 12, probes_answered: 11, leases: 3, leases_kept: 2 };
        Status {
            version: "0.1.0".into(),
            device: "a \"quoted\\name\"\nof two lines".into(),
            device_kind: "gpu".into(),
            connected_peers: vec!["aa".into(), "bb".into()],
            started_at_ms: 1_000,
            envelopes_refused: 7,
            ledger: Some(LedgerStatus {
                height: 12,
                drills: DrillCounts { agreed: 3, ..DrillCounts::default() },
                own: Some(Standing { effective_power: 0.25, reliability, ..Standing::default() }),
                ..LedgerStatus::default()
            }),
            traffic: Traffic { tensor_bytes_sent: 99, data_bytes_received: 5, ..Traffic::default() },
            runs: vec![run("r1", &[5.5, 4.25]), run("r2", &[])],
            ..Status::default()
        }
    }

    #[test]
    fn every_family_is_well_formed_and_holds_the_status() {
        let samples = read(&encode(&status(), 3_500).expect("encodes"));
        let expected = [
            ("manta_connected_peers", 2.0),
            ("manta_listings", 0.0),
            ("manta_gossip_refused_total", 7.0),
            ("manta_uptime_seconds", 2.5),
            ("manta_build_info{version=\"0.1.0\"}", 1.0),
            ("manta_device_info{device=\"a \\\"quoted\\\\name\\\"\\nof two lines\",kind=\"gpu\"}", 1.0),
            ("manta_run_round{run=\"r1\"}", 2.0),
            ("manta_run_rounds{run=\"r1\"}", 40.0),
            ("manta_run_loss_nats_per_token{run=\"r1\"}", 4.25),
            ("manta_run_tokens_total{run=\"r2\"}", 81_920.0),
            ("manta_run_tokens_per_second{run=\"r1\"}", 1234.5),
            ("manta_run_parameters_equal{run=\"r1\"}", 1.0),
            ("manta_run_state{run=\"r1\",state=\"training\"}", 1.0),
            ("manta_ledger_height", 12.0),
            ("manta_drills_agreed_total", 3.0),
            ("manta_power_effective", 0.25),
            ("manta_reliability_ratio", 0.995),
            ("manta_probes_answered_total", 11.0),
            ("manta_leases_total", 3.0),
            ("manta_leases_kept_total", 2.0),
            ("manta_bytes_total{direction=\"sent\",purpose=\"tensors\"}", 99.0),
            ("manta_bytes_total{direction=\"received\",purpose=\"data\"}", 5.0),
        ];
        for (name, value) in expected {
            assert_eq!(samples.get(name), Some(&value), "{name} in {samples:#?}");
        }
        assert!(!samples.contains_key("manta_run_loss_nats_per_token{run=\"r2\"}"), "no loss before the first round");
    }

    #[test]
    fn a_peer_without_runs_and_with_a_clock_set_back_is_well_formed_too() {
        let samples = read(&encode(&Status { runs: Vec::new(), ..status() }, 0).expect("encodes"));
        assert_eq!(samples.get("manta_uptime_seconds"), Some(&0.0));
    }

    #[test]
    fn states_are_spelled_as_in_json() {
        use RunState::{Failed, Finished, Gathering, Preparing, Saving, Training};
        for state in [Preparing, Gathering, Training, Saving, Finished, Failed] {
            assert_eq!(serde_json::to_value(state).expect("a name"), state_name(state));
        }
    }
}
