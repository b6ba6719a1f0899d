//! From what a user asks to what the market takes: reads, splits, hashes and
//! keeps the text, and writes the spec. File work only; runs where it may block.

use crate::api::{Basis, OrderRequest};
use crate::checkpoint::read::{read, read_tokenizer_at};
use crate::checkpoint::write::{Foreign, check_destination};
use crate::data::batches::{self, BatchKey, BatchShape};
use crate::data::corpus::{self, Corpus};
use crate::data::manifest::{self, MANIFEST_BYTES_MAX, Manifest};
use crate::data::split::{BlockEnd, Parts, split};
use crate::data::tokenizer::Tokenizer;
use crate::data::{DataSet, demo_text};
use crate::host;
use crate::optimizer::kind;
use crate::preset::{Course, Preset};
use crate::run::initial::Initial;
use crate::run::library::{Library, Shelf};
use crate::run::spec::{arithmetic, model_config, run_spec};
use crate::store::blobs::BlobStore;
use manta_gpu_kernels::model::cost::optimizer_multiply_adds;
use manta_gpu_kernels::{EngineOptions, MemoryPlan, Recompute, SimdPath};
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
    check_counts(request)?;
    let foreign = if request.overwrite { Foreign::MoveAside } else { Foreign::Refuse };
    check_destination(&request.out, foreign).map_err(|error| error.to_string())?;
    let Beginning { course, tokenizer, initial } = beginning(request)?;
    let Corpus { bytes, sources } = match &request.data {
        Some(path) => {
            let path = path.to_str().ok_or_else(|| format!("{}: the path is not UTF-8; rename it", path.display()))?;
            corpus::read(path).map_err(|error| error.to_string())?
        }
        None => demo_text::read().map_err(|error| error.to_string())?,
    };
    let text_bytes = bytes.len();
    let data = tokenize(bytes, &tokenizer)?;
    check_lengths(&data, &course)?;
    let manifest = Manifest::of(&data, &tokenizer);
    let data_bytes = manifest.training_bytes + manifest.validation_bytes;
    let initial = initial.map(Initial::of);
    // Kept from now on: another run's need for room must not take what is about to be served.
    let others = initial.iter().flat_map(Initial::hashes);
    library.keep_data(Shelf::Order(order), manifest.root(), &manifest, others, BTreeSet::new());
    let of_manifest: u64 = manifest.blobs().map(|(_, bytes)| bytes as u64).sum();
    let initial_bytes = initial.as_ref().map_or(0, Initial::bytes);
    store
        .make_room(of_manifest + MANIFEST_BYTES_MAX as u64 + initial_bytes, |blob| library.needs(blob))
        .and_then(|()| manifest::publish(&data, &tokenizer, store))
        .and_then(|_| initial.as_ref().map_or(Ok(()), |initial| initial.publish(store)))
        .map_err(|error| error.to_string())?;
    sources.check_unchanged().map_err(|error| error.to_string())?;
    let root = manifest.root();
    let spec = run_spec(request, &course, root, data_bytes, initial.map(|initial| initial.root))?;
    spec.validate()?;
    let summary = format!("{text_bytes} bytes of {} files, blake3 root {root}", sources.files());
    let mut wish = wish(request, &spec, multiply_adds_per_s);
    wish.disk_bytes = wish.disk_bytes.saturating_add(initial_bytes);
    Ok(Prepared {
        spec,
        wish,
        unigram_loss: batches::unigram_loss(&data.training, &data.validation, tokenizer.vocab_size()),
        summary,
    })
}

/// What a run begins with.
struct Beginning {
    course: Course,
    tokenizer: Tokenizer,
    /// Parameters, where it does not begin with the initial values of its seed.
    initial: Option<Vec<f32>>,
}

fn beginning(request: &OrderRequest) -> Result<Beginning, String> {
    let Basis { from, tokenizer, learning_rate, sequence_length, .. } = &request.basis;
    let mut beginning = match (from, tokenizer) {
        (Some(_), Some(_)) => return Err("--tokenizer: a model that is trained on keeps its own; leave it out".into()),
        (Some(folder), None) => {
            let checkpoint = read(folder).map_err(|error| error.to_string())?;
            let course = Course::fine_tuning(checkpoint.config);
            Beginning { course, tokenizer: checkpoint.tokenizer, initial: Some(checkpoint.parameters) }
        }
        (None, tokenizer) => {
            let tokenizer = tokenizer.as_deref().map_or(Ok(Tokenizer::Bytes), read_tokenizer_at);
            let tokenizer = tokenizer.map_err(|error| error.to_string())?;
            let mut course = Preset::find(&request.preset)?.course(tokenizer.vocab_size());
            course.learning_rate *= request.basis.optimizer.times_the_rate();
            Beginning { course, tokenizer, initial: None }
        }
    };
    let course = &mut beginning.course;
    if let Some(rate) = learning_rate {
        course.learning_rate = *rate;
    }
    if let Some(length) = sequence_length.map(|length| length as usize) {
        let longest = course.model.max_position_embeddings;
        if from.is_some() && length > longest {
            return Err(format!("--sequence-length {length}: the model sees at most {longest} tokens"));
        }
        course.sequence_length = length;
        course.model.max_position_embeddings = longest.max(length);
    }
    Ok(beginning)
}

/// Refuses a text that has no window, before anything is sent.
fn check_lengths(data: &DataSet, course: &Course) -> Result<(), String> {
    let shape = BatchShape { sequences: 1, length: course.sequence_length };
    batches::window_starts(data.training.len(), &BatchKey { seed: [0; 32], batch: 0 }, shape)
        .and_then(|_| batches::validation_starts(data.validation.len(), course.sequence_length, 1))
        .map(drop)
        .map_err(|error| error.to_string())
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

/// Memory that a member of a run takes besides the text, with an engine of `engine_bytes`.
pub(crate) fn member_bytes(engine_bytes: u64, parameters: u64, local: bool) -> u64 {
    // A vector is also here as own values, others' values of the own part and the
    // sums of two exchanges; a state of three as it is cut for newcomers, and as
    // it goes to the disk. Local training keeps anchor, momentum and a past of three.
    let vectors = 5 + 2 * 3 + if local { 5 } else { 0 };
    let transfer_bytes = parameters.saturating_mul(4 * vectors);
    engine_bytes.saturating_add(transfer_bytes).saturating_add(MEMORY_BASE_BYTES)
}

/// The options with which an engine takes the least memory that any member can do with: on another
/// machine, so with the widest packed forms.
fn least() -> EngineOptions {
    EngineOptions {
        threads: host::hardware_threads(),
        simd: SimdPath::Portable,
        recompute: Recompute::Always,
        ..EngineOptions::default()
    }
}

fn wish(request: &OrderRequest, spec: &RunSpec, multiply_adds_per_s: u64) -> Wish {
    let parameters = spec.model.parameters().unwrap_or(u64::MAX);
    // Forward and backward take three products a weight and token; measured
    // steps reach about a third of the peak, and others may be slower than we.
    let (model, kind) = (model_config(&spec.model), kind(spec.optimizer.kind));
    let of_step = u128::from(parameters) * u128::from(spec.tokens_per_member_step()) * 3;
    let products = (of_step + u128::from(optimizer_multiply_adds(&model, kind))) * u128::from(spec.steps());
    let seconds = products * 10 / u128::from(multiply_adds_per_s.max(1));
    let engine_bytes = MemoryPlan::of(&model, &arithmetic(spec), kind, &least()).bytes();
    Wish {
        members_min: request.peers_min,
        members_max: request.peers_max,
        memory_bytes: member_bytes(engine_bytes, parameters, request.local).saturating_add(spec.data_bytes),
        disk_bytes: spec.data_bytes.saturating_mul(2),
        duration_s: u64::try_from(seconds).unwrap_or(u64::MAX).saturating_add(60),
        patience_ms: request.patience_ms,
        deadline_ms: request.deadline_ms,
        share: request.share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::sample::write_model;
    use crate::digits::{self, DigitsWish};
    use crate::optimizer::Optimizer;
    use crate::run::spec::optimizer;
    use crate::schedule::{Curve, Schedule};
    use manta_gpu_kernels::{DecayShape, OptimizerKind};
    use manta_protocol::market::demand::Share;
    use manta_protocol::run::spec::{DecaySpec, F32Bits, OptimizerKindSpec, OptimizerSpec};
    use std::path::Path;

    struct Bench {
        folder: tempfile::TempDir,
        store: BlobStore,
        library: Library,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = "the model goes on from where it was, and learns of cats\n".repeat(2000);
            std::fs::write(folder.path().join("text.txt"), text).unwrap();
            write_model(&folder.path().join("model"), Foreign::Refuse).unwrap();
            let store = BlobStore::open(&folder.path().join("blobs"), 64 << 20).unwrap();
            Self { folder, store, library: Library::default() }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn prepare(&self, basis: Basis) -> Result<Prepared, String> {
            let request = OrderRequest {
                data: Some(self.path("text.txt")),
                out: self.path("out"),
                overwrite: false,
                preset: "nano".into(),
                basis,
                peers_min: 1,
                peers_max: 2,
                rounds: 2,
                steps_per_round: 1,
                local: false,
                solo: true,
                seed: 1,
                patience_ms: 0,
                deadline_ms: 0,
                share: Share::Own,
            };
            prepare(OrderId(1), &request, &self.store, &self.library, 1_000_000)
        }

        fn refused(&self, basis: Basis, parts: &[&str]) {
            let problem = self.prepare(basis).unwrap_err();
            assert!(parts.iter().all(|part| problem.contains(part)), "{parts:?} in: {problem}");
        }
    }

    fn from(folder: &Path) -> Basis {
        Basis { from: Some(folder.into()), ..Basis::default() }
    }

    #[test]
    fn a_run_from_a_folder_names_its_parameters_and_keeps_them_ready() {
        let bench = Bench::new();
        let scratch = bench.prepare(Basis::default()).unwrap().spec;
        assert_eq!((scratch.initial, scratch.model.vocab_size), (None, 256));
        let spec = bench.prepare(from(&bench.path("model"))).unwrap().spec;
        let checkpoint = read(&bench.path("model")).unwrap();
        assert_eq!(model_config(&spec.model), checkpoint.config);
        assert_eq!(spec.initial, Some(Initial::of(checkpoint.parameters.clone()).root));
        let encoded = bench.store.get(&spec.initial.unwrap()).unwrap().unwrap();
        let manifest = crate::run::initial::manifest(&encoded, spec.model.parameters().unwrap()).unwrap();
        assert_eq!(crate::run::initial::assemble(&manifest, &bench.store).unwrap(), checkpoint.parameters);
        assert!(manifest.pieces.iter().chain(&spec.initial).all(|blob| bench.library.needs(blob)));
        assert_eq!(bench.prepare(from(&bench.path("model"))).unwrap().spec, spec, "equal orders have equal specs");
        let rate = Basis { learning_rate: Some(0.25), sequence_length: Some(9), ..from(&bench.path("model")) };
        let changed = bench.prepare(rate).unwrap().spec;
        assert_eq!((changed.optimizer.learning_rate.value(), changed.sequence_length), (0.25, 9));
    }

    #[test]
    fn digits_and_schedule_reach_the_spec_and_the_engine() {
        let bench = Bench::new();
        let plain = bench.prepare(Basis::default()).unwrap().spec;
        assert_eq!((plain.digits, plain.optimizer.decay), (digits::of_training(), DecaySpec::Linear));
        assert_eq!(bench.prepare(from(&bench.path("model"))).unwrap().spec.digits, digits::of_any_model());
        let wish = DigitsWish { weights: Some(1), ..DigitsWish::default() };
        let chosen = bench.prepare(Basis { digits: wish, ..from(&bench.path("model")) }).unwrap().spec;
        assert_eq!(arithmetic(&chosen).weight_digits, 1);
        assert_eq!(arithmetic(&chosen).activation_digits, 2);
        let schedule = Schedule { curve: Curve::Cosine, warmup_steps: Some(1), ..Schedule::default() };
        let curved = bench.prepare(Basis { schedule, ..Basis::default() }).unwrap().spec;
        let optimizer = optimizer(&curved);
        assert_eq!((optimizer.decay, optimizer.warmup_steps), (DecayShape::Cosine, 1));
        assert_eq!((optimizer.decay_start_step, optimizer.total_steps), (1, 2));
        assert_eq!((plain.optimizer.kind, curved.optimizer.kind), (OptimizerKindSpec::Adamw, OptimizerKindSpec::Adamw));
        let muon = Basis { optimizer: Optimizer::Muon, ..Basis::default() };
        let prepared = bench.prepare(muon).unwrap();
        assert_eq!(self::optimizer(&prepared.spec).kind, OptimizerKind::Muon);
        let learning_rate = F32Bits::from(4.0 * plain.optimizer.learning_rate.value());
        let expected = OptimizerSpec { kind: OptimizerKindSpec::Muon, learning_rate, ..plain.optimizer };
        assert_eq!(prepared.spec.optimizer, expected);
        // Models that are trained on keep their small rate.
        let on = |optimizer| bench.prepare(Basis { optimizer, ..from(&bench.path("model")) }).unwrap().spec.optimizer;
        let [by_adamw, by_muon] = [Optimizer::Adamw, Optimizer::Muon].map(on);
        assert_eq!(by_muon, OptimizerSpec { kind: OptimizerKindSpec::Muon, ..by_adamw });
        let of_adamw = bench.prepare(Basis::default()).unwrap().wish;
        assert!(prepared.wish.memory_bytes > of_adamw.memory_bytes && prepared.wish.duration_s > of_adamw.duration_s);
        bench.refused(
            Basis { schedule: Schedule { warmup_steps: Some(3), ..schedule }, ..Basis::default() },
            &["--warmup 3", "2 steps"],
        );
        let wish = DigitsWish { attention: Some(3), ..DigitsWish::default() };
        bench.refused(Basis { digits: wish, ..Basis::default() }, &["digits = 3", "1 to 2"]);
    }

    #[test]
    fn a_tokenizer_makes_the_vocabulary_and_the_data() {
        let bench = Bench::new();
        let text = std::fs::read_to_string(bench.path("text.txt")).unwrap();
        let content = crate::data::tokenizer::train::train(&text, 300).unwrap();
        std::fs::write(bench.path("tokenizer.json"), content).unwrap();
        let basis = Basis { tokenizer: Some(bench.path("tokenizer.json")), ..Basis::default() };
        let spec = bench.prepare(basis.clone()).unwrap().spec;
        assert!((258..=300).contains(&spec.model.vocab_size), "{}", spec.model.vocab_size);
        assert!(spec.data_bytes < text.len() as u64, "two bytes a token, of several characters");
        let bytes = bench.prepare(Basis::default()).unwrap().spec;
        assert_ne!(bytes.data_root, spec.data_root);
        bench.refused(Basis { from: Some(bench.path("model")), ..basis }, &["--tokenizer", "its own"]);
        std::fs::write(bench.path("tokenizer.json"), "{}").unwrap();
        let basis = Basis { tokenizer: Some(bench.path("tokenizer.json")), ..Basis::default() };
        bench.refused(basis, &["tokenizer.json", "not a tokenizer"]);
    }

    #[test]
    fn what_cannot_be_trained_is_refused_before_work_starts() {
        let bench = Bench::new();
        bench.refused(from(&bench.path("nothing")), &["nothing", "config.json"]);
        let longer = Basis { sequence_length: Some(65), ..from(&bench.path("model")) };
        bench.refused(longer, &["--sequence-length 65", "at most 64"]);
        let endless = Basis { sequence_length: Some(100_000), ..Basis::default() };
        bench.refused(endless, &["validation", "shorter sequence length"]);
        // A tokenizer of more tokens than the model has.
        let text = "unlike the model this knows more than bytes\n".repeat(400);
        let content = crate::data::tokenizer::train::train(&text, 300).unwrap();
        std::fs::write(bench.path("model/tokenizer.json"), content).unwrap();
        bench.refused(from(&bench.path("model")), &["config.json", "`vocab_size`", "tokenizer.json", "found 256"]);
        std::fs::remove_file(bench.path("model/model.safetensors")).unwrap();
        std::fs::write(
            bench.path("model/model.safetensors.index.json"),
            "{\"weight_map\": {\"model.norm.weight\": \"model-2.safetensors\"}}",
        )
        .unwrap();
        std::fs::write(bench.path("model/tokenizer.json"), Tokenizer::Bytes.tokenizer_json()).unwrap();
        bench.refused(from(&bench.path("model")), &["model-2.safetensors", "no such file"]);
    }
}
