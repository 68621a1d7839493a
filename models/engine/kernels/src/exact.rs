//! Convolutions in FP32 that mix channels: the pixels under a window are one row of a linear layer.

use std::ops::Range;

use crate::lines::PlacesMut;
use crate::{Activation, Isa, Matrix, ShapeError, Window};

/// What the rows of a strip of places may take, so that they stay in the nearest cache while all weights pass by.
const STRIP_BYTES: usize = 24 << 10;
/// Fewer places than this would fetch the weights too often.
const STRIP_MIN: usize = 24;

/// A convolution of an image of `channels` to one of as many channels as its [`Matrix`] has outputs. Padding counts as 0.
#[derive(Debug)]
pub struct ExactConv {
    window: Window,
    channels: usize,
    matrix: Matrix,
}

impl ExactConv {
    /// Takes a linear layer whose inputs are `taps` x `channels`.
    ///
    /// # Errors
    /// [`ShapeError`] when it has other inputs.
    pub fn new(window: Window, channels: usize, matrix: Matrix) -> Result<Self, ShapeError> {
        window.takes(matrix.inputs(), channels)?;
        Ok(Self {
            window,
            channels,
            matrix,
        })
    }

    /// Channels of a pixel of the image.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }
    /// Channels of a place.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.matrix.outputs()
    }
    /// Where it looks.
    #[must_use]
    pub const fn window(&self) -> &Window {
        &self.window
    }

    /// Writes places that see one pixel each.
    ///
    /// # Panics
    /// When `pixels` are no whole pixels.
    pub(crate) fn points(&self, isa: Isa, pixels: &[f32], activation: Activation, y: &mut PlacesMut<'_>) {
        for pixels in pixels.chunks(self.strip() * self.channels) {
            self.matrix.run_into(isa, pixels, activation, y);
        }
    }

    /// Writes these places of an image; `rows` is room for what windows see.
    ///
    /// # Panics
    /// When the image has another size, or places end beyond it.
    pub(crate) fn windows(
        &self,
        isa: Isa,
        (image, size): (&[f32], [usize; 2]),
        places: Range<usize>,
        rows: &mut Vec<f32>,
        activation: Activation,
        y: &mut PlacesMut<'_>,
    ) {
        let Some([_, columns]) = self.window.places(size) else {
            return;
        };
        let strip = self.strip();
        for first in places.clone().step_by(strip) {
            let these = first..places.end.min(first + strip);
            let needed = these.len() * self.matrix.inputs();
            if rows.len() < needed {
                rows.resize(needed, 0.0);
            }
            let rows = &mut rows[..needed];
            self.gather((image, size), columns, these.start, rows);
            self.matrix.run_into(isa, rows, activation, y);
        }
    }

    /// Places at a time.
    fn strip(&self) -> usize {
        (STRIP_BYTES / 4 / self.matrix.inputs()).max(STRIP_MIN)
    }

    /// Makes one row of what the window sees at each place from `first` on.
    fn gather(&self, (image, size): (&[f32], [usize; 2]), columns: usize, first: usize, rows: &mut [f32]) {
        let (window, channels) = (&self.window, self.channels);
        let tap_row = window.sides[1] * channels;
        let whole = |axis: usize| window.inner(axis, size[axis]);
        let inner = [whole(0), if window.dilations[1] == 1 { whole(1) } else { 0..0 }];
        let pitch = window.dilations[0] * size[1] * channels;
        let (mut row, mut column) = (first / columns, first % columns);
        for seen in rows.chunks_exact_mut(window.sides[0] * tap_row) {
            if inner[0].contains(&row) && inner[1].contains(&column) {
                let [top, left] =
                    [(0, row), (1, column)].map(|(axis, at)| at * window.strides[axis] - window.pads[axis][0]);
                let from = (top * size[1] + left) * channels;
                for (tap, seen) in seen.chunks_exact_mut(tap_row).enumerate() {
                    seen.copy_from_slice(&image[from + tap * pitch..][..tap_row]);
                }
            } else {
                for (tap, seen) in seen.chunks_exact_mut(channels).enumerate() {
                    let (tap_row, tap) = (tap / window.sides[1], tap % window.sides[1]);
                    let pixel = window
                        .pixel(0, row, tap_row, size[0])
                        .zip(window.pixel(1, column, tap, size[1]));
                    match pixel {
                        Some((row, column)) => {
                            seen.copy_from_slice(&image[(row * size[1] + column) * channels..][..channels])
                        }
                        None => seen.fill(0.0),
                    }
                }
            }
            column += 1;
            if column == columns {
                (row, column) = (row + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::tests::{run, stage};
    use crate::conv::tests::{bits, noise, windows};
    use crate::{Chain, ChainScratch, Layer, Order};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_form_gives_the_bits_of_the_definition(
            window in windows(), size in (1_usize..12, 1_usize..12), channels in 1_usize..20, outputs in 1_usize..40, seed: u64,
        ) {
            let size = [size.0, size.1];
            let places = window.places(size).unwrap_or([0, 0]);
            let (weights, bias) = (noise(seed, window.taps() * channels * outputs), noise(seed ^ 1, outputs));
            let image = noise(seed ^ 2, size[0] * size[1] * channels);
            let matrix = Matrix::new(&weights, outputs, Some(&bias)).unwrap();
            let layer = ExactConv::new(window, channels, matrix).unwrap();
            let mut exact = Vec::new();
            for place in 0..places[0] * places[1] {
                for output in 0..outputs {
                    let mut sum = bias[output];
                    for tap in 0..window.taps() {
                        let (tap_row, tap_column) = (tap / window.sides[1], tap % window.sides[1]);
                        let row = window.pixel(0, place / places[1], tap_row, size[0]);
                        let pixel = row.zip(window.pixel(1, place % places[1], tap_column, size[1]));
                        for channel in 0..channels {
                            let x = pixel.map_or(0.0, |(r, c)| image[(r * size[1] + c) * channels + channel]);
                            sum = x.mul_add(weights[(tap * channels + channel) * outputs + output], sum);
                        }
                    }
                    exact.push(sum);
                }
            }
            let chain = Chain::of(stage(Layer::Exact(layer), Activation::None));
            for isa in Isa::available() {
                let y = run(&chain, isa, &image, size);
                prop_assert_eq!(bits(&y), bits(&exact), "{}", isa.name());
                if !chain.sees_all() {
                    continue;
                }
                let pixels = size[0] * size[1];
                let planes: Vec<f32> = (0..image.len()).map(|at| image[at % pixels * channels + at / pixels]).collect();
                let mut y = vec![f32::NAN; exact.len()];
                chain.run(isa, (&planes, Order::Planes), size, &mut ChainScratch::default(), &mut y);
                prop_assert_eq!(bits(&y), bits(&exact), "{}", isa.name());
            }
        }
    }
}
