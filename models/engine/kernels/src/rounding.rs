//! Rounds the weights of a channel together, with regard to what they are multiplied with.
//!
//! A channel's error on an input `x` is `(w - s q) . x`; over many inputs its mean square is `e H e` with `e = w - s q` and the second
//! moments `H = E[x x^T]`. Rounding each weight by itself ignores that inputs go together: what one weight lost, the next can make up
//! for. With `H = L L^T` that is the nearest-plane method for `|e L|` (Babai, "On Lovasz' lattice reduction and the nearest lattice
//! point problem", 1986), which in its result is GPTQ's (Frantar et al., arXiv:2210.17323) without the inverse of `H`.
#![allow(
    clippy::as_conversions,
    reason = "rounding numbers to codes of -127..=127 is what this module is for"
)]

/// Samples that are added in one pass over the sums.
const TOGETHER: usize = 4;
/// Share of the mean square of all inputs that each is taken to have of its own. Where there are fewer samples than inputs, more.
const DAMPING: f64 = 0.01;

/// Second moments of a layer's inputs, `E[x x^T]`, while they are gathered.
#[derive(Clone, Debug)]
pub struct Moments {
    width: usize,
    samples: usize,
    /// Row `i` of the lower triangle begins at `i * width`; what lies above the diagonal is not used.
    sums: Vec<f64>,
}

impl Moments {
    /// Of `width` inputs; takes `8 width^2` bytes.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self {
            width,
            samples: 0,
            sums: vec![0.0; width * width],
        }
    }

    /// Adds samples, `width` numbers each; what is left over at the end is not looked at.
    pub fn add(&mut self, samples: &[f32]) {
        let width = self.width;
        for samples in samples.chunks(width * TOGETHER) {
            let rows: Vec<&[f32]> = samples.chunks_exact(width).collect();
            self.samples += rows.len();
            for (i, sums) in self.sums.chunks_exact_mut(width).enumerate() {
                match *rows.as_slice() {
                    [a, b, c, d] => {
                        let [fa, fb, fc, fd] = [a[i], b[i], c[i], d[i]].map(f64::from);
                        for (j, sum) in sums[..=i].iter_mut().enumerate() {
                            *sum += fa * f64::from(a[j])
                                + fb * f64::from(b[j])
                                + fc * f64::from(c[j])
                                + fd * f64::from(d[j]);
                        }
                    }
                    ref rows => {
                        for row in rows {
                            let factor = f64::from(row[i]);
                            let products = row[..=i].iter().map(|x| factor * f64::from(*x));
                            sums[..=i]
                                .iter_mut()
                                .zip(products)
                                .for_each(|(sum, product)| *sum += product);
                        }
                    }
                }
            }
        }
    }

    /// Ready for rounding; `None` without samples, or where they are no numbers.
    #[must_use]
    pub fn factor(self) -> Option<Rounding> {
        let Self { width, samples, sums } = self;
        if samples == 0 || sums.iter().any(|sum| !sum.is_finite()) {
            return None;
        }
        let mut order: Vec<usize> = (0..width).collect();
        let power = |at: usize| sums[at * width + at];
        order.sort_by(|&a, &b| power(a).total_cmp(&power(b)).then(b.cmp(&a)));
        let mean = order.iter().map(|&at| power(at)).sum::<f64>() / width as f64;
        let damping = mean * DAMPING * (width as f64 / samples as f64).max(1.0);
        let mut lower = vec![0.0; width * width];
        for (i, row) in lower.chunks_exact_mut(width).enumerate() {
            for j in 0..=i {
                let (a, b) = (order[i].max(order[j]), order[i].min(order[j]));
                row[j] = sums[a * width + b];
            }
            // A channel that nothing ever reaches has no moments: any code is right.
            row[i] += damping + f64::MIN_POSITIVE.sqrt();
        }
        cholesky(&mut lower, width).then_some(Rounding { order, lower })
    }
}

/// Replaces the lower triangle of a matrix by `L` with `L L^T` equal to it; whether there is one.
fn cholesky(matrix: &mut [f64], width: usize) -> bool {
    for i in 0..width {
        let (before, row) = matrix.split_at_mut(i * width);
        let row = &mut row[..width];
        for (j, other) in before.chunks_exact(width).enumerate() {
            let dot = dot(&row[..j], &other[..j]);
            row[j] = (row[j] - dot) / other[j];
        }
        let left = row[i] - dot(&row[..i], &row[..i]);
        if left.is_nan() || left <= 0.0 {
            return false;
        }
        row[i] = left.sqrt();
    }
    true
}

/// In eight sums side by side, so that it need not wait for each addition.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// The factor of a layer's moments.
#[derive(Clone, Debug)]
pub struct Rounding {
    /// Inputs by their power, the weakest first; the strongest is rounded first.
    order: Vec<usize>,
    lower: Vec<f64>,
}

impl Rounding {
    /// Codes for one channel's weights, each about `weight / scale` and within -127..=127. `None` where there are not as many
    /// weights as inputs.
    #[must_use]
    pub fn round(&self, weights: &[f32], scale: f32) -> Option<Vec<i8>> {
        let width = self.order.len();
        if weights.len() != width {
            return None;
        }
        let mut codes = vec![0; width];
        // What the errors so far add to each column of `e L`.
        let mut owed = vec![0.0; width];
        for (i, row) in self.lower.chunks_exact(width).enumerate().rev() {
            let weight = f64::from(weights[self.order[i]]) / f64::from(scale);
            let code = (weight + owed[i] / row[i]).round().clamp(-127.0, 127.0);
            codes[self.order[i]] = code as i8;
            let error = weight - code;
            let owes = row[..i].iter().map(|factor| error * factor);
            owed[..i].iter_mut().zip(owes).for_each(|(sum, more)| *sum += more);
        }
        Some(codes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Samples of `width` inputs that follow a few causes, as a layer's inputs do.
    fn samples(width: usize, count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mix: Vec<f32> = (0..width * 3).map(|_| random()).collect();
        let mut made = Vec::with_capacity(width * count);
        for _ in 0..count {
            let causes = [random(), random(), random() + 1.0];
            for mix in mix.chunks(3) {
                let follows: f32 = mix.iter().zip(causes).map(|(m, c)| m * c).sum();
                made.push(follows + 0.1 * random());
            }
        }
        made
    }

    fn error(samples: &[f32], weights: &[f32], codes: &[i8], scale: f32) -> f64 {
        let one = |x: &[f32]| {
            let terms = x.iter().zip(weights.iter().zip(codes));
            terms
                .map(|(x, (w, q))| f64::from(*x) * f64::from(w - f32::from(*q) * scale))
                .sum::<f64>()
        };
        samples.chunks(weights.len()).map(|x| one(x).powi(2)).sum()
    }

    fn gathered(width: usize, seed: u32) -> (Rounding, Vec<f32>) {
        let samples = samples(width, 200, seed);
        let mut moments = Moments::new(width);
        moments.add(&samples);
        (moments.factor().unwrap(), samples)
    }

    /// With a scale that leaves room above the largest code.
    fn weights(width: usize, seed: u32) -> (Vec<f32>, f32) {
        let weights = samples(width, 1, seed ^ 0x5555);
        let most = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
        (weights, most / 90.0)
    }

    fn nearest(weights: &[f32], scale: f32) -> Vec<i8> {
        weights.iter().map(|w| (w / scale).round() as i8).collect()
    }

    proptest! {
        /// Each step leaves at most half a code of its own column.
        #[test]
        fn the_error_is_within_the_bound_of_the_nearest_plane(width in 2usize..40, seed in any::<u32>()) {
            let (rounding, samples) = gathered(width, seed);
            let (weights, scale) = weights(width, seed);
            let codes = rounding.round(&weights, scale).unwrap();
            let own: f64 = (0..width).map(|i| rounding.lower[i * width + i].powi(2)).sum();
            let bound = own * f64::from(scale).powi(2) / 4.0;
            let error = error(&samples, &weights, &codes, scale);
            prop_assert!(error <= bound * 1.0001, "{error} {bound}");
        }
    }

    #[test]
    fn together_they_err_far_less_than_each_by_itself() {
        let (mut ours, mut each) = (0.0, 0.0);
        for seed in 1..60 {
            let (rounding, samples) = gathered(24, seed);
            let (weights, scale) = weights(24, seed);
            ours += error(&samples, &weights, &rounding.round(&weights, scale).unwrap(), scale);
            each += error(&samples, &weights, &nearest(&weights, scale), scale);
        }
        assert!(ours * 4.0 < each, "{ours} {each}");
    }

    #[test]
    fn samples_may_come_in_any_portions() {
        let all = samples(7, 30, 3);
        let (mut whole, mut parts) = (Moments::new(7), Moments::new(7));
        whole.add(&all);
        all.chunks(7 * 3).for_each(|part| parts.add(part));
        assert!(whole.sums.iter().zip(&parts.sums).all(|(a, b)| (a - b).abs() < 1e-9));
        assert_eq!((whole.samples, parts.samples), (30, 30));
    }

    #[test]
    fn inputs_that_have_nothing_in_common_are_rounded_to_the_nearest() {
        let mut moments = Moments::new(3);
        moments.add(&[1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 3.0]);
        let codes = moments.factor().unwrap().round(&[0.26, -0.74, 1.0], 1.0 / 127.0);
        assert_eq!(codes, Some(vec![33, -94, 127]));
    }

    #[test]
    fn what_one_lost_the_next_makes_up_for() {
        let mut moments = Moments::new(2);
        moments.add(&[1.0, 1.0]);
        let rounding = moments.factor().unwrap();
        let codes = rounding.round(&[10.4, 10.4], 1.0).unwrap();
        assert_eq!(codes.iter().map(|c| i32::from(*c)).sum::<i32>(), 21);
    }

    #[test]
    fn there_is_nothing_to_go_by_without_samples_or_numbers_and_zeros_do_no_harm() {
        assert!(Moments::new(4).factor().is_none());
        let mut wild = Moments::new(2);
        wild.add(&[1.0, f32::NAN]);
        assert!(wild.factor().is_none());
        let mut zeros = Moments::new(2);
        zeros.add(&[0.0; 4]);
        let rounding = zeros.factor().unwrap();
        assert_eq!(rounding.round(&[1.4, 500.0], 1.0), Some(vec![1, 127]));
        assert_eq!(rounding.round(&[1.0], 1.0), None);
    }
}
