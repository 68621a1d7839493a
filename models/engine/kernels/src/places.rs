//! Where a linear layer writes the rows that it gives, and what is done to them on the way.

use crate::Activation;
use crate::linear::LANES;

/// Room for rows of channels. A row's blocks of sixteen channels may lie apart, and rows anywhere.
pub(crate) struct Places<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) starts: Starts<'a>,
    /// Elements from block of channels to block.
    pub(crate) block: usize,
    pub(crate) activation: Activation,
}

/// Where rows start.
pub(crate) enum Starts<'a> {
    /// So many elements apart.
    Every(usize),
    /// A row each.
    At(&'a [usize]),
}

impl<'a> Places<'a> {
    /// Rows side by side, to which nothing is done.
    pub(crate) fn side_by_side(y: &'a mut [f32], outputs: usize) -> Self {
        Self {
            data: y,
            starts: Starts::Every(outputs),
            block: LANES,
            activation: Activation::None,
        }
    }

    /// Where row `row` starts.
    #[inline(always)]
    pub(crate) fn start(&self, row: usize) -> usize {
        match self.starts {
            Starts::Every(step) => row * step,
            Starts::At(starts) => starts[row],
        }
    }

    /// The first `lanes` of a block's channels, of a row that starts at `start`.
    ///
    /// # Panics
    /// When they do not lie in the room.
    #[inline(always)]
    pub(crate) fn block(&mut self, start: usize, block: usize, lanes: usize) -> &mut [f32] {
        &mut self.data[start + block * self.block..][..lanes]
    }

    /// Does what is to be done to a block and writes the first `lanes` of it.
    #[inline(always)]
    pub(crate) fn put(&mut self, start: usize, block: usize, mut values: [f32; LANES], lanes: usize) {
        self.activation.apply_here(&mut values);
        self.block(start, block, lanes).copy_from_slice(&values[..lanes]);
    }
}
