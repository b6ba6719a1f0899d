//! 8-bit digits of the operands of integer products, one class of operand at a time.

use manta_gpu_kernels::ArithmeticSpec;
use manta_protocol::run::spec::DigitsSpec;
use serde::{Deserialize, Serialize};

/// What training from the beginning takes: one digit is enough for all but the gradient of the
/// logits (`docs/quality.md`).
pub(crate) fn of_training() -> DigitsSpec {
    let arithmetic = ArithmeticSpec::default();
    DigitsSpec {
        activations: arithmetic.activation_digits,
        weights: arithmetic.weight_digits,
        gradients: arithmetic.gradient_digits,
        logit_gradient: arithmetic.logit_gradient_digits,
        attention: arithmetic.attention_digits,
    }
}

/// What models of others take, whose rows may hold features far larger than the rest: a second
/// digit for what the forward pass multiplies (`docs/quality.md`).
pub(crate) fn of_any_model() -> DigitsSpec {
    DigitsSpec { activations: 2, weights: 2, attention: 2, ..of_training() }
}

/// Puts the digits into the engine's arithmetic.
pub(crate) fn arithmetic(digits: DigitsSpec, rest: ArithmeticSpec) -> ArithmeticSpec {
    ArithmeticSpec {
        activation_digits: digits.activations,
        weight_digits: digits.weights,
        gradient_digits: digits.gradients,
        logit_gradient_digits: digits.logit_gradient,
        attention_digits: digits.attention,
        ..rest
    }
}

/// Digits that someone asks for; classes that are `None` stay as they would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DigitsWish {
    pub(crate) activations: Option<u8>,
    pub(crate) weights: Option<u8>,
    pub(crate) gradients: Option<u8>,
    pub(crate) logit_gradient: Option<u8>,
    pub(crate) attention: Option<u8>,
}

impl DigitsWish {
    /// The digits, where `usual` is what they would be.
    pub(crate) fn over(self, usual: DigitsSpec) -> DigitsSpec {
        DigitsSpec {
            activations: self.activations.unwrap_or(usual.activations),
            weights: self.weights.unwrap_or(usual.weights),
            gradients: self.gradients.unwrap_or(usual.gradients),
            logit_gradient: self.logit_gradient.unwrap_or(usual.logit_gradient),
            attention: self.attention.unwrap_or(usual.attention),
        }
    }
}

impl std::str::FromStr for DigitsWish {
    type Err = String;

    /// `2` for every class, or `activations=2,attention=1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |text: &str| match text.trim() {
            "1" => Ok(Some(1)),
            "2" => Ok(Some(2)),
            other => Err(format!("`{other}` digits: expected 1 or 2")),
        };
        if !text.contains('=') {
            let all = digits(text)?;
            return Ok(Self { activations: all, weights: all, gradients: all, logit_gradient: all, attention: all });
        }
        let mut wish = Self::default();
        for part in text.split(',') {
            let (class, count) = part.split_once('=').ok_or_else(|| format!("`{part}`: expected CLASS=DIGITS"))?;
            let field = match class.trim() {
                "activations" => &mut wish.activations,
                "weights" => &mut wish.weights,
                "gradients" => &mut wish.gradients,
                "logit-gradient" => &mut wish.logit_gradient,
                "attention" => &mut wish.attention,
                other => {
                    let classes = "activations, weights, gradients, logit-gradient, attention";
                    return Err(format!("no class of operands `{other}`; there are: {classes}"));
                }
            };
            if std::mem::replace(field, digits(count)?).is_some() {
                return Err(format!("`{}` is given twice", class.trim()));
            }
        }
        Ok(wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_given_for_all_classes_or_by_name() {
        let parse = |text: &str| text.parse::<DigitsWish>().expect(text);
        let all = parse("2").over(of_training());
        assert_eq!(all, DigitsSpec { activations: 2, weights: 2, gradients: 2, logit_gradient: 2, attention: 2 });
        let some = parse("activations=2, logit-gradient=1").over(of_training());
        assert_eq!(some, DigitsSpec { activations: 2, logit_gradient: 1, ..of_training() });
        assert_eq!(DigitsWish::default().over(of_any_model()), of_any_model());
        let engine = arithmetic(some, ArithmeticSpec { sequence_length: 7, ..ArithmeticSpec::default() });
        assert_eq!((engine.activation_digits, engine.logit_gradient_digits, engine.sequence_length), (2, 1, 7));
    }

    #[test]
    fn bad_digits_are_explained() {
        for (text, part) in [
            ("3", "expected 1 or 2"),
            ("", "expected 1 or 2"),
            ("weights=0", "`0` digits"),
            ("weights=", "expected 1 or 2"),
            ("bias=2", "no class of operands `bias`; there are: activations, weights"),
            ("weights=2,attention", "`attention`: expected CLASS=DIGITS"),
            ("weights=2,weights=1", "`weights` is given twice"),
        ] {
            let refused = text.parse::<DigitsWish>().expect_err(text);
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
