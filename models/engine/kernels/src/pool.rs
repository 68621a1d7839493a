//! The largest number under a window, each channel by itself.

use std::ops::Range;

use crate::isa::per_isa;
use crate::lines::{Lines, RowsMut};
use crate::taps::LANES;
use crate::{Activation, Isa, Window};

/// Takes the largest number under a window of each channel; padding counts nothing. What is no number is larger than all.
#[derive(Debug)]
pub struct MaxPool {
    window: Window,
    channels: usize,
}

impl MaxPool {
    /// What rows are padded with.
    pub(crate) const PADDING: f32 = f32::NEG_INFINITY;

    /// For images of so many channels.
    #[must_use]
    pub const fn new(window: Window, channels: usize) -> Self {
        Self { window, channels }
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
    /// When `lines` are too short for a row.
    pub(crate) fn rows(
        &self,
        isa: Isa,
        seen: (&Lines, usize),
        rows: Range<usize>,
        activation: Activation,
        y: &mut RowsMut<'_>,
    ) {
        largest(isa, self, seen, rows, activation, y);
    }
}

per_isa! {
    fn largest(pool: &MaxPool, seen: (&Lines, usize), rows: Range<usize>, activation: Activation, y: &mut RowsMut<'_>) {
        let (lines, height) = seen;
        let (window, [pitch, pixel, from_block], ring) = (&pool.window, lines.steps(), lines.ring());
        let side = window.sides[1];
        for block in 0..pool.channels.div_ceil(LANES) {
            for n in rows.clone() {
                let seen = lines.under(window, n, height);
                let mut y = y.block(y.row(n), block);
                for place in 0..y.width() {
                    let mut most = [MaxPool::PADDING; LANES];
                    let mut row = seen.first;
                    for _ in 0..seen.taps.len() / side {
                        let at = row * pitch + block * from_block + place * window.strides[1] * pixel;
                        for tap in 0..side {
                            let x = &ring[at + tap * window.dilations[1] * pixel..][..LANES];
                            for (most, x) in most.iter_mut().zip(x) {
                                *most = if *x > *most || x.is_nan() { *x } else { *most };
                            }
                        }
                        row = (row + seen.step) % lines.capacity();
                    }
                    activation.apply_here(&mut most);
                    y.put(place, &[most]);
                }
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
    use crate::{Chain, Layer};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_form_gives_what_the_definition_gives(
            window in windows(), size in (1_usize..12, 1_usize..12), channels in 1_usize..40, seed: u64,
        ) {
            let size = [size.0, size.1];
            let places = window.places(size).unwrap_or([0, 0]);
            let image = noise(seed, size[0] * size[1] * channels);
            let mut exact = Vec::new();
            for at in 0..places[0] * places[1] * channels {
                let (place, channel) = (at / channels, at % channels);
                let taps = (0..window.taps()).filter_map(|tap| {
                    let row = window.pixel(0, place / places[1], tap / window.sides[1], size[0])?;
                    let column = window.pixel(1, place % places[1], tap % window.sides[1], size[1])?;
                    Some(image[(row * size[1] + column) * channels + channel])
                });
                exact.push(taps.fold(f32::NEG_INFINITY, f32::max));
            }
            let chain = Chain::of(stage(Layer::Pooled(MaxPool::new(window, channels)), Activation::None));
            for isa in Isa::available() {
                prop_assert_eq!(bits(&run(&chain, isa, &image, size)), bits(&exact), "{}", isa.name());
            }
        }
    }

    #[test]
    fn what_is_no_number_is_seen_wherever_it_lies() {
        let window = Window {
            sides: [1, 3],
            strides: [1, 1],
            dilations: [1, 1],
            pads: [[0, 0]; 2],
        };
        let chain = Chain::of(stage(Layer::Pooled(MaxPool::new(window, 1)), Activation::None));
        for at in 0..3 {
            let mut image = [1.0, 2.0, 3.0];
            image[at] = f32::NAN;
            for isa in Isa::available() {
                assert!(run(&chain, isa, &image, [1, 3])[0].is_nan());
            }
        }
    }
}
