//! The model on the device: its parameters, and the weights as the products see them.

use super::compile::Pipelines;
use super::ops::matmul::{Matrix, Packed, Rounding, pack, packed_words};
use super::ops::rms_norm::RmsNorm;
use super::program::{Dispatch, Program};
use super::workspace::PackedBuffers;
use crate::buffers::Buffer;
use crate::cpu::pack::Along;
use crate::device::{Device, DeviceError};
use crate::model::config::ModelConfig;
use crate::model::layout::Layout;
use crate::model::step::LAYER_SITES;
use crate::model::weights::Weights;
use crate::spec::ArithmeticSpec;
use std::ops::Range;

/// One linear map.
pub(crate) struct Linear {
    /// Its elements in the flat vector.
    pub(crate) range: Range<usize>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Packed along the inputs.
    pub(crate) forward: Packed,
    /// Packed along the outputs.
    pub(crate) backward: Packed,
}

/// The parameters of one decoder block.
pub(crate) struct Block {
    pub(crate) input_norm: usize,
    pub(crate) query_key_value: Linear,
    pub(crate) output: Linear,
    pub(crate) attention_norm: usize,
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

/// What every pass reads.
pub(crate) struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) spec: ArithmeticSpec,
    pub(crate) parameters: Buffer,
    pub(crate) embedding: usize,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: usize,
    pub(crate) head: Linear,
    /// Random keys by [`crate::model::step::RoundingSite::number`].
    pub(crate) keys: Buffer,
    /// `[position][pair]` of (cosine, sine).
    pub(crate) angles: Buffer,
}

impl Model {
    pub(crate) fn new(
        device: &Device,
        config: &ModelConfig,
        spec: &ArithmeticSpec,
        layout: &Layout,
        angles: Buffer,
    ) -> Result<Self, DeviceError> {
        let parameters = device.allocate_large("parameters", layout.len())?;
        let weights = Weights::new(config, layout);
        let linear = |native: &crate::model::weights::Linear| -> Result<Linear, DeviceError> {
            let matrix = Matrix::whole(&parameters, native.range.start, native.rows, native.columns);
            let packed = |along| -> Result<Packed, DeviceError> {
                let (rows, k) = match along {
                    Along::Rows => (native.rows, native.columns),
                    Along::Columns => (native.columns, native.rows),
                };
                let digits = spec.weight_digits.into();
                let space = PackedBuffers::new(device, packed_words(rows, k, digits, 1), rows)?;
                Ok(Packed::of(&matrix, along, digits, &space.words, &space.scales))
            };
            Ok(Linear {
                range: native.range.clone(),
                rows: native.rows,
                columns: native.columns,
                forward: packed(Along::Rows)?,
                backward: packed(Along::Columns)?,
            })
        };
        let blocks = weights.blocks.iter().map(|block| {
            Ok(Block {
                input_norm: block.input_norm.start,
                query_key_value: linear(&block.query_key_value)?,
                output: linear(&block.output)?,
                attention_norm: block.attention_norm.start,
                gate_up: linear(&block.gate_up)?,
                down: linear(&block.down)?,
            })
        });
        let sites = (config.num_hidden_layers + 1) * LAYER_SITES as usize;
        Ok(Self {
            config: config.clone(),
            spec: spec.clone(),
            embedding: weights.embedding.start,
            blocks: blocks.collect::<Result<_, DeviceError>>()?,
            final_norm: weights.final_norm.start,
            head: linear(&weights.head)?,
            keys: device.allocate("rounding keys", 2 * sites)?,
            parameters,
            angles,
        })
    }

    pub(crate) fn norm(&self, weight: usize) -> RmsNorm {
        RmsNorm {
            parameters: self.parameters.clone(),
            weight,
            width: self.config.hidden_size,
            epsilon: self.config.rms_norm_eps,
        }
    }

    /// The program that packs all weights for one direction.
    pub(crate) fn pack_weights(
        &self,
        pipelines: &mut Pipelines,
        flags: &Buffer,
        along: Along,
    ) -> Result<Program, DeviceError> {
        let linears = self
            .blocks
            .iter()
            .flat_map(|block| [&block.query_key_value, &block.output, &block.gate_up, &block.down])
            .chain([&self.head]);
        let dispatches: Vec<Dispatch> = linears
            .flat_map(|linear| {
                let matrix = Matrix::whole(&self.parameters, linear.range.start, linear.rows, linear.columns);
                let into = if along == Along::Rows { &linear.forward } else { &linear.backward };
                pack(&matrix, along, Rounding::Nearest, &self.keys, into)
            })
            .collect();
        Program::new(pipelines, flags, &dispatches)
    }
}
