//! Convolutions over 8-bit codes: the pixels under a window are one row of a linear layer.

use crate::{Activation, Isa, Linear, QuantizedRows, ShapeError, Window};

/// What a strip of places may take, read and written, so that it stays near the processor.
const STRIP_BYTES: usize = 96 << 10;
/// Fewer places than this would fetch the weights too often.
const STRIP_MIN: usize = 48;

/// A convolution of an image of `channels` to one of as many channels as its [`Linear`] has outputs.
///
/// A window of one pixel codes each pixel by its own reach; a larger one codes the whole image by one reach, so that each
/// pixel is coded once. Padding has the code of 0.
#[derive(Debug)]
pub struct Conv {
    window: Window,
    channels: usize,
    linear: Linear,
}

/// What a [`Conv`] needs while it runs. Reuse one for many calls: it keeps its memory.
#[derive(Debug, Default)]
pub struct ConvScratch {
    rows: QuantizedRows,
    image: QuantizedRows,
}

impl Conv {
    /// Takes a linear layer whose inputs are `taps` x `channels`.
    ///
    /// # Errors
    /// [`ShapeError`] when it has other inputs.
    pub fn new(window: Window, channels: usize, linear: Linear) -> Result<Self, ShapeError> {
        let taps = window.sides[0].checked_mul(window.sides[1]);
        if channels == 0 || taps.and_then(|taps| taps.checked_mul(channels)) != Some(linear.inputs()) {
            let told = format!(
                "{} inputs for {:?} taps of {channels} channels",
                linear.inputs(),
                window.sides
            );
            return Err(ShapeError(told));
        }
        Ok(Self {
            window,
            channels,
            linear,
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
        self.linear.outputs()
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
    pub fn run(
        &self,
        isa: Isa,
        image: &[f32],
        size: [usize; 2],
        activation: Activation,
        scratch: &mut ConvScratch,
        y: &mut [f32],
    ) {
        let places = self.window.places(size).unwrap_or([0, 0]);
        let outputs = self.outputs();
        fits(image, size, self.channels, y, places, outputs);
        let strip = (STRIP_BYTES / 4 / outputs.max(self.channels)).max(STRIP_MIN);
        let point = self.window.is_point();
        if !point && !y.is_empty() {
            scratch.image.quantize(isa, image, image.len());
        }
        for (at, y) in y.chunks_mut(strip * outputs).enumerate() {
            let (first, count) = (at * strip, y.len() / outputs);
            if point {
                let pixels = &image[first * self.channels..][..count * self.channels];
                scratch.rows.quantize(isa, pixels, self.channels);
            } else {
                self.gather(&scratch.image, size, places[1], first..first + count, &mut scratch.rows);
            }
            self.linear.run(isa, &scratch.rows, y);
            activation.apply(isa, y);
        }
    }

    /// Makes one row of codes of what the window sees at each of these places.
    fn gather(
        &self,
        image: &QuantizedRows,
        size: [usize; 2],
        columns: usize,
        places: std::ops::Range<usize>,
        rows: &mut QuantizedRows,
    ) {
        let (window, channels) = (&self.window, self.channels);
        let (zero, scale) = (image.zeros[0], image.scales[0]);
        // A code is 0..=255, and so is that of zero.
        let nothing = zero as u8;
        rows.reset(places.len(), self.linear.inputs(), zero, scale);
        let stride = rows.stride();
        for (place, row) in places.zip(rows.codes.chunks_exact_mut(stride)) {
            let (place_row, place_column) = (place / columns, place % columns);
            let on_row = window.on_image(1, place_column, size[1]);
            let taps = row.chunks_exact_mut(window.sides[1] * channels).take(window.sides[0]);
            for (tap_row, row) in taps.enumerate() {
                let Some(pixel_row) = window.pixel(0, place_row, tap_row, size[0]) else {
                    row.fill(nothing);
                    continue;
                };
                let pixels = &image.codes[pixel_row * size[1] * channels..][..size[1] * channels];
                row[..on_row.start * channels].fill(nothing);
                row[on_row.end * channels..].fill(nothing);
                let seen = &mut row[on_row.start * channels..on_row.end * channels];
                let start = place_column * window.strides[1] + on_row.start * window.dilations[1];
                let Some(start) = start.checked_sub(window.pads[1][0]).filter(|_| !seen.is_empty()) else {
                    continue;
                };
                if window.dilations[1] == 1 {
                    seen.copy_from_slice(&pixels[start * channels..][..seen.len()]);
                    continue;
                }
                for (tap, seen) in seen.chunks_exact_mut(channels).enumerate() {
                    seen.copy_from_slice(&pixels[(start + tap * window.dilations[1]) * channels..][..channels]);
                }
            }
        }
    }
}

/// # Panics
/// When lengths are not those of the sizes.
pub(crate) fn fits(image: &[f32], size: [usize; 2], channels: usize, y: &[f32], places: [usize; 2], outputs: usize) {
    let holds = |[height, width]: [usize; 2], channels: usize| height.checked_mul(width)?.checked_mul(channels);
    assert!(
        holds(size, channels) == Some(image.len()) && holds(places, outputs) == Some(y.len()),
        "{} elements for {size:?} pixels of {channels} into {} for {places:?} of {outputs}",
        image.len(),
        y.len()
    );
}

#[cfg(test)]
pub(crate) mod tests;
