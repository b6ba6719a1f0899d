//! Drawing the next token from logits, deterministic by seed.

use std::cmp::Ordering;

/// How a token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// Logits are divided by this; 0 takes the most likely token.
    pub(crate) temperature: f64,
    /// Only this many of the most likely tokens are drawn from; 0 for all.
    pub(crate) top_k: usize,
    /// Equal seeds draw equal tokens from equal logits.
    pub(crate) seed: u64,
}

/// Logits that nothing can be drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model gave no usable logits (none, or one that is not a number); its parameters are damaged")]
pub(crate) struct LogitsError;

/// A stream of draws.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    draws: u64,
}

impl Sampler {
    /// A stream at its beginning.
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self { sampling, draws: 0 }
    }

    /// The token that is drawn next, an index into `logits`.
    ///
    /// # Errors
    /// No logits, NaN or an infinity.
    pub(crate) fn draw(&mut self, logits: &[f32]) -> Result<usize, LogitsError> {
        if logits.is_empty() || !logits.iter().all(|logit| logit.is_finite()) {
            return Err(LogitsError);
        }
        let uniform = self.uniform();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Equal logits stay in the order of their tokens.
        order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap_or(Ordering::Equal));
        let Sampling { temperature, top_k, .. } = self.sampling;
        if temperature <= 0.0 {
            return Ok(order[0]);
        }
        if top_k > 0 {
            order.truncate(top_k);
        }
        let highest = f64::from(logits[order[0]]);
        let weights: Vec<f64> =
            order.iter().map(|token| ((f64::from(logits[*token]) - highest) / temperature).exp()).collect();
        let mut left = uniform * weights.iter().sum::<f64>();
        for (token, weight) in order.iter().zip(&weights) {
            if left < *weight {
                return Ok(*token);
            }
            left -= weight;
        }
        // Rounding may leave a crumb behind the last weight.
        Ok(order[order.len() - 1])
    }

    /// Uniform in 0 to 1 (without 1): 53 bits of blake3 over seed and count.
    fn uniform(&mut self) -> f64 {
        let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 sampling v1");
        hasher.update(&self.sampling.seed.to_le_bytes());
        hasher.update(&self.draws.to_le_bytes());
        self.draws = self.draws.wrapping_add(1);
        let mut bits = [0; 8];
        hasher.finalize_xof().fill(&mut bits);
        (u64::from_le_bytes(bits) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], count: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        (0..count).map(|_| sampler.draw(logits).expect("finite logits")).collect()
    }

    #[test]
    fn equal_seeds_draw_equally_and_others_do_not() {
        let sampling = |seed| Sampling { temperature: 1.0, top_k: 0, seed };
        let logits = [0.1, 0.3, -0.2, 0.0, 0.2];
        assert_eq!(draws(sampling(7), &logits, 64), draws(sampling(7), &logits, 64));
        assert_ne!(draws(sampling(7), &logits, 64), draws(sampling(8), &logits, 64));
        // Golden: a change of the stream would change every sample that is on record.
        assert_eq!(draws(sampling(0), &logits, 12), [4, 1, 0, 1, 4, 0, 0, 1, 1, 4, 4, 0]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [2.0_f32.ln(), 0.0, 5.0_f32.ln()];
        let mut counts = [0_i32; 3];
        for token in draws(Sampling { temperature: 1.0, top_k: 0, seed: 1 }, &logits, 8000) {
            counts[token] += 1;
        }
        for (count, expected) in counts.into_iter().zip([2000, 1000, 5000]) {
            // Five standard deviations of the binomial are below 225.
            assert!((count - expected).abs() < 225, "{counts:?}");
        }
    }

    #[test]
    fn temperature_and_top_k_narrow_the_choice() {
        let logits = [1.0, 4.0, 4.0, 3.0];
        let greedy = Sampling { temperature: 0.0, top_k: 0, seed: 0 };
        assert_eq!(draws(greedy, &logits, 8), [1; 8], "of equals the first");
        let top_one = Sampling { temperature: 2.0, top_k: 1, seed: 0 };
        assert_eq!(draws(top_one, &logits, 8), [1; 8]);
        let top_three = Sampling { temperature: 100.0, top_k: 3, seed: 0 };
        let drawn = draws(top_three, &logits, 400);
        assert!(!drawn.contains(&0) && [1, 2, 3].iter().all(|token| drawn.contains(token)), "{drawn:?}");
        let cold = Sampling { temperature: 1e-300, top_k: 0, seed: 3 };
        assert!(draws(cold, &logits, 8).iter().all(|token| [1, 2].contains(token)));
    }

    #[test]
    fn unusable_logits_are_errors() {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, top_k: 0, seed: 0 });
        for logits in [&[][..], &[f32::NAN, 1.0], &[f32::INFINITY], &[f32::NEG_INFINITY, 0.0]] {
            assert_eq!(sampler.draw(logits), Err(LogitsError), "{logits:?}");
        }
    }
}
