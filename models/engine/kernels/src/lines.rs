//! The last few rows of an image that is being made, for who reads them through a window.

use std::ops::Range;

use crate::Window;
use crate::taps::LANES;

/// Elements of a line of the processor's cache.
const LINE: usize = 64 / size_of::<f32>();

/// Where the elements of rows lie: pixel by pixel, or in blocks, sixteen channels of all pixels and then the next sixteen.
///
/// In blocks each pixel's sixteen are a line of the cache. Lines that lie as many elements apart as there are channels would
/// share few of the cache's sets, and push each other out.
#[derive(Clone, Debug, Default)]
struct Layout {
    width: usize,
    channels: usize,
    /// Elements from row to row, pixel to pixel, and block of channels to block.
    steps: [usize; 3],
    /// Where the first pixel of a row lies.
    first: usize,
    capacity: usize,
}

/// What one row of places sees.
pub(crate) struct Seen {
    /// The ring's row under the first row of taps, and how many on the next one lies.
    pub(crate) first: usize,
    pub(crate) step: usize,
    /// The taps on rows of the image, of all taps row by row.
    pub(crate) taps: Range<usize>,
}

/// A ring of rows; each may have padding before its first pixel and after its last.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    data: Vec<f32>,
    start: usize,
    layout: Layout,
}

impl Lines {
    /// Bytes that it keeps.
    pub(crate) const fn bytes(&self) -> usize {
        self.data.capacity() * size_of::<f32>()
    }
    /// Makes room for `capacity` rows of `width` pixels in blocks, with so many of `padding` before and after each row's.
    pub(crate) fn reset_blocks(
        &mut self,
        capacity: usize,
        [width, channels]: [usize; 2],
        pads: [usize; 2],
        padding: f32,
    ) {
        let padded = (pads[0] + width + pads[1]) * LANES;
        let layout = Layout {
            width,
            channels,
            steps: [padded * channels.div_ceil(LANES), LANES, padded],
            first: pads[0] * LANES,
            capacity,
        };
        // Pixel by pixel, which the compiler makes a vector's store each: there are few, in many places.
        for row in self
            .take(layout)
            .as_chunks_mut::<LANES>()
            .0
            .chunks_exact_mut(padded / LANES)
        {
            row[..pads[0]].fill([padding; LANES]);
            row[pads[0] + width..].fill([padding; LANES]);
        }
    }

    /// Makes room for `capacity` rows of `width` pixels, pixel by pixel.
    pub(crate) fn reset_pixels(&mut self, capacity: usize, width: usize, channels: usize) {
        self.take(Layout {
            width,
            channels,
            steps: [width * channels, channels, LANES],
            first: 0,
            capacity,
        });
    }

    /// # Panics
    /// When there are not so many addresses.
    fn take(&mut self, layout: Layout) -> &mut [f32] {
        let Some(elements) = layout.capacity.checked_mul(layout.steps[0]) else {
            panic!(
                "{} lines of {} elements are no memory",
                layout.capacity, layout.steps[0]
            );
        };
        if self.data.len() < elements + LINE {
            self.data.resize(elements + LINE, 0.0);
        }
        // What cannot be aligned is only slower.
        self.start = self.data.as_ptr().align_offset(64).min(LINE);
        self.layout = layout;
        &mut self.data[self.start..][..elements]
    }

    /// How many rows there is room for.
    pub(crate) const fn capacity(&self) -> usize {
        self.layout.capacity
    }
    /// Elements from row to row, pixel to pixel, and block of channels to block.
    pub(crate) const fn steps(&self) -> [usize; 3] {
        self.layout.steps
    }
    /// All rows with their padding: row `n` of the image lies at `n % capacity`.
    pub(crate) fn ring(&self) -> &[f32] {
        &self.data[self.start..][..self.layout.capacity * self.layout.steps[0]]
    }
    /// What places of row `place` see of an image `height` rows high, of which the rows they see are here.
    #[inline(always)]
    pub(crate) fn under(&self, window: &Window, place: usize, height: usize) -> Seen {
        let on_image = window.on_image(0, place, height);
        let first = place * window.strides[0] + on_image.start * window.dilations[0];
        Seen {
            first: first.saturating_sub(window.pads[0][0]) % self.layout.capacity,
            // Where one row is all there is, none comes after it.
            step: window.dilations[0].min(self.layout.capacity),
            taps: on_image.start * window.sides[1]..on_image.end * window.sides[1],
        }
    }
    /// Rows that lie side by side, as they do in a ring of pixels from each multiple of its capacity on.
    pub(crate) fn side_by_side(&self, rows: Range<usize>) -> &[f32] {
        let pitch = self.layout.steps[0];
        &self.ring()[rows.start % self.layout.capacity * pitch..][..rows.len() * pitch]
    }
    /// Its rows, to be written.
    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_> {
        let elements = self.layout.capacity * self.layout.steps[0];
        RowsMut {
            data: &mut self.data[self.start..][..elements],
            layout: self.layout.clone(),
        }
    }
}

/// Rows of an image that is written: all of them, or the ring of the last ones.
pub(crate) struct RowsMut<'a> {
    data: &'a mut [f32],
    layout: Layout,
}

/// Pixels that are written one after another, each row of the image after the one before it.
pub(crate) struct PlacesMut<'a> {
    rows: RowsMut<'a>,
    next: Place,
}

/// A pixel, by its row in the ring and its column, and where it lies.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    row: usize,
    column: usize,
    at: usize,
}

/// Sixteen channels, or what is left of them, of the pixels of one row.
pub(crate) struct BlockMut<'a> {
    data: &'a mut [f32],
    step: usize,
    lanes: usize,
    width: usize,
}

impl<'a> RowsMut<'a> {
    /// All rows of a whole image, pixel by pixel.
    pub(crate) fn all(image: &'a mut [f32], [height, width]: [usize; 2], channels: usize) -> Self {
        let layout = Layout {
            width,
            channels,
            steps: [width * channels, channels, LANES],
            first: 0,
            capacity: height,
        };
        Self { data: image, layout }
    }

    /// The pixels from the first one of row `n` on.
    pub(crate) fn places(self, n: usize) -> PlacesMut<'a> {
        let Layout {
            steps, first, capacity, ..
        } = self.layout;
        let row = n % capacity;
        let next = Place {
            row,
            column: 0,
            at: row * steps[0] + first,
        };
        PlacesMut { rows: self, next }
    }

    /// Writes row `n` of the image, given pixel by pixel.
    pub(crate) fn put(&mut self, n: usize, pixels: &[f32]) {
        let Layout {
            channels, steps, first, ..
        } = self.layout;
        if steps[1] == channels {
            let at = n % self.layout.capacity * steps[0] + first;
            self.data[at..][..pixels.len()].copy_from_slice(pixels);
            return;
        }
        let row = &mut self.data[n % self.layout.capacity * steps[0]..][..steps[0]];
        for (place, pixel) in pixels.chunks_exact(channels).enumerate() {
            let (blocks, rest) = pixel.as_chunks::<LANES>();
            let mut at = first + place * LANES;
            for block in blocks {
                if let Some(to) = row[at..].first_chunk_mut() {
                    *to = *block;
                }
                at += steps[2];
            }
            if !rest.is_empty() {
                row[at..][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// Where the pixels of row `n` of the image begin.
    #[inline(always)]
    pub(crate) const fn row(&self, n: usize) -> usize {
        n % self.layout.capacity * self.layout.steps[0] + self.layout.first
    }

    /// A block of channels of the row that begins there.
    #[inline(always)]
    pub(crate) fn block(&mut self, row: usize, block: usize) -> BlockMut<'_> {
        let steps = self.layout.steps;
        BlockMut {
            data: &mut self.data[row + block * steps[2]..],
            step: steps[1],
            lanes: LANES.min(self.layout.channels - block * LANES),
            width: self.layout.width,
        }
    }
}

impl PlacesMut<'_> {
    /// The pixel that is written next.
    pub(crate) const fn next(&self) -> Place {
        self.next
    }
    /// Goes on from this one.
    pub(crate) const fn go_on(&mut self, from: Place) {
        self.next = from;
    }

    /// Where a pixel lies; moves on to the one behind it.
    #[inline(always)]
    pub(crate) fn step(&self, place: &mut Place) -> usize {
        let (Layout { steps, first, .. }, at) = (&self.rows.layout, place.at);
        place.at += steps[1];
        place.column += 1;
        if place.column == self.rows.layout.width {
            place.row = if place.row + 1 < self.rows.layout.capacity {
                place.row + 1
            } else {
                0
            };
            (place.column, place.at) = (0, place.row * steps[0] + first);
        }
        at
    }

    /// Channels from a multiple of sixteen on, of the pixel that lies there: so many whole blocks, so far one from the next, and
    /// `last` channels more. That far is no less than a block.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn blocks(&mut self, at: usize, channel: usize, (whole, last): (usize, usize)) -> (&mut [f32], usize) {
        let step = self.rows.layout.steps[2];
        assert!(step >= LANES);
        let at = at + channel / LANES * step;
        (&mut self.rows.data[at..at + whole * step + last], step)
    }

    /// Writes sixteen channels, or those that are left, from a multiple of sixteen on, of the pixel that lies there.
    #[inline(always)]
    pub(crate) fn put(&mut self, at: usize, channel: usize, values: &[f32; LANES]) {
        let Layout { steps, channels, .. } = &self.rows.layout;
        let to = &mut self.rows.data[at + channel / LANES * steps[2]..];
        let left = channels - channel;
        match to.first_chunk_mut::<LANES>() {
            Some(to) if left >= LANES => *to = *values,
            _ => to[..left].copy_from_slice(&values[..left]),
        }
    }
}

impl BlockMut<'_> {
    /// Pixels of the row.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// Writes this block of pixels from `place` on.
    ///
    /// # Panics
    /// When there are not so many.
    #[inline(always)]
    pub(crate) fn put<const P: usize>(&mut self, place: usize, pixels: &[[f32; LANES]; P]) {
        assert!(place + P <= self.width);
        let to = &mut self.data[place * self.step..][..(P - 1) * self.step + self.lanes];
        for (at, pixel) in pixels.iter().enumerate() {
            if self.lanes < LANES {
                to[at * self.step..][..self.lanes].copy_from_slice(&pixel[..self.lanes]);
                continue;
            }
            // SAFETY: `to` was cut to end with the last pixel's sixteen elements.
            unsafe { to.as_mut_ptr().add(at * self.step).cast::<[f32; LANES]>().write(*pixel) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channel `c` of pixel `p` is `row + p / 10 + c / 1000`.
    fn row(n: usize, width: usize, channels: usize) -> Vec<f32> {
        let at = |i: usize| n as f32 + (i / channels) as f32 / 10.0 + (i % channels) as f32 / 1000.0;
        (0..width * channels).map(at).collect()
    }

    #[test]
    fn rows_in_blocks_are_aligned_and_keep_zeros_around_them_when_the_ring_is_used_again() {
        let mut lines = Lines::default();
        lines.reset_pixels(2, 40, 3);
        lines.rows_mut().put(1, &[7.0; 120]);
        lines.reset_blocks(3, [4, 18], [1, 2], 0.0);
        assert!(lines.ring().as_ptr().addr().is_multiple_of(64));
        let [pitch, pixel, block] = lines.steps();
        assert_eq!([pitch, pixel, block], [2 * 7 * 16, 16, 7 * 16]);
        let told = row(4, 4, 18);
        lines.rows_mut().put(4, &told);
        let row = &lines.ring()[pitch..][..pitch];
        for (at, channel) in (0..7).flat_map(|at| (0..18).map(move |channel| (at, channel))) {
            let pixel_of = (1..5).contains(&at).then(|| told[(at - 1) * 18 + channel]);
            let found = row[channel / 16 * block + at * pixel + channel % 16];
            assert_eq!(found, pixel_of.unwrap_or(0.0), "{at} {channel}");
        }
    }

    #[test]
    fn rows_by_pixels_lie_side_by_side() {
        let mut lines = Lines::default();
        lines.reset_pixels(2, 5, 18);
        for n in 2..4 {
            lines.rows_mut().put(n, &row(n, 5, 18));
        }
        assert_eq!(lines.side_by_side(2..4), [row(2, 5, 18), row(3, 5, 18)].concat());
    }
}
