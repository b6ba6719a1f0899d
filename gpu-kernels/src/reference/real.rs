//! The little that the reference asks of a floating-point type.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// An ordinary floating-point number: `f32` or `f64`.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + Sum
{
    /// The additive identity.
    const ZERO: Self;
    /// The multiplicative identity.
    const ONE: Self;

    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;
    /// The same value in `f64` (exact for both types).
    fn to_f64(self) -> f64;
    /// e to the power of `self`.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
}

macro_rules! real {
    ($float:ty) => {
        impl Real for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            fn from_f64(value: f64) -> Self {
                value as $float
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn exp(self) -> Self {
                <$float>::exp(self)
            }

            fn ln(self) -> Self {
                <$float>::ln(self)
            }

            fn sqrt(self) -> Self {
                <$float>::sqrt(self)
            }
        }
    };
}

real!(f32);
real!(f64);
