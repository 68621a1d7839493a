//! Convolutions over 8-bit codes: the pixels under a window are one row of a linear layer.

use std::ops::Range;
use std::sync::Arc;

use crate::lines::PlacesMut;
use crate::{Activation, Isa, Linear, QuantizedRows, ShapeError, Window};

/// What a strip of places may take, read and written, so that it stays near the processor.
const STRIP_BYTES: usize = 96 << 10;
/// Fewer places than this would fetch the weights too often.
pub(crate) const STRIP_MIN: usize = 48;

/// A convolution of an image of `channels` to one of as many channels as its [`Linear`] has outputs.
///
/// A window of one pixel codes each pixel by its own reach; a larger one codes the whole image by one reach, so that each
/// pixel is coded once. Padding has the code of 0.
#[derive(Debug)]
pub struct Conv {
    window: Window,
    channels: usize,
    linear: Arc<Linear>,
}

impl Conv {
    /// Takes a linear layer whose inputs are `taps` x `channels`.
    ///
    /// # Errors
    /// [`ShapeError`] when it has other inputs.
    pub fn new(window: Window, channels: usize, linear: Arc<Linear>) -> Result<Self, ShapeError> {
        window.takes(linear.inputs(), channels)?;
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
    pub fn outputs(&self) -> usize {
        self.linear.outputs()
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
    pub(crate) fn points(
        &self,
        isa: Isa,
        pixels: &[f32],
        rows: &mut QuantizedRows,
        activation: Activation,
        y: &mut PlacesMut<'_>,
    ) {
        for pixels in pixels.chunks(self.strip() * self.channels) {
            rows.quantize(isa, pixels, self.channels);
            self.linear.run_into(isa, rows, activation, y);
        }
    }

    /// Writes these places of an image of codes.
    ///
    /// # Panics
    /// When `codes` are not one row for all of an image of that size, or places end beyond it.
    pub(crate) fn windows(
        &self,
        isa: Isa,
        (codes, size): (&QuantizedRows, [usize; 2]),
        places: Range<usize>,
        rows: &mut QuantizedRows,
        activation: Activation,
        y: &mut PlacesMut<'_>,
    ) {
        let Some([_, columns]) = self.window.places(size) else {
            return;
        };
        let strip = self.strip();
        for first in places.clone().step_by(strip) {
            self.gather(codes, size, columns, first..places.end.min(first + strip), rows);
            self.linear.run_into(isa, rows, activation, y);
        }
    }

    /// Places to code and sum at a time.
    fn strip(&self) -> usize {
        (STRIP_BYTES / 4 / self.outputs().max(self.channels)).max(STRIP_MIN)
    }

    /// Makes one row of codes of what the window sees at each of these places.
    fn gather(
        &self,
        image: &QuantizedRows,
        size: [usize; 2],
        columns: usize,
        places: Range<usize>,
        rows: &mut QuantizedRows,
    ) {
        let (window, channels) = (&self.window, self.channels);
        let (zero, scale) = (image.zeros[0], image.scales[0]);
        // A code is 0..=255, and so is that of zero.
        let nothing = zero as u8;
        rows.reset(places.len(), self.linear.inputs(), zero, scale);
        let (stride, tap_row) = (rows.stride(), window.sides[1] * channels);
        let (codes, pixels) = (rows.codes_and_slack_mut(), image.codes_and_slack());
        let whole = |axis: usize| window.inner(axis, size[axis]);
        let inner = [whole(0), if window.dilations[1] == 1 { whole(1) } else { 0..0 }];
        let pitch = window.dilations[0] * size[1] * channels;
        let (mut row, mut column) = (places.start / columns, places.start % columns);
        for at in (0..places.len()).map(|at| at * stride) {
            if inner[0].contains(&row) && inner[1].contains(&column) {
                let [top, left] =
                    [(0, row), (1, column)].map(|(axis, at)| at * window.strides[axis] - window.pads[axis][0]);
                let seen = (top * size[1] + left) * channels;
                // In this order: what a copy leaves behind its codes is written later.
                for tap in 0..window.sides[0] {
                    copy_few(&pixels[seen + tap * pitch..], &mut codes[at + tap * tap_row..], tap_row);
                }
            } else {
                let taps = codes[at..][..window.sides[0] * tap_row].chunks_exact_mut(channels);
                for (tap, seen) in taps.enumerate() {
                    let (tap_row, tap) = (tap / window.sides[1], tap % window.sides[1]);
                    let pixel = window
                        .pixel(0, row, tap_row, size[0])
                        .zip(window.pixel(1, column, tap, size[1]));
                    match pixel {
                        Some((row, column)) => {
                            seen.copy_from_slice(&pixels[(row * size[1] + column) * channels..][..channels])
                        }
                        None => seen.fill(nothing),
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

/// Copies `count` codes and maybe, so that a call is saved, some behind them.
#[inline(always)]
fn copy_few(from: &[u8], to: &mut [u8], count: usize) {
    const FEW: usize = 16;
    match (from.first_chunk::<FEW>(), to.first_chunk_mut::<FEW>()) {
        (Some(from), Some(to)) if count <= FEW => *to = *from,
        _ => to[..count].copy_from_slice(&from[..count]),
    }
}

#[cfg(test)]
pub(crate) mod tests;
