//! What is done to every number that a convolution gives, while it is still in the processor's cache.

use crate::isa::per_isa;
use crate::vector::exp;

/// A function of one number. What is no number stays none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x`
    None,
    /// `min(max(x, low), high)`
    Clip {
        /// The least.
        low: f32,
        /// The most.
        high: f32,
    },
    /// `x min(max(x / 6 + 1/2, 0), 1)`
    HardSwish,
    /// `x / (1 + e^-x)`
    Silu,
}

impl Activation {
    /// Replaces every number, with the instructions of the function that this stands in.
    #[inline(always)]
    pub(crate) fn apply_here(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Clip { low, high } => {
                for x in values {
                    *x = bounded(*x, low, high);
                }
            }
            Self::HardSwish => {
                for x in values {
                    *x *= bounded(*x * (1.0 / 6.0) + 0.5, 0.0, 1.0);
                }
            }
            Self::Silu => {
                for x in values {
                    // Beyond 88 the power overflows and the answer is as good as 0.
                    let power = exp(bounded(-*x, -88.0, 88.0));
                    *x /= 1.0 + power;
                }
            }
        }
    }
}

per_isa! {
    /// Replaces every number.
    #[cfg(test)]
    pub(crate) fn activate(activation: Activation, values: &mut [f32]) {
        activation.apply_here(values);
    }
}

/// Unlike `f32::clamp` this takes any bounds, and the last one wins, as the standard says.
#[inline(always)]
fn bounded(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

per_isa! {
    /// Adds to every number and replaces the sums.
    pub(crate) fn add_and_activate(activation: Activation, made: &[f32], values: &mut [f32]) {
        for (made, values) in made.chunks(256).zip(values.chunks_mut(256)) {
            for (x, made) in values.iter_mut().zip(made) {
                *x += made;
            }
            activation.apply_here(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_form_gives_the_bits_of_the_portable_one_and_is_near_the_definition() {
        let values: Vec<f32> = (-4000..4000).map(|i| i as f32 / 37.0).collect();
        let logistic = |x: f64| x / (1.0 + (-x).exp());
        type Exact = fn(f64) -> f64;
        let cases: [(Activation, Exact); 3] = [
            (Activation::Clip { low: 0.0, high: 6.0 }, |x| x.clamp(0.0, 6.0)),
            (Activation::HardSwish, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
            (Activation::Silu, logistic),
        ];
        for (activation, exact) in cases {
            let mut portable = values.clone();
            activate(Isa::PORTABLE, activation, &mut portable);
            for (x, y) in values.iter().zip(&portable) {
                let exact = exact(f64::from(*x));
                assert!(
                    (f64::from(*y) - exact).abs() <= 1e-6 * exact.abs().max(1.0),
                    "{activation:?} of {x}: {y}"
                );
            }
            for isa in Isa::available() {
                let mut ours = values.clone();
                activate(isa, activation, &mut ours);
                assert!(
                    ours.iter().zip(&portable).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{}",
                    isa.name()
                );
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for activation in [
            Activation::Clip { low: 0.0, high: 6.0 },
            Activation::HardSwish,
            Activation::Silu,
        ] {
            for isa in Isa::available() {
                let mut values = [f32::NAN; 17];
                activate(isa, activation, &mut values);
                assert!(values.iter().all(|x| x.is_nan()), "{activation:?} {}", isa.name());
            }
        }
    }
}
