//! `manta up`: starts everything that a peer consists of, and stops it in order.

use crate::account::LedgerPlan;
use crate::api::{Control, PeerFile};
use crate::device::{Chosen, Machine, Wanted, cache_of, clip};
use crate::drill::{Driller, Share};
use crate::driver::ledger::Book;
use crate::driver::{Driver, Parts, Sources, TOPIC};
use crate::identity::{DataDirectory, Identity};
use crate::joining::{self, Joining, Wanted as WantedSwarm};
use crate::net::addresses;
use crate::net::bulk::{BulkConfig, BulkHandle, Congestion};
use crate::net::swarm::{self, DEFAULT_TARGET_CONNECTIONS, Net, NetCommand, NetConfig, NetEvent};
use crate::net::ticket::Ticket;
use crate::papers::Papers;
use crate::run::engine::Means;
use crate::run::keeper::Keeper;
use crate::run::library::{Library, source};
use crate::run::trainer::Trainer;
use crate::status::{MembershipStatus, Status};
use crate::store::blobs::BlobStore;
use crate::store::chain::ChainStore;
use crate::store::fault::{Death, FaultPoint};
use crate::store::state_file::StateFolder;
use crate::store::tables::Tables;
use crate::{host, http};
use libp2p::Multiaddr;
use manta_gpu_kernels::{ARITHMETIC_VERSION, Recompute};
use manta_protocol::market::listing::{Address, Listing};
use manta_protocol::wire::limits::ADDRESSES_MAX;
use manta_protocol::{Config, Node, Time};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Control requests that may wait.
const CONTROL_CAPACITY: usize = 16;
/// Share of the free disk that blobs of runs may take: one in this many.
const DISK_SHARE: u64 = 4;
/// How long to wait for the first listening address.
const LISTEN_MAX: Duration = Duration::from_secs(10);
/// Listening addresses that come this close after each other belong together.
const LISTEN_BURST: Duration = Duration::from_millis(100);

/// How to start a peer.
#[derive(Clone, Debug)]
pub(crate) struct UpOptions {
    /// Identity, blobs and tables live here.
    pub(crate) data_dir: PathBuf,
    /// Name of the swarm, if the user says one.
    pub(crate) network: Option<String>,
    /// Found an invite-only swarm.
    pub(crate) invite_only: bool,
    /// Tickets or multiaddrs of peers to begin with.
    pub(crate) join: Vec<String>,
    /// Where to listen; empty: any free port of all interfaces.
    pub(crate) listen: Vec<Multiaddr>,
    /// Where the HTTP server listens.
    pub(crate) http: SocketAddr,
    /// Whether to look for peers on the local network.
    pub(crate) mdns: bool,
    /// Where the owner says the machine is.
    pub(crate) region: String,
    /// What shall compute.
    pub(crate) device: Wanted,
    /// Where admissions of devices are kept, if not in the data directory.
    pub(crate) device_cache: Option<PathBuf>,
    /// Kernel threads, 0 for all.
    pub(crate) threads: usize,
    /// Whether activations are computed again on the way back.
    pub(crate) recompute: Recompute,
    /// Whether the machine is offered to others (and to our own orders).
    pub(crate) offer: bool,
    /// The congestion controller of the bulk transport.
    pub(crate) congestion: Congestion,
    /// How much of the machine drilling may take; nothing of it: only follow the ledger.
    pub(crate) drill_share: Share,
    /// Of a ledger that this peer founds.
    pub(crate) epoch: Option<Duration>,
    /// Whether to tell wrong results of drills.
    pub(crate) lies: bool,
    /// Where the process dies while it keeps the ledger: a test aid.
    pub(crate) die_at: Option<Death>,
    /// Whether to write down what each exchange of a run counted.
    pub(crate) diary: bool,
    /// Longest run that is accepted, in seconds.
    pub(crate) duration_max_s: u64,
}

/// Why a peer could not be started: in words, with what to do.
pub(crate) type UpError = Box<dyn std::error::Error + Send + Sync>;

/// Starts the peer, calls `ready` once it listens, and runs until `stop`.
///
/// # Errors
/// What could not be started, and what to do.
pub(crate) async fn run(
    options: UpOptions,
    ready: impl FnOnce(&PeerFile, &Status),
    stop: impl Future<Output = ()>,
) -> Result<(), UpError> {
    let directory = DataDirectory::open(&options.data_dir)?;
    let identity = Identity::load_or_create(&directory)?;
    let data_dir = directory.path();
    let mut papers = Papers::load(data_dir)?;
    let before = papers.clone();
    let wanted =
        WantedSwarm { name: options.network.as_deref(), invite_only: options.invite_only, join: &options.join };
    let Joining { network, name, bootstrap } = joining::decide(&wanted, &mut papers, identity.peer(), unix_now())?;
    if papers != before {
        papers.store(data_dir)?;
    }
    let free = host::free_disk_bytes(data_dir).unwrap_or(u64::MAX);
    let (chosen, machine) = choose(&options, data_dir).await?;
    let store = Arc::new(BlobStore::open(&data_dir.join("blobs"), free / DISK_SHARE)?);
    let tables = Tables::open(&data_dir.join("tables"))?;
    let keeper = Keeper::open(&data_dir.join("journal"))?;
    let states = StateFolder::open(&data_dir.join("runs"))?;
    let plan = LedgerPlan { epoch: options.epoch, takes_part: !options.drill_share.is_none(), lies: options.lies };
    let joins = !options.join.is_empty() || tables.known_peers().into_iter().next().is_some();
    let chain = ChainStore::open(&data_dir.join("ledger"))?.dying(FaultPoint::new(options.die_at));
    let book = Book::open(chain, plan, &clip(&name), joins)?;
    let library = Arc::new(Library::default());
    let http_listener = http::bind(options.http).await?;

    let (bulk, bulk_events) =
        BulkHandle::start(&identity, &bulk_config(&options), source(store.clone(), library.clone()))?;
    let mut net = swarm::start(NetConfig {
        identity: identity.clone(),
        network,
        listen: (!options.listen.is_empty()).then(|| options.listen.clone()),
        bootstrap,
        topics: vec![TOPIC.into()],
        mdns: options.mdns,
        target_connections: DEFAULT_TARGET_CONNECTIONS,
    })?;
    for (peer, addresses) in tables.known_peers() {
        net.handle.command(NetCommand::AddAddresses { peer, addresses })?;
    }
    let early = listening(&mut net).await?;
    let addresses = net.handle.snapshot().await?.advertised;

    let listing = listing(&options, &addresses, bulk.local_address().port(), free, &machine);
    let address_ticket =
        Ticket::new(network, identity.peer(), addresses.iter().cloned()).in_swarm(papers.genesis.clone());
    let ticket = address_ticket.to_string();
    let status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        peer_id: identity.peer().to_string(),
        network: name,
        ticket: ticket.clone(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        started_at_ms: unix_now().as_unix_ms(),
        device: machine.description.clone(),
        device_kind: machine.kind.into(),
        device_reason: machine.why.clone(),
        membership: MembershipStatus {
            founder: papers.genesis.as_ref().map(|genesis| genesis.founder.to_string()),
            ..MembershipStatus::default()
        },
        ..Status::default()
    };
    let (show, shown) = watch::channel(Arc::new(status.clone()));
    let (control, controls) = mpsc::channel::<Control>(CONTROL_CAPACITY);
    let peer_file = PeerFile {
        http: http_listener.local_addr()?,
        control_token: control_token(&identity),
        peer_id: status.peer_id.clone(),
        ticket,
        process_id: std::process::id(),
    };
    peer_file.write(data_dir)?;
    let control_token = peer_file.control_token.clone();
    let server = tokio::spawn(http::serve(http_listener, http::Server { status: shown, control, control_token }));

    let node_identity = manta_protocol::wire::Identity::from_secret(*identity.secret());
    let config = Config { network, identity: node_identity.clone() };
    let node = Node::with_charter(config, papers.charter(network), unix_now());
    let means = Means { threads: options.threads, recompute: options.recompute };
    let trainer = Trainer::start(chosen.device.clone(), means)?;
    let driller = Driller::start(chosen.device, options.threads, options.drill_share, trainer.busy())?;
    let parts = Parts {
        network,
        node,
        identity: node_identity,
        papers,
        ticket: address_ticket,
        data_dir: data_dir.to_owned(),
        net: net.handle.clone(),
        bulk,
        trainer,
        store,
        library,
        tables,
        keeper,
        states,
        book,
        driller,
        diaries: options.diary.then(|| data_dir.join("diaries")),
        models: data_dir.join("models"),
        listing,
        offer_public: options.offer,
        status: status.clone(),
        show,
        machine,
    };
    let driver = Driver::new(parts);
    ready(&peer_file, &status);
    let outcome = driver.run(Sources { early, net: net.events, bulk: bulk_events, control: controls }, stop).await;

    server.abort();
    if let Err(error) = peer_file.remove(data_dir) {
        tracing::debug!(%error, "the peer file was not removed");
    }
    // The network task ends by itself after its farewells; it must not hold us.
    let _ = tokio::time::timeout(Duration::from_secs(2), net.task).await;
    outcome.map_err(UpError::from)
}

/// What computes, chosen and measured: its driver, and tests where it is new, take their time.
async fn choose(options: &UpOptions, data_dir: &Path) -> Result<(Chosen, Machine), UpError> {
    let (wanted, threads) = (options.device.clone(), options.threads);
    let cache = options.device_cache.clone().unwrap_or_else(|| cache_of(data_dir));
    let chosen = tokio::task::spawn_blocking(move || -> Result<_, UpError> {
        let chosen = Chosen::choose(&wanted, Some(&cache))?;
        let machine = Machine::measure(&chosen, threads)?;
        Ok((chosen, machine))
    });
    let (chosen, machine) = chosen.await??;
    tracing::info!(device = machine.description, kind = machine.kind, why = machine.why, "computes on");
    Ok((chosen, machine))
}

/// Waits until the swarm listens; gives what came meanwhile.
async fn listening(net: &mut Net) -> Result<Vec<NetEvent>, UpError> {
    let mut early = Vec::new();
    let deadline = tokio::time::sleep(LISTEN_MAX);
    tokio::pin!(deadline);
    // A wildcard address is reported interface by interface, in a burst.
    while let Some(event) = tokio::select! {
        event = net.events.recv() => event,
        () = &mut deadline => None,
        () = tokio::time::sleep(LISTEN_BURST), if early.iter().any(is_listening) => return Ok(early),
    } {
        early.push(event);
    }
    Err("no address could be listened on; try --listen /ip4/0.0.0.0/tcp/0".into())
}

fn is_listening(event: &NetEvent) -> bool {
    matches!(event, NetEvent::Listening { .. })
}

/// The bulk endpoint listens on the address that the user chose for the swarm.
fn bulk_config(options: &UpOptions) -> BulkConfig {
    let chosen = options.listen.iter().find_map(addresses::ip);
    let listen = chosen.map(|ip| SocketAddr::new(ip, 0));
    BulkConfig { listen, congestion: options.congestion, ..BulkConfig::default() }
}

fn listing(
    options: &UpOptions,
    addresses: &[Multiaddr],
    bulk_port: u16,
    disk_free_bytes: u64,
    machine: &Machine,
) -> Listing {
    Listing {
        devices: vec![machine.listed.clone()],
        disk_free_bytes: disk_free_bytes / DISK_SHARE,
        region: clip(&options.region),
        duration_max_s: options.duration_max_s,
        arithmetic_version: ARITHMETIC_VERSION,
        busy: false,
        bulk_port,
        addresses: addresses.iter().take(ADDRESSES_MAX).map(|address| Address(address.to_vec())).collect(),
    }
}

/// Fresh at each start; nobody who cannot read the secret key can guess it.
fn control_token(identity: &Identity) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 control token v1");
    hasher.update(identity.secret());
    hasher.update(&unix_now().0.to_le_bytes());
    hasher.finalize().to_hex().to_string()
}

fn unix_now() -> Time {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX))
}
