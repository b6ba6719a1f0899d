//! The training step of `torch_step.py` in burn, on its native back end `flex` or on a graphics device.

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Bool, Device, DeviceKind, Int, Tensor, TensorData};
use manta_gpu_kernels::benchmark::processor_ms;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

const SEQUENCES: usize = 4;
const LENGTH: usize = 256;
const HEAD_DIM: usize = 64;

/// Width, width between gate and down, blocks, query heads, key heads.
const MODELS: [(&str, [usize; 5]); 3] =
    [("tiny", [256, 704, 4, 4, 2]), ("small", [384, 1024, 6, 6, 3]), ("medium", [512, 1408, 8, 8, 4])];

/// What all blocks share and nothing learns.
struct Tables {
    cosines: Tensor<4>,
    sines: Tensor<4>,
    /// True where a query must not look.
    future: Tensor<4, Bool>,
}

impl Tables {
    fn new(device: &Device) -> Self {
        let angles = |function: fn(f64) -> f64| {
            let angle = |place: usize, pair: usize| {
                function(place as f64 * 10_000f64.powf(-((2 * pair) as f64) / HEAD_DIM as f64)) as f32
            };
            let of_place = move |place| (0..HEAD_DIM).map(move |at| angle(place, at % (HEAD_DIM / 2)));
            let values: Vec<f32> = (0..LENGTH).flat_map(of_place).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, LENGTH, HEAD_DIM]), device)
        };
        let future = Tensor::<2, Bool>::tril_mask([LENGTH, LENGTH], 0, device);
        Self { cosines: angles(f64::cos), sines: angles(f64::sin), future: future.unsqueeze() }
    }

    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let first = x.clone().narrow(3, 0, HEAD_DIM / 2);
        let second = x.clone().narrow(3, HEAD_DIM / 2, HEAD_DIM / 2);
        x * self.cosines.clone() + Tensor::cat(vec![second.neg(), first], 3) * self.sines.clone()
    }
}

#[derive(Module, Debug)]
struct Block {
    input_norm: RmsNorm,
    query_key_value: Linear,
    output: Linear,
    attention_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
    heads: usize,
    key_heads: usize,
    inner: usize,
}

impl Block {
    fn attention(&self, x: Tensor<3>, tables: &Tables) -> Tensor<3> {
        let (heads, key_heads) = (self.heads, self.key_heads);
        let all = heads + 2 * key_heads;
        let joint = self.query_key_value.forward(self.input_norm.forward(x));
        let joint = joint.reshape([SEQUENCES, LENGTH, all, HEAD_DIM]).swap_dims(1, 2);
        let queries = tables.turn(joint.clone().narrow(1, 0, heads));
        let keys = tables.turn(joint.clone().narrow(1, heads, key_heads));
        let values = joint.narrow(1, heads + key_heads, key_heads);
        let shared = |tensor: Tensor<4>| -> Tensor<4> {
            let repeated = tensor.unsqueeze_dim::<5>(2).repeat_dim(2, heads / key_heads);
            repeated.reshape([SEQUENCES, heads, LENGTH, HEAD_DIM])
        };
        let scores = queries.matmul(shared(keys).swap_dims(2, 3)) * (1.0 / (HEAD_DIM as f64).sqrt());
        let scores = scores.mask_fill(tables.future.clone(), f32::NEG_INFINITY);
        let attended = softmax(scores, 3).matmul(shared(values)).swap_dims(1, 2);
        self.output.forward(attended.reshape([SEQUENCES, LENGTH, heads * HEAD_DIM]))
    }

    fn forward(&self, x: Tensor<3>, tables: &Tables) -> Tensor<3> {
        let x = x.clone() + self.attention(x, tables);
        let gate_up = self.gate_up.forward(self.attention_norm.forward(x.clone()));
        let gate = gate_up.clone().narrow(2, 0, self.inner);
        let up = gate_up.narrow(2, self.inner, self.inner);
        x + self.down.forward(silu(gate) * up)
    }
}

#[derive(Module, Debug)]
struct Decoder {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
}

impl Decoder {
    fn new(vocabulary: usize, [hidden, inner, layers, heads, key_heads]: [usize; 5], device: &Device) -> Self {
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let linear = |columns, rows| {
            LinearConfig::new(columns, rows).with_bias(false).with_initializer(normal.clone()).init(device)
        };
        let norm = || RmsNormConfig::new(hidden).init(device);
        let block = |_| Block {
            input_norm: norm(),
            query_key_value: linear(hidden, (heads + 2 * key_heads) * HEAD_DIM),
            output: linear(heads * HEAD_DIM, hidden),
            attention_norm: norm(),
            gate_up: linear(hidden, 2 * inner),
            down: linear(inner, hidden),
            heads,
            key_heads,
            inner,
        };
        Self {
            embedding: EmbeddingConfig::new(vocabulary, hidden).with_initializer(normal.clone()).init(device),
            blocks: (0..layers).map(block).collect(),
            norm: norm(),
            head: linear(hidden, vocabulary),
        }
    }

    /// Mean loss of `targets`.
    fn loss(&self, inputs: Tensor<2, Int>, targets: Tensor<1, Int>, tables: &Tables) -> Tensor<1> {
        let embedded = self.embedding.forward(inputs);
        let x = self.blocks.iter().fold(embedded, |x, block| block.forward(x, tables));
        let logits = self.head.forward(self.norm.forward(x));
        let vocabulary = logits.dims()[2];
        let loss = CrossEntropyLossConfig::new().init(&logits.device());
        loss.forward(logits.reshape([SEQUENCES * LENGTH, vocabulary]), targets)
    }
}

/// burn's device: `native` is its back end flex, `software` wgpu's software adapter, and `hardware` its best other.
///
/// # Errors
/// Another name.
pub fn device(name: &str) -> Result<Device, Box<dyn Error>> {
    match name {
        "native" => Ok(Device::flex()),
        "software" => Ok(Device::wgpu(DeviceKind::Cpu)),
        "hardware" => Ok(Device::wgpu(DeviceKind::DefaultDevice)),
        _ => Err(format!("`{name}` is none of native, software, hardware").into()),
    }
}

/// Takes a step for every line of the input and says how long it took, as `torch_step.py --serve` does.
///
/// # Errors
/// An unknown model or device, or the input or output cannot be used.
pub fn serve(model: &str, vocabulary: usize, device_name: &str) -> Result<(), Box<dyn Error>> {
    let shape = MODELS.iter().find(|(name, _)| *name == model).ok_or("the model is tiny, small or medium")?.1;
    let device = device(device_name)?.autodiff();
    let tables = Tables::new(&device);
    let mut decoder = Decoder::new(vocabulary, shape, &device);
    let clipping = Some(GradientClippingConfig::Norm(1.0));
    let config = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.1);
    let mut optimizer = config.with_grad_clipping(clipping).init();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{{\"parameters\": {}}}", decoder.num_params())?;
    output.flush()?;
    for (number, line) in (0i64..).zip(std::io::stdin().lines()) {
        line?;
        let token = |place: i64| (place * place / 3 + place / 5) % vocabulary as i64;
        let row = |sequence: i64| {
            let first = number * 7919 + sequence * (LENGTH as i64 + 1);
            (0..=LENGTH as i64).map(move |place| token(first + place)).collect::<Vec<i64>>()
        };
        let rows: Vec<Vec<i64>> = (0..SEQUENCES as i64).map(row).collect();
        let inputs: Vec<i64> = rows.iter().flat_map(|row| &row[..LENGTH]).copied().collect();
        let targets: Vec<i64> = rows.iter().flat_map(|row| &row[1..]).copied().collect();
        let (start, before_ms) = (Instant::now(), processor_ms());
        let inputs = Tensor::from_data(TensorData::new(inputs, [SEQUENCES, LENGTH]), &device);
        let targets = Tensor::from_data(TensorData::new(targets, [SEQUENCES * LENGTH]), &device);
        let loss = decoder.loss(inputs, targets, &tables);
        let gradients = GradientsParams::from_grads(loss.backward(), &decoder);
        decoder = optimizer.step(1e-3, decoder, gradients);
        let loss: f32 = loss.into_scalar();
        let wall_ns = start.elapsed().as_nanos();
        let processor_ns = (processor_ms() - before_ms) * 1e6;
        writeln!(output, "{{\"wall_ns\": {wall_ns}, \"processor_ns\": {processor_ns:.0}, \"loss\": {loss}}}")?;
        output.flush()?;
    }
    Ok(())
}
