//! From what a user asks to what the market takes: reads, splits, hashes and
//! keeps the text, and writes the spec. File work only; runs where it may block.

use crate::api::OrderRequest;
use crate::checkpoint::write::{Foreign, check_destination};
use crate::data::corpus::{self, Corpus};
use crate::data::manifest::{self, MANIFEST_BYTES_MAX, Manifest};
use crate::data::split::{BlockEnd, Parts, split};
use crate::data::tokenizer::Tokenizer;
use crate::data::{DataSet, batches, demo_text};
use crate::host;
use crate::preset::Preset;
use crate::run::library::{Library, Shelf};
use crate::run::spec::{arithmetic, model_config, run_spec};
use crate::store::blobs::BlobStore;
use manta_gpu_kernels::Engine;
use manta_protocol::OrderId;
use manta_protocol::input::Wish;
use manta_protocol::run::RunSpec;
use manta_protocol::wire::limits::MEMBERS_MAX;
use std::collections::BTreeSet;

/// What the program and small things need.
const MEMORY_BASE_BYTES: u64 = 64 << 20;

/// An order that is ready for the market.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) spec: RunSpec,
    pub(crate) wish: Wish,
    /// Entropy of the training unigram model on the validation part, nats a token.
    pub(crate) unigram_loss: f64,
    /// For people: what was read.
    pub(crate) summary: String,
}

/// Reads the data of `request` into `store` and writes its spec.
///
/// # Errors
/// What was wrong with which field or file, and what to do.
pub(crate) fn prepare(
    order: OrderId,
    request: &OrderRequest,
    store: &BlobStore,
    library: &Library,
    multiply_adds_per_s: u64,
) -> Result<Prepared, String> {
    let preset = Preset::find(&request.preset)?;
    check_counts(request)?;
    let foreign = if request.overwrite { Foreign::MoveAside } else { Foreign::Refuse };
    check_destination(&request.out, foreign).map_err(|error| error.to_string())?;
    let Corpus { bytes, sources } = match &request.data {
        Some(path) => {
            let path = path.to_str().ok_or_else(|| format!("{}: the path is not UTF-8; rename it", path.display()))?;
            corpus::read(path).map_err(|error| error.to_string())?
        }
        None => demo_text::read().map_err(|error| error.to_string())?,
    };
    let text_bytes = bytes.len();
    let tokenizer = Tokenizer::Bytes;
    let data = tokenize(bytes, &tokenizer)?;
    let manifest = Manifest::of(&data, &tokenizer);
    let data_bytes = manifest.training_bytes + manifest.validation_bytes;
    // Kept from now on: another run's need for room must not take what is about to be served.
    library.keep_data(Shelf::Order(order), manifest.root(), &manifest, BTreeSet::new());
    store
        .make_room(manifest.blobs().map(|(_, bytes)| bytes as u64).sum::<u64>() + MANIFEST_BYTES_MAX as u64, |blob| {
            library.needs(blob)
        })
        .and_then(|()| manifest::publish(&data, &tokenizer, store))
        .map_err(|error| error.to_string())?;
    sources.check_unchanged().map_err(|error| error.to_string())?;
    let root = manifest.root();
    let spec = run_spec(request, &preset, tokenizer.vocab_size(), root, data_bytes);
    spec.validate()?;
    let summary = format!("{text_bytes} bytes of {} files, blake3 root {root}", sources.files());
    let wish = wish(request, &spec, multiply_adds_per_s);
    Ok(Prepared {
        spec,
        wish,
        unigram_loss: batches::unigram_loss(&data.training, &data.validation, tokenizer.vocab_size()),
        summary,
    })
}

/// The tokens of a text's two parts.
fn tokenize(text: Vec<u8>, tokenizer: &Tokenizer) -> Result<DataSet, String> {
    let block_end = if *tokenizer == Tokenizer::Bytes { BlockEnd::Byte } else { BlockEnd::Character };
    let Parts { training, validation } = split(text, block_end);
    let codec = tokenizer.codec().map_err(|error| error.to_string())?;
    let encode = |part| codec.encode_corpus(part).map_err(|error| format!("the text cannot be tokenized: {error}"));
    Ok(DataSet { training: encode(training)?, validation: encode(validation)? })
}

fn check_counts(request: &OrderRequest) -> Result<(), String> {
    let (min, max) = (request.peers_min, request.peers_max);
    if min == 0 || min > max || usize::from(max) > MEMBERS_MAX {
        return Err(format!("--peers {min}..{max}: give 1 to {MEMBERS_MAX}, the least first"));
    }
    if request.rounds == 0 || request.steps_per_round == 0 {
        return Err("--rounds and --steps-per-round must be at least 1".into());
    }
    Ok(())
}

fn wish(request: &OrderRequest, spec: &RunSpec, multiply_adds_per_s: u64) -> Wish {
    let parameters = spec.model.parameters().unwrap_or(u64::MAX);
    // Forward and backward take three products a weight and token; measured
    // steps reach about a third of the peak, and others may be slower than we.
    let products = u128::from(parameters) * u128::from(spec.tokens_per_member_step()) * u128::from(spec.steps()) * 3;
    let seconds = products * 10 / u128::from(multiply_adds_per_s.max(1));
    let engine_bytes = Engine::memory_bytes(&model_config(&spec.model), &arithmetic(spec), host::hardware_threads());
    // A vector is also here as own values, others' values of the own part and the
    // sums of two exchanges; a state of three as it is cut for newcomers, and as
    // it goes to the disk. Local training keeps anchor, momentum and a past of three.
    let vectors = 5 + 2 * 3 + if request.local { 5 } else { 0 };
    let transfer_bytes = parameters.saturating_mul(4 * vectors);
    Wish {
        members_min: request.peers_min,
        members_max: request.peers_max,
        memory_bytes: [transfer_bytes, spec.data_bytes, MEMORY_BASE_BYTES]
            .into_iter()
            .fold(engine_bytes, u64::saturating_add),
        disk_bytes: spec.data_bytes.saturating_mul(2),
        duration_s: u64::try_from(seconds).unwrap_or(u64::MAX).saturating_add(60),
        patience_ms: request.patience_ms,
        deadline_ms: request.deadline_ms,
        share: request.share,
    }
}
