//! Convolutions that keep channels apart, in FP32: their products are few, their weights a file may still keep as codes.

use std::ops::Range;

use crate::isa::Kind;
use crate::lines::{BlockMut, Lines, RowsMut, Seen};
use crate::taps::{self, Checked, LANES, Sums, Taps};
use crate::{Activation, Isa, ShapeError, Window};

/// Rows of places that share what is fetched of a few channels.
const TOGETHER: usize = 8;

/// Elements from tap to tap and from place to place, in blocks: each pixel is a place, or each second one.
const NEXT: [usize; 2] = [LANES, LANES];
const SECOND: [usize; 2] = [LANES, 2 * LANES];

/// A convolution of each channel by itself.
///
/// Result: `bias + sum of x * w` over the taps of rows that are on the image, row by row, each product rounded only with its sum.
/// What pads a row counts as 0.
#[derive(Debug)]
pub struct Depthwise {
    window: Window,
    channels: usize,
    /// For each block of 16 channels, tap by tap; what pads the last block is 0.
    weights: Vec<[f32; LANES]>,
    bias: Vec<[f32; LANES]>,
}

impl Depthwise {
    /// Packs `weights` (`taps` x `channels`) and a bias or nothing (taken for zeros).
    ///
    /// # Errors
    /// [`ShapeError`] when lengths do not fit each other.
    pub fn new(window: Window, weights: &[f32], channels: usize, bias: Option<&[f32]>) -> Result<Self, ShapeError> {
        let taps = window.sides[0].checked_mul(window.sides[1]);
        let needs = taps.filter(|t| *t > 0).and_then(|taps| taps.checked_mul(channels));
        if channels == 0 || needs != Some(weights.len()) {
            let told = format!(
                "{} weights for {channels} channels of {:?} taps",
                weights.len(),
                window.sides
            );
            return Err(ShapeError(told));
        }
        let bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        if bias.len() != channels {
            return Err(ShapeError(format!("a bias of {} for {channels} channels", bias.len())));
        }
        let blocks = channels.div_ceil(LANES);
        let mut packed = vec![[0.0; LANES]; blocks * window.taps()];
        for (at, weight) in weights.iter().enumerate() {
            let (tap, channel) = (at / channels, at % channels);
            packed[channel / LANES * window.taps() + tap][channel % LANES] = *weight;
        }
        let mut starts = vec![[0.0; LANES]; blocks];
        starts.as_flattened_mut()[..channels].copy_from_slice(&bias);
        Ok(Self {
            window,
            channels,
            weights: packed,
            bias: starts,
        })
    }

    /// Channels of a pixel.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }
    /// Where it looks.
    #[must_use]
    pub const fn window(&self) -> &Window {
        &self.window
    }

    /// Rows of places of an image `height` rows high, of which `lines` holds those that they see, padded.
    ///
    /// # Panics
    /// When `lines` are too short for a row, or rows of `y` are no rows of places.
    pub(crate) fn rows(
        &self,
        isa: Isa,
        (lines, height): (&Lines, usize),
        rows: Range<usize>,
        activation: Activation,
        y: &mut RowsMut<'_>,
    ) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2(job: &Job<'_>, y: &mut RowsMut<'_>) {
            // SAFETY: this function has the instructions.
            unsafe { job.run::<taps::Avx2>(y) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn avx512(job: &Job<'_>, y: &mut RowsMut<'_>) {
            // SAFETY: this function has the instructions.
            unsafe { job.run::<taps::Avx512>(y) }
        }
        let job = &Job {
            layer: self,
            lines,
            height,
            rows,
            activation,
        };
        match isa.0 {
            // SAFETY: every processor can do plain loops.
            Kind::Portable => unsafe { job.run::<taps::Portable>(y) },
            // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(job, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { avx512(job, y) },
        }
    }
}

/// Some rows of places to make.
struct Job<'a> {
    layer: &'a Depthwise,
    lines: &'a Lines,
    height: usize,
    rows: Range<usize>,
    activation: Activation,
}

impl Job<'_> {
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn run<S: Sums>(&self, y: &mut RowsMut<'_>) {
        for first in self.rows.clone().step_by(TOGETHER) {
            let rows = first..self.rows.end.min(first + TOGETHER);
            let window = &self.layer.window;
            let under = |n: usize| (self.lines.under(window, n, self.height), y.row(n));
            let seen: [_; TOGETHER] = std::array::from_fn(|at| under(rows.end.min(first + at + 1) - 1));
            // Channels come before rows: what several rows of places see of a few of them stays in the first cache.
            for block in 0..self.layer.bias.len() {
                for (seen, row) in &seen[..rows.len()] {
                    // SAFETY: the caller's promise.
                    unsafe { self.row::<S>(block, seen, y.block(*row, block)) }
                }
            }
        }
    }

    /// `LANES` channels of one row of places.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn row<S: Sums>(&self, block: usize, seen: &Seen, mut y: BlockMut<'_>) {
        let (layer, window) = (self.layer, &self.layer.window);
        let [pitch, pixel, from_block] = self.lines.steps();
        let weights = &layer.weights[block * window.taps()..][seen.taps.clone()];
        let start = &layer.bias[block];
        let taps = Taps {
            ring: self.lines.ring(),
            rows: self.lines.capacity(),
            pitch,
            first: seen.first,
            step: seen.step,
            weights,
            side: window.sides[1],
            at: block * from_block,
            steps: [window.dilations[1] * pixel, window.strides[1] * pixel],
            places: y.width(),
        };
        let shape = (taps.side, taps.steps);
        let taps = taps.check();
        // SAFETY: the caller's promise.
        unsafe {
            match shape {
                (3, NEXT) => self.groups::<S, 3, LANES>(&taps, start, &mut y),
                (5, NEXT) => self.groups::<S, 5, LANES>(&taps, start, &mut y),
                (3, SECOND) => self.groups::<S, 3, { 2 * LANES }>(&taps, start, &mut y),
                (5, SECOND) => self.groups::<S, 5, { 2 * LANES }>(&taps, start, &mut y),
                _ => self.groups::<S, 0, 0>(&taps, start, &mut y),
            }
        }
    }

    /// A row of places, a few at a time.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn groups<S: Sums, const SIDE: usize, const STEP: usize>(
        &self,
        taps: &Checked<'_>,
        start: &[f32; LANES],
        y: &mut BlockMut<'_>,
    ) {
        let places = y.width();
        let mut place = 0;
        while place < places {
            // Some of the last places are summed again rather than all one by one: they come out the same.
            let most = S::PLACES.min(places).min(2 * (places - place) - 1);
            let joined = [14, 7, 4].into_iter().find(|joined| *joined <= most).unwrap_or(1);
            place = place.min(places - joined);
            // SAFETY: the caller's promise.
            unsafe {
                match joined {
                    14 => self.store(S::sums::<14, SIDE, STEP>(taps, place, start), place, y),
                    7 => self.store(S::sums::<7, SIDE, STEP>(taps, place, start), place, y),
                    4 => self.store(S::sums::<4, SIDE, STEP>(taps, place, start), place, y),
                    _ => self.store(S::sums::<1, SIDE, STEP>(taps, place, start), place, y),
                }
            }
            place += joined;
        }
    }

    #[inline(always)]
    fn store<const P: usize>(&self, mut sums: [[f32; LANES]; P], place: usize, y: &mut BlockMut<'_>) {
        self.activation.apply_here(sums.as_flattened_mut());
        y.put(place, &sums);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::tests::{run, stage};
    use crate::conv::tests::{bits, noise, windows};
    use crate::{Chain, Layer};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_form_gives_the_bits_of_the_definition(
            window in windows(), size in (1_usize..12, 1_usize..12), channels in 1_usize..50, seed: u64,
        ) {
            let size = [size.0, size.1];
            let places = window.places(size).unwrap_or([0, 0]);
            let (weights, bias) = (noise(seed, window.taps() * channels), noise(seed ^ 1, channels));
            let image = noise(seed ^ 2, size[0] * size[1] * channels);
            let layer = Depthwise::new(window, &weights, channels, Some(&bias)).unwrap();
            let mut exact = Vec::new();
            for row in 0..places[0] {
                for column in 0..places[1] {
                    for channel in 0..channels {
                        let mut sum = bias[channel];
                        for tap in 0..window.taps() {
                            let (tap_row, tap_column) = (tap / window.sides[1], tap % window.sides[1]);
                            let Some(r) = window.pixel(0, row, tap_row, size[0]) else {
                                continue;
                            };
                            let pixel = window.pixel(1, column, tap_column, size[1]);
                            let x = pixel.map_or(0.0, |c| image[(r * size[1] + c) * channels + channel]);
                            sum = x.mul_add(weights[tap * channels + channel], sum);
                        }
                        exact.push(sum);
                    }
                }
            }
            let chain = Chain::of(stage(Layer::Apart(layer), Activation::None));
            for isa in Isa::available() {
                let y = run(&chain, isa, &image, size);
                prop_assert_eq!(bits(&y), bits(&exact), "{}", isa.name());
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let window = Window {
            sides: [3, 3],
            strides: [1, 1],
            dilations: [1, 1],
            pads: [[0, 0]; 2],
        };
        assert!(Depthwise::new(window, &[0.0; 8], 1, None).is_err());
        assert!(Depthwise::new(window, &[0.0; 9], 1, Some(&[0.0; 2])).is_err());
        assert!(Depthwise::new(window, &[], 0, None).is_err());
    }
}
