//! How a chain runs: which stage goes on, and from which lines to which.

use super::{Chain, Layer, Order, Stage};
use crate::activation::add_and_activate;
use crate::conv::STRIP_MIN;
use crate::lines::{Lines, PlacesMut, RowsMut};
use crate::{Isa, MaxPool, QuantizedRows, exchange_axes};

/// Rows to make at a time, at least: neighbours look at the same pixels.
const ROWS_MIN: usize = 2;

/// What a [`Chain`] needs while it runs. Reuse one for many calls: it keeps its memory.
#[derive(Debug, Default)]
pub struct ChainScratch {
    image: QuantizedRows,
    rows: QuantizedRows,
    /// An image that came in planes, and what windows see of one.
    pixels: Vec<f32>,
    seen: Vec<f32>,
    strip: Vec<f32>,
    /// The lines before each stage; those of the longest chain so far, so that none is made again.
    lines: Vec<Lines>,
    /// The image, then what each stage makes.
    made: Vec<Made>,
}

impl ChainScratch {
    /// Bytes that it keeps.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let floats = [&self.pixels, &self.seen, &self.strip].map(Vec::capacity);
        let floats = floats.into_iter().sum::<usize>() * size_of::<f32>();
        let lines: usize = self.lines.iter().map(Lines::bytes).sum();
        floats + lines + self.image.bytes() + self.rows.bytes()
    }
}

/// An image that is being made row by row.
#[derive(Clone, Copy, Debug)]
struct Made {
    size: [usize; 2],
    channels: usize,
    /// So many rows are there.
    rows: usize,
    /// So many are made at a time.
    strip: usize,
}

impl Chain {
    /// Writes all places of one image, row by row, pixel by pixel, channel by channel, or [adds](Self::onto) them there.
    ///
    /// # Panics
    /// When the image or `y` has another length than its size says, or planes are given to what [sees](Self::sees_all) pixels.
    pub fn run(
        &self,
        isa: Isa,
        (image, order): (&[f32], Order),
        size: [usize; 2],
        scratch: &mut ChainScratch,
        y: &mut [f32],
    ) {
        let holds = |[height, width]: [usize; 2], channels: usize| height.checked_mul(width)?.checked_mul(channels);
        let (places, channels) = (self.places(size).unwrap_or([0, 0]), self.channels());
        assert!(
            holds(size, channels[0]) == Some(image.len()) && holds(places, channels[1]) == Some(y.len()),
            "{} elements for {size:?} pixels of {} into {} for {places:?} of {}",
            image.len(),
            channels[0],
            y.len(),
            channels[1]
        );
        assert!(order == Order::Pixels || self.sees_all(), "pixels are needed whole");
        if y.is_empty() {
            return;
        }
        if self.sees_all() {
            self.look(isa, (image, order), channels[0], scratch);
        }
        self.prepare(size, scratch);
        let last = self.stages.len();
        let mut level = last;
        while scratch.made[last].rows < places[0] {
            let Some(rows) = self.able(level, &scratch.made, &scratch.lines[..last]) else {
                // What stands after this one could not go on either, so what stands before it can.
                level -= 1;
                continue;
            };
            match level {
                0 => {
                    let (row, pixels) = (scratch.made[0].rows, size[1] * channels[0]);
                    scratch.lines[0].rows_mut().put(row, &image[row * pixels..][..pixels]);
                }
                _ => self.make(isa, level, rows, (image, order), scratch, y),
            }
            scratch.made[level].rows += rows;
            level = (level + 1).min(last);
        }
    }

    /// Codes the image, or lays its pixels side by side, for a first stage that looks at it as a whole.
    fn look(&self, isa: Isa, (image, order): (&[f32], Order), channels: usize, scratch: &mut ChainScratch) {
        match (&*self.stages[0].layer, order) {
            (Layer::Exact(_), Order::Pixels) => {}
            (Layer::Exact(_), Order::Planes) => {
                scratch.pixels.resize(image.len(), 0.0);
                let planes = [1, channels, image.len() / channels, 1];
                exchange_axes(image, planes, &mut scratch.pixels);
            }
            (_, Order::Pixels) => scratch.image.quantize(isa, image, image.len()),
            (_, Order::Planes) => scratch.image.quantize_planes(isa, image, channels, &mut scratch.rows),
        }
    }

    /// Says what will be made, and makes room for lines.
    fn prepare(&self, size: [usize; 2], scratch: &mut ChainScratch) {
        if scratch.lines.len() < self.stages.len() {
            scratch.lines.resize_with(self.stages.len(), Lines::default);
        }
        scratch.made.clear();
        let whole = self.stages[0].layer.mixes();
        scratch.made.push(Made {
            size,
            channels: self.channels()[0],
            rows: if whole { size[0] } else { 0 },
            strip: 1,
        });
        let mut before = size;
        for stage in &self.stages {
            // `run` saw that there are places.
            let size = stage.layer.window().places(before).unwrap_or([0, 0]);
            let strip = STRIP_MIN.div_ceil(size[1].max(1)).max(ROWS_MIN);
            scratch.made.push(Made {
                size,
                channels: stage.layer.channels()[1],
                rows: 0,
                strip: strip.min(size[0]),
            });
            before = size;
        }
        for (at, (lines, stage)) in scratch.lines.iter_mut().zip(&self.stages).enumerate() {
            let ([from, to], window) = ([scratch.made[at], scratch.made[at + 1]], stage.layer.window());
            match &*stage.layer {
                Layer::Mixed(_) | Layer::Exact(_) if at == 0 => {}
                Layer::Mixed(_) | Layer::Exact(_) => lines.reset_pixels(to.strip, from.size[1], from.channels),
                layer @ (Layer::Apart(_) | Layer::Pooled(_)) => {
                    let sees = (window.sides[0] - 1) * window.dilations[0] + 1;
                    let rows = (to.strip - 1) * window.strides[0] + sees + from.strip - 1;
                    let padding = match layer {
                        Layer::Pooled(_) => MaxPool::PADDING,
                        _ => 0.0,
                    };
                    let row = [from.size[1], from.channels];
                    lines.reset_blocks(rows.min(from.size[0]), row, window.pads[1], padding);
                }
            }
        }
    }

    /// How many rows the image, or what a stage makes, can get now; `None` where it should wait.
    fn able(&self, level: usize, made: &[Made], lines: &[Lines]) -> Option<usize> {
        let this = made[level];
        let left = this.size[0] - this.rows;
        let seen = match level.checked_sub(1) {
            None => left,
            Some(before) => {
                let (window, from) = (self.stages[before].layer.window(), made[before]);
                let sees = (window.sides[0] - 1) * window.dilations[0] + 1;
                let there = (from.rows + window.pads[0][0]).checked_sub(sees);
                let whole = if from.rows == from.size[0] {
                    this.size[0]
                } else {
                    there.map_or(0, |there| there / window.strides[0] + 1)
                };
                whole.min(this.size[0]).saturating_sub(this.rows)
            }
        };
        let room = match (lines.get(level), self.stages.get(level)) {
            (Some(lines), Some(taker)) => {
                let window = taker.layer.window();
                let needed = (made[level + 1].rows * window.strides[0]).saturating_sub(window.pads[0][0]);
                lines.capacity().saturating_sub(this.rows.saturating_sub(needed))
            }
            _ => left,
        };
        let rows = seen.min(room).min(this.strip);
        (rows > 0 && rows >= this.strip.min(left)).then_some(rows)
    }

    /// Makes the next rows of what a stage gives.
    fn make(
        &self,
        isa: Isa,
        level: usize,
        rows: usize,
        (image, order): (&[f32], Order),
        scratch: &mut ChainScratch,
        y: &mut [f32],
    ) {
        let ChainScratch {
            image: codes,
            rows: coded,
            pixels,
            seen,
            strip,
            lines,
            made,
        } = scratch;
        let Stage { layer, activation } = &self.stages[level - 1];
        let (from, this) = (made[level - 1], made[level]);
        let (first, row) = (this.rows, this.size[1] * this.channels);
        let these = first..first + rows;
        let (before, after) = lines[..self.stages.len()].split_at_mut(level);
        let before = &before[level - 1];
        let above = (before, from.size[0]);
        fn to<'a>(after: &'a mut [Lines], y: &'a mut [f32], this: Made) -> RowsMut<'a> {
            match after.first_mut() {
                Some(lines) => lines.rows_mut(),
                None => RowsMut::all(y, this.size, this.channels),
            }
        }
        let places = first * this.size[1]..(first + rows) * this.size[1];
        let points = || match level {
            1 => {
                let pixels = from.size[1] * from.channels;
                &image[first * pixels..][..rows * pixels]
            }
            _ => before.side_by_side(these.clone()),
        };
        let run = |activation, to: &mut PlacesMut<'_>| match &**layer {
            Layer::Mixed(conv) if conv.window().is_point() => conv.points(isa, points(), coded, activation, to),
            Layer::Mixed(conv) => conv.windows(isa, (codes, from.size), places.clone(), coded, activation, to),
            Layer::Exact(conv) if conv.window().is_point() => conv.points(isa, points(), activation, to),
            Layer::Exact(conv) => {
                let image = if order == Order::Planes { pixels } else { image };
                conv.windows(isa, (image, from.size), places.clone(), seen, activation, to);
            }
            Layer::Apart(_) | Layer::Pooled(_) => {}
        };
        match &**layer {
            Layer::Apart(conv) => conv.rows(isa, above, these, *activation, &mut to(after, y, this)),
            Layer::Pooled(pool) => pool.rows(isa, above, these, *activation, &mut to(after, y, this)),
            Layer::Mixed(_) | Layer::Exact(_) => {
                let Some(then) = self.onto.filter(|_| after.is_empty()) else {
                    return run(*activation, &mut to(after, y, this).places(first));
                };
                if strip.len() < rows * row {
                    strip.resize(rows * row, 0.0);
                }
                let made = &mut strip[..rows * row];
                run(
                    *activation,
                    &mut RowsMut::all(made, [rows, this.size[1]], this.channels).places(0),
                );
                add_and_activate(isa, then, made, &mut y[first * row..][..rows * row]);
            }
        }
    }
}
