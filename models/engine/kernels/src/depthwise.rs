//! Convolutions that keep channels apart, in FP32: their products are few, their weights a file may still keep as codes.

use crate::isa::Kind;
use crate::taps::{self, LANES, Sums, TapRow, Taps};
use crate::{Activation, Isa, ShapeError, Window};

/// Places along a row that share each weight they load.
const PLACES: usize = 4;

/// A convolution of each channel by itself.
///
/// Result: `bias + sum of x * w` over the taps that lie on pixels, rows first, each product and sum rounded.
#[derive(Debug)]
pub struct Depthwise {
    window: Window,
    channels: usize,
    /// Blocks of 16 channels, in a block tap by tap; where there are fewer, tap by tap.
    weights: Vec<f32>,
    bias: Vec<f32>,
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
        let weights = if channels < LANES {
            weights.to_vec()
        } else {
            let blocks = (0..channels.div_ceil(LANES)).map(|block| first_of(block, channels));
            let lanes = blocks.flat_map(|first| {
                weights
                    .chunks_exact(channels)
                    .flat_map(move |tap| &tap[first..first + LANES])
            });
            lanes.copied().collect()
        };
        Ok(Self {
            window,
            channels,
            weights,
            bias,
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

    /// Writes all places of one image, both row by row, pixel by pixel, channel by channel.
    ///
    /// # Panics
    /// When the image or `y` has another length than its size says.
    pub fn run(&self, isa: Isa, image: &[f32], size: [usize; 2], activation: Activation, y: &mut [f32]) {
        let places = self.window.places(size).unwrap_or([0, 0]);
        crate::conv::fits(image, size, self.channels, y, places, self.channels);
        let row = places[1] * self.channels;
        for (place, y) in y.chunks_exact_mut(row.max(1)).enumerate() {
            let seen = |tap: usize| {
                let row = self.window.pixel(0, place, tap, size[0])?;
                let pixels = &image[row * size[1] * self.channels..][..size[1] * self.channels];
                Some(TapRow { tap, pixels })
            };
            let rows: Vec<TapRow<'_>> = (0..self.window.sides[0]).filter_map(seen).collect();
            self.places(isa, &rows, size[1], y);
            activation.apply(isa, y);
        }
    }

    /// One row of places, `LANES` channels at a time.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn row<S: Sums>(&self, rows: &[TapRow<'_>], width: usize, y: &mut [f32]) {
        let (window, channels) = (&self.window, self.channels);
        let (places, taps) = (y.len() / channels, window.taps());
        let steps = [window.dilations[1] * channels, window.strides[1] * channels];
        for block in 0..channels.div_ceil(LANES) {
            let first = first_of(block, channels);
            let weights = &self.weights.as_chunks().0[block * taps..][..taps];
            let Some(start) = self.bias[first..].first_chunk() else {
                continue;
            };
            let mut column = 0;
            while column < places {
                // The last places are summed again rather than one by one: they come out the same.
                let group = column.min(places.saturating_sub(PLACES));
                let whole = |place| window.on_image(1, place, width) == (0..window.sides[1]);
                let joined = places >= PLACES && whole(group) && whole(group + PLACES - 1);
                let place = if joined { group } else { column };
                let columns = window.on_image(1, place, width);
                let at = if columns.is_empty() {
                    first
                } else {
                    let pixel = place * window.strides[1] + columns.start * window.dilations[1];
                    (pixel - window.pads[1][0]) * channels + first
                };
                let taps = Taps {
                    rows,
                    weights,
                    side: window.sides[1],
                    columns,
                    at,
                    steps,
                };
                // SAFETY: the caller's promise.
                unsafe {
                    if joined {
                        store(&S::sums::<PLACES>(&taps, start), place, channels, first, y);
                    } else {
                        store(&S::sums::<1>(&taps, start), place, channels, first, y);
                    }
                }
                column = if joined { group + PLACES } else { column + 1 };
            }
        }
    }

    /// One row of places of fewer than `LANES` channels.
    fn narrow_row(&self, rows: &[TapRow<'_>], width: usize, y: &mut [f32]) {
        let (window, channels) = (&self.window, self.channels);
        for (place, y) in y.chunks_exact_mut(channels).enumerate() {
            y.copy_from_slice(&self.bias);
            for row in rows {
                for tap in window.on_image(1, place, width) {
                    let pixel = place * window.strides[1] + tap * window.dilations[1] - window.pads[1][0];
                    let weights = &self.weights[(row.tap * window.sides[1] + tap) * channels..][..channels];
                    let seen = &row.pixels[pixel * channels..][..channels];
                    for (sum, (x, w)) in y.iter_mut().zip(seen.iter().zip(weights)) {
                        *sum += x * w;
                    }
                }
            }
        }
    }

    /// One row of places, in the form of `isa`.
    fn places(&self, isa: Isa, rows: &[TapRow<'_>], width: usize, y: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2(layer: &Depthwise, rows: &[TapRow<'_>], width: usize, y: &mut [f32]) {
            // SAFETY: this function has the instructions.
            unsafe { layer.row::<taps::Avx2>(rows, width, y) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f")]
        fn avx512(layer: &Depthwise, rows: &[TapRow<'_>], width: usize, y: &mut [f32]) {
            // SAFETY: this function has the instructions.
            unsafe { layer.row::<taps::Avx512>(rows, width, y) }
        }
        if self.channels < LANES {
            return self.narrow_row(rows, width, y);
        }
        match isa.0 {
            // SAFETY: every processor can do plain loops.
            Kind::Portable => unsafe { self.row::<taps::Portable>(rows, width, y) },
            // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(self, rows, width, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { avx512(self, rows, width, y) },
        }
    }
}

#[inline(always)]
fn store<const P: usize>(sums: &[[f32; LANES]; P], place: usize, channels: usize, first: usize, y: &mut [f32]) {
    for (at, sum) in sums.iter().enumerate() {
        y[(place + at) * channels + first..][..LANES].copy_from_slice(sum);
    }
}

/// The first channel of a block: the last block shares channels with the one before, which come out the same.
fn first_of(block: usize, channels: usize) -> usize {
    (block * LANES).min(channels - LANES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conv::tests::{bits, noise, windows};

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
                            let pixel = window.pixel(0, row, tap_row, size[0]).zip(window.pixel(1, column, tap_column, size[1]));
                            if let Some((r, c)) = pixel {
                                sum += image[(r * size[1] + c) * channels + channel] * weights[tap * channels + channel];
                            }
                        }
                        exact.push(sum);
                    }
                }
            }
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; exact.len()];
                layer.run(isa, &image, size, Activation::None, &mut y);
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
