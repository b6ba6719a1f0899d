//! Gemm units on the processor: each thread draws, packs, multiplies and folds
//! a few rows at a time, so that all of it stays in its cache.

use super::{Block, GemmShape, Keys};
use crate::cpu::gemm::{draw, fold};
use crate::cpu::matmul::product;
use crate::cpu::pack::{Along, PANEL, Packed, Packing, View};
use crate::cpu::pool::Pool;
use crate::cpu::quantize::Rounding;
use crate::cpu::simd::{Simd, SimdPath};
use crate::error::EngineError;
use rayon::prelude::*;

/// Rows that one task computes.
const TASK_ROWS: usize = 4 * PANEL;

/// What a thread holds.
#[derive(Default)]
struct Scratch {
    integers: Vec<f32>,
    left: Packed,
    product: Vec<f32>,
}

pub(super) struct NativeGemm {
    simd: Simd,
    pool: Pool<Scratch>,
    right: Packed,
}

impl NativeGemm {
    pub(super) fn new(threads: usize, simd: SimdPath) -> Result<Self, EngineError> {
        Ok(Self { simd: simd.resolve()?, pool: Pool::new(threads)?, right: Packed::default() })
    }

    /// Draws and packs the right operand.
    pub(super) fn begin(&mut self, shape: &GemmShape, keys: &Keys) {
        let Self { simd, pool, right } = self;
        let mut integers = vec![0.0; shape.columns * shape.depth];
        pool.install(|| {
            let chunk = TASK_ROWS * shape.depth;
            integers.par_chunks_mut(chunk).enumerate().for_each(|(number, part)| {
                draw(*simd, keys.right, (number * chunk / 4) as u32, part);
            });
            let view = View::whole(&integers, shape.columns, shape.depth);
            right.pack_parallel(*simd, view, Packing::right(Along::Rows, 1, Rounding::Nearest));
        });
    }

    /// The folds of a block's rows; at least a task for each thread is done at once.
    pub(super) fn block(&mut self, shape: &GemmShape, keys: &Keys, block: Block) -> Result<Vec<u32>, EngineError> {
        let least = TASK_ROWS * self.pool.threads();
        let rows = block.rows.next_multiple_of(least).min(shape.rows - block.first);
        let mut folds = vec![0; rows];
        let Self { simd, pool, right } = self;
        pool.install(|| {
            folds.par_chunks_mut(TASK_ROWS).enumerate().for_each(|(task, folds)| {
                let mut scratch = pool.scratch();
                let Scratch { integers, left, product: out } = &mut *scratch;
                let first = block.first + task * TASK_ROWS;
                integers.resize(folds.len() * shape.depth, 0.0);
                out.resize(folds.len() * shape.columns, 0.0);
                draw(*simd, keys.left, (first * shape.depth / 4) as u32, integers);
                let view = View::whole(integers, folds.len(), shape.depth);
                left.pack(*simd, view, Packing::left(Along::Rows, 1, Rounding::Nearest));
                product(*simd, left, 0..folds.len(), right, out, shape.columns);
                for (row_fold, row) in folds.iter_mut().zip(out.chunks_exact(shape.columns)) {
                    *row_fold = fold(*simd, keys.fold, row);
                }
            });
        });
        Ok(folds)
    }
}
