//! Weights of a linear layer, packed for dot products of four bytes.

use std::sync::Arc;

use crate::isa::Kind;
use crate::lines::{PlacesMut, RowsMut};
use crate::stored::{MappedFile, Plain, Stored, read_words};
use crate::{Activation, Isa, QuantizedRows, tile};

/// Output channels of one block: a 512-bit vector of sums.
pub(crate) const LANES: usize = 16;
/// Blocks side by side in a panel, that one tile computes.
pub(crate) const PANEL_BLOCKS: usize = 4;
/// Codes that one dot product takes.
pub(crate) const GROUP: usize = 4;

/// Four codes for each of sixteen channels: `[lane][code]`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Block(pub(crate) [i8; LANES * GROUP]);
// SAFETY: 64 numbers of one byte, and as many bytes.
unsafe impl Plain for Block {}

/// A linear layer `y = x W + b` with weights of one byte, `x` of `inputs` and `y` of `outputs` elements.
///
/// ```text
///   packed: panels of up to 64 channels, one after another; in a panel, for every 4 inputs, its blocks of 16 channels
/// ```
/// Result: `y = sum * (row_scale * channel_scale) + bias` with the exact integer `sum` of products of `code - zero` and weights;
/// the scales' product is rounded, then product and sum together.
#[derive(Debug)]
pub struct Linear {
    inputs: usize,
    outputs: usize,
    pub(crate) blocks: Stored<Block>,
    /// Each a multiple of 16 long; what pads them is 0.
    pub(crate) scales: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    /// The sum of a channel's codes: what one step of a row's zero adds to each sum.
    pub(crate) totals: Vec<i32>,
}

/// Weights that are not what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError(pub(crate) String);

impl std::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for ShapeError {}

impl Linear {
    /// Most inputs: the sum of so many products fits 32 bits, whatever the codes are, and an 128th of so many weights 16 bits.
    pub const INPUTS_MAX: usize = 1 << 15;

    /// Packs `codes` (`inputs` x `outputs`, row-major), one scale a channel, and a bias or nothing (taken for zeros).
    ///
    /// # Errors
    /// [`ShapeError`] when lengths do not fit each other, or there are more than [`Linear::INPUTS_MAX`] inputs.
    pub fn pack(codes: &[i8], inputs: usize, scales: &[f32], bias: Option<&[f32]>) -> Result<Self, ShapeError> {
        let outputs = scales.len();
        if inputs == 0 || outputs == 0 || inputs.checked_mul(outputs) != Some(codes.len()) {
            let told = format!("{} codes are no weights of {inputs} x {outputs}", codes.len());
            return Err(ShapeError(told));
        }
        if inputs > Self::INPUTS_MAX {
            return Err(ShapeError(format!("{inputs} inputs, at most {}", Self::INPUTS_MAX)));
        }
        if let Some(bias) = bias.filter(|b| b.len() != outputs) {
            return Err(ShapeError(format!("a bias of {} for {outputs} outputs", bias.len())));
        }
        let padded = outputs.next_multiple_of(LANES);
        let groups = inputs.div_ceil(GROUP);
        let mut blocks = vec![Block([0; LANES * GROUP]); groups * padded / LANES];
        let mut totals = vec![0; padded];
        for (group, rows) in codes.chunks(GROUP * outputs).enumerate() {
            for (block, first) in (0..outputs).step_by(LANES).enumerate() {
                let panel = block / PANEL_BLOCKS;
                let wide = panel_blocks(padded, panel);
                let at = panel * PANEL_BLOCKS * groups + group * wide + block % PANEL_BLOCKS;
                for (code, row) in rows.chunks_exact(outputs).enumerate() {
                    let row = &row[first..outputs.min(first + LANES)];
                    let lanes = blocks[at].0.as_chunks_mut::<GROUP>().0;
                    for ((lane, total), value) in lanes.iter_mut().zip(&mut totals[first..]).zip(row) {
                        lane[code] = *value;
                        *total += i32::from(*value);
                    }
                }
            }
        }
        let pad = |values: &[f32]| {
            let mut values = values.to_vec();
            values.resize(padded, 0.0);
            values
        };
        Ok(Self {
            inputs,
            outputs,
            blocks: Stored::Own(blocks),
            scales: pad(scales),
            bias: pad(bias.unwrap_or(&[])),
            totals,
        })
    }

    /// Where in a file a section may begin: at multiples of this.
    pub const SECTION_ALIGN: usize = align_of::<Block>();

    /// Appends the layer as [`Linear::mapped`] takes it: packed codes, then scales, bias and totals.
    pub fn write(&self, section: &mut Vec<u8>) {
        section.extend_from_slice(self.blocks.bytes());
        section.extend(self.scales.iter().chain(&self.bias).flat_map(|v| v.to_le_bytes()));
        section.extend(self.totals.iter().flat_map(|v| v.to_le_bytes()));
    }

    /// A layer whose section begins at `at` of a file; its codes stay there.
    ///
    /// # Errors
    /// [`ShapeError`] when the file ends before the section, or it begins elsewhere than [`Linear::SECTION_ALIGN`] says.
    pub fn mapped(file: &Arc<MappedFile>, at: usize, inputs: usize, outputs: usize) -> Result<Self, ShapeError> {
        let section = || {
            let padded = outputs.checked_next_multiple_of(LANES)?;
            let codes = inputs.div_ceil(GROUP).checked_mul(GROUP)?.checked_mul(padded)?;
            let words = padded.checked_mul(4)?;
            let starts = [0, 1, 2, 3].map(|part| at.checked_add(codes)?.checked_add(words.checked_mul(part)?));
            let [scales, bias, totals, end] = starts;
            let part = |from: Option<usize>, to: Option<usize>| file.bytes().get(from?..to?);
            let blocks = Stored::of_file(file, at..scales?)?;
            let ready = (1..=Self::INPUTS_MAX).contains(&inputs) && outputs > 0;
            ready.then_some(Self {
                inputs,
                outputs,
                blocks,
                scales: read_words(part(scales, bias)?, f32::from_le_bytes),
                bias: read_words(part(bias, totals)?, f32::from_le_bytes),
                totals: read_words(part(totals, end)?, i32::from_le_bytes),
            })
        };
        let bytes = file.bytes().len();
        section().ok_or_else(|| {
            ShapeError(format!(
                "no weights of {inputs} x {outputs} lie at {at} of {bytes} bytes"
            ))
        })
    }

    /// Elements of a row of `x`.
    #[must_use]
    pub const fn inputs(&self) -> usize {
        self.inputs
    }
    /// Elements of a row of `y`.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.outputs
    }
    pub(crate) const fn groups(&self) -> usize {
        self.inputs.div_ceil(GROUP)
    }

    /// Writes a row of `y` for each row of `x`.
    ///
    /// # Panics
    /// When rows of `x` have another width than this layer's inputs, or `y` another length than rows times outputs.
    pub fn run(&self, isa: Isa, x: &QuantizedRows, y: &mut [f32]) {
        assert!(
            x.width() == self.inputs && Some(y.len()) == x.rows().checked_mul(self.outputs),
            "rows of {} into {} elements, by a layer of {} x {}",
            x.width(),
            y.len(),
            self.inputs,
            self.outputs
        );
        if !y.is_empty() {
            let rows = RowsMut::all(y, [x.rows(), 1], self.outputs);
            self.run_into(isa, x, Activation::None, &mut rows.places(0));
        }
    }

    /// Writes a pixel, activated, for each row of `x`.
    ///
    /// # Panics
    /// When rows of `x` have another width than this layer's inputs, or pixels fewer channels than it has outputs.
    pub(crate) fn run_into(&self, isa: Isa, x: &QuantizedRows, activation: Activation, y: &mut PlacesMut<'_>) {
        assert!(x.width() == self.inputs);
        match isa.0 {
            Kind::Portable => tile::portable::run(self, x, activation, y),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => tile::avx2::run(self, x, activation, y, isa),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => tile::avx512::run(self, x, activation, y, isa),
        }
    }

    /// The panels: first channel, blocks wide, and the blocks, those of one group of inputs together.
    pub(crate) fn panels(&self) -> impl Iterator<Item = (usize, usize, &[Block])> {
        let padded = self.scales.len();
        let panel_bytes = PANEL_BLOCKS * self.groups();
        self.blocks.chunks(panel_bytes).enumerate().map(move |(panel, blocks)| {
            let first = panel * PANEL_BLOCKS * LANES;
            (first, panel_blocks(padded, panel), blocks)
        })
    }
}

/// Blocks side by side in a panel: four, fewer in the last one.
const fn panel_blocks(padded: usize, panel: usize) -> usize {
    let left = padded / LANES - panel * PANEL_BLOCKS;
    if left < PANEL_BLOCKS { left } else { PANEL_BLOCKS }
}

#[cfg(test)]
pub(crate) mod tests;
