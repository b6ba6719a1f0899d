//! The layers of the decoder, each next to its derivative.
//!
//! Matrices are row-major slices. A `*_backward` function takes the gradient
//! of the loss with respect to the layer's output, *adds* the parameters' share
//! to the gradient slice it is given, and returns that of the layer's input.

use super::real::Real;
use crate::model::config::{ModelConfig, RopeScaling};

/// Σ `a[i]·b[i]`, in eight interleaved partial sums so that it vectorises.
fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    const LANES: usize = 8;
    let mut lanes = [R::ZERO; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: R = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(&x, &y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.into_iter().sum::<R>() + tail
}

/// `target += scale · source`.
fn add_scaled<R: Real>(target: &mut [R], scale: R, source: &[R]) {
    for (t, &s) in target.iter_mut().zip(source) {
        *t += scale * s;
    }
}

/// `target += source`.
pub(super) fn add<R: Real>(target: &mut [R], source: &[R]) {
    add_scaled(target, R::ONE, source);
}

/// `y[m, out] = Σ_in x[m, in] · w[out, in]`.
pub(super) fn linear<R: Real>(x: &[R], weight: &[R], width_in: usize) -> Vec<R> {
    x.chunks_exact(width_in).flat_map(|row| weight.chunks_exact(width_in).map(move |w| dot(row, w))).collect()
}

/// The derivative of [`linear`]: `dx = dy · w`, `dw += dyᵀ · x`.
pub(super) fn linear_backward<R: Real>(
    dy: &[R],
    x: &[R],
    weight: &[R],
    width_in: usize,
    weight_gradient: &mut [R],
) -> Vec<R> {
    let width_out = weight.len() / width_in;
    let mut dx = vec![R::ZERO; x.len()];
    let rows = dy.chunks_exact(width_out).zip(x.chunks_exact(width_in)).zip(dx.chunks_exact_mut(width_in));
    for ((dy_row, x_row), dx_row) in rows {
        for (out, &d) in dy_row.iter().enumerate() {
            let w = out * width_in..(out + 1) * width_in;
            add_scaled(dx_row, d, &weight[w.clone()]);
            add_scaled(&mut weight_gradient[w], d, x_row);
        }
    }
    dx
}

/// 1 / sqrt(mean(row²) + epsilon).
fn inverse_rms<R: Real>(row: &[R], epsilon: R) -> R {
    R::ONE / (dot(row, row) / R::from_f64(row.len() as f64) + epsilon).sqrt()
}

/// RMSNorm (Zhang & Sennrich 2019) of every row: `y = gain · x / rms(x)`.
pub(super) fn rms_norm<R: Real>(x: &[R], gain: &[R], epsilon: R) -> Vec<R> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(gain.len()) {
        let scale = inverse_rms(row, epsilon);
        y.extend(row.iter().zip(gain).map(|(&value, &g)| g * (value * scale)));
    }
    y
}

/// The derivative of [`rms_norm`]; with `r = 1 / rms(x)` and `n` columns,
/// `dx = r · gain · dy − x · r³ / n · Σ gain · dy · x`.
pub(super) fn rms_norm_backward<R: Real>(dy: &[R], x: &[R], gain: &[R], epsilon: R, gain_gradient: &mut [R]) -> Vec<R> {
    let width = gain.len();
    let mut dx = Vec::with_capacity(x.len());
    for (dy_row, row) in dy.chunks_exact(width).zip(x.chunks_exact(width)) {
        let scale = inverse_rms(row, epsilon);
        let mut projection = R::ZERO;
        for i in 0..width {
            gain_gradient[i] += dy_row[i] * row[i] * scale;
            projection += gain[i] * dy_row[i] * row[i];
        }
        let along = scale * scale * scale * projection / R::from_f64(width as f64);
        dx.extend((0..width).map(|i| scale * gain[i] * dy_row[i] - along * row[i]));
    }
    dx
}

/// The cosines and sines of the rotary embedding (Su et al. 2021), taken in
/// `f64` and rounded once.
pub(super) struct Rotary<R> {
    /// `[position][pair]`: cos and sin of `position · base^(−2 · pair / head_dim)`.
    angles: Vec<(R, R)>,
    head_dim: usize,
}

/// A rotary frequency for longer sequences, as `transformers` writes it: by wavelengths.
fn scaled(frequency: f64, scaling: Option<RopeScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / f64::from(factor),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let (factor, length) = (f64::from(factor), original_max_position_embeddings as f64);
            let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength > length / low {
                frequency / factor
            } else if wavelength < length / high {
                frequency
            } else {
                let smooth = (length / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

impl<R: Real> Rotary<R> {
    pub(super) fn new(positions: usize, config: &ModelConfig) -> Self {
        let head_dim = config.head_dim;
        let pairs = head_dim / 2;
        let angle = |position: usize, pair: usize| {
            let frequency = f64::from(config.rope_theta).powf(-2.0 * pair as f64 / head_dim as f64);
            let angle = position as f64 * scaled(frequency, config.rope_scaling);
            (R::from_f64(angle.cos()), R::from_f64(angle.sin()))
        };
        let angles = (0..positions).flat_map(|p| (0..pairs).map(move |i| angle(p, i))).collect();
        Self { angles, head_dim }
    }

    /// Rotates every head of every row of `x[sequence · length, heads · head_dim]`
    /// by its position: element `i` pairs with `i + head_dim / 2`, as in
    /// Hugging Face's Llama.
    pub(super) fn rotate(&self, x: &mut [R], width: usize, length: usize) {
        self.turn(x, width, length, R::ONE);
    }

    /// The derivative of [`Rotary::rotate`]: the rotation backwards.
    pub(super) fn rotate_backward(&self, dx: &mut [R], width: usize, length: usize) {
        self.turn(dx, width, length, -R::ONE);
    }

    fn turn(&self, x: &mut [R], width: usize, length: usize, direction: R) {
        let pairs = self.head_dim / 2;
        for (row, values) in x.chunks_exact_mut(width).enumerate() {
            let angles = &self.angles[row % length * pairs..][..pairs];
            for head in values.chunks_exact_mut(self.head_dim) {
                let (first, second) = head.split_at_mut(pairs);
                for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    let sin = direction * sin;
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// Replaces `scores` by their softmax.
fn softmax<R: Real>(scores: &mut [R]) {
    let largest = scores.iter().copied().fold(scores[0], |a, b| if b > a { b } else { a });
    let mut total = R::ZERO;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        total += *score;
    }
    for score in scores {
        *score = *score / total;
    }
}

/// The shape of causal grouped-query attention (Ainslie et al. 2023).
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub(super) query_heads: usize,
    pub(super) key_heads: usize,
    pub(super) head_dim: usize,
    /// Positions in each sequence.
    pub(super) length: usize,
}

/// The gradients of the loss with respect to the inputs of attention.
pub(super) struct AttentionGradient<R> {
    pub(super) queries: Vec<R>,
    pub(super) keys: Vec<R>,
    pub(super) values: Vec<R>,
}

impl Attention {
    /// Calls `visit(query, keys)` for every query: where its head starts in the queries (and in
    /// the output), and where the heads that it sees start in the keys (and in the values).
    fn for_each_query(&self, rows: usize, mut visit: impl FnMut(usize, &[usize])) {
        let group = self.query_heads / self.key_heads;
        let mut keys = Vec::with_capacity(self.length);
        for sequence in 0..rows / self.length {
            for head in 0..self.query_heads {
                keys.clear();
                for position in 0..self.length {
                    let row = sequence * self.length + position;
                    keys.push((row * self.key_heads + head / group) * self.head_dim);
                    visit((row * self.query_heads + head) * self.head_dim, &keys);
                }
            }
        }
    }

    fn inverse_scale<R: Real>(&self) -> R {
        R::ONE / R::from_f64(self.head_dim as f64).sqrt()
    }

    /// Softmax of the scaled scores of the query at `query` over its keys.
    fn weights<R: Real>(&self, q: &[R], k: &[R], query: usize, keys: &[usize]) -> Vec<R> {
        let d = self.head_dim;
        let query = &q[query..query + d];
        let mut weights: Vec<R> = keys.iter().map(|&key| dot(query, &k[key..key + d]) * self.inverse_scale()).collect();
        softmax(&mut weights);
        weights
    }

    /// The attended values, in the shape of `q[rows, query_heads · head_dim]`.
    pub(super) fn forward<R: Real>(&self, q: &[R], k: &[R], v: &[R]) -> Vec<R> {
        let d = self.head_dim;
        let mut out = vec![R::ZERO; q.len()];
        self.for_each_query(q.len() / (self.query_heads * d), |query, keys| {
            for (weight, &key) in self.weights(q, k, query, keys).into_iter().zip(keys) {
                add_scaled(&mut out[query..query + d], weight, &v[key..key + d]);
            }
        });
        out
    }

    /// The derivative of [`Attention::forward`]; the softmax is taken again.
    pub(super) fn backward<R: Real>(&self, dout: &[R], q: &[R], k: &[R], v: &[R]) -> AttentionGradient<R> {
        let d = self.head_dim;
        let mut dq = vec![R::ZERO; q.len()];
        let mut dk = vec![R::ZERO; k.len()];
        let mut dv = vec![R::ZERO; v.len()];
        self.for_each_query(q.len() / (self.query_heads * d), |query, keys| {
            let weights = self.weights(q, k, query, keys);
            let dout = &dout[query..query + d];
            let dweights: Vec<R> = keys.iter().map(|&key| dot(dout, &v[key..key + d])).collect();
            let mean = dot(&weights, &dweights);
            for ((&key, &weight), &dweight) in keys.iter().zip(&weights).zip(&dweights) {
                let dscore = weight * (dweight - mean) * self.inverse_scale();
                add_scaled(&mut dv[key..key + d], weight, dout);
                add_scaled(&mut dq[query..query + d], dscore, &k[key..key + d]);
                add_scaled(&mut dk[key..key + d], dscore, &q[query..query + d]);
            }
        });
        AttentionGradient { queries: dq, keys: dk, values: dv }
    }
}

fn sigmoid<R: Real>(x: R) -> R {
    R::ONE / (R::ONE + (-x).exp())
}

/// SwiGLU (Shazeer 2020): `gate · sigmoid(gate) · up`, element by element.
pub(super) fn swiglu<R: Real>(gate: &[R], up: &[R]) -> Vec<R> {
    gate.iter().zip(up).map(|(&g, &u)| g * sigmoid(g) * u).collect()
}

/// The derivatives of [`swiglu`] with respect to `gate` and `up`.
pub(super) fn swiglu_backward<R: Real>(dy: &[R], gate: &[R], up: &[R]) -> (Vec<R>, Vec<R>) {
    dy.iter()
        .zip(gate)
        .zip(up)
        .map(|((&d, &g), &u)| {
            let s = sigmoid(g);
            (d * u * s * (R::ONE + g * (R::ONE - s)), d * g * s)
        })
        .unzip()
}

/// Mean cross-entropy, in nats, of `logits[target.len(), vocabulary]`, and its
/// derivative `(softmax − one-hot) / rows`.
pub(super) fn cross_entropy<R: Real>(logits: &[R], targets: &[u32]) -> (R, Vec<R>) {
    let vocabulary = logits.len() / targets.len();
    let rows = R::from_f64(targets.len() as f64);
    let mut loss = R::ZERO;
    let mut gradient = logits.to_vec();
    for (row, &target) in gradient.chunks_exact_mut(vocabulary).zip(targets) {
        let target = target as usize;
        let target_logit = row[target];
        let largest = row.iter().copied().fold(row[0], |a, b| if b > a { b } else { a });
        let total: R = row.iter().map(|&logit| (logit - largest).exp()).sum();
        loss += total.ln() + largest - target_logit;
        softmax(row);
        row[target] = row[target] - R::ONE;
        for value in row {
            *value = *value / rows;
        }
    }
    (loss / rows, gradient)
}
