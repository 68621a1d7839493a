//! Linear layers in FP32: what a file keeps exact, or what two requests' tensors make of each other.

use crate::isa::Kind;
use crate::lines::{PlacesMut, RowsMut};
use crate::products::{self, Block, LANES, Products};
use crate::{Activation, Isa, ShapeError};

/// Rows that share what is fetched of the weights.
const ROWS: usize = 6;
/// Blocks of columns side by side in a panel; fewer in the last one.
const PANEL_BLOCKS: usize = 4;

/// A matrix that rows are multiplied with: `y = start + x W`, input by input, each product rounded only with its sum.
///
/// The default one has nothing in it: [fill](Self::fill) it.
#[derive(Debug, Default)]
pub struct Matrix {
    inputs: usize,
    outputs: usize,
    /// Panel by panel, input by input; what pads the last block is 0.
    blocks: Vec<Block>,
    start: Vec<[f32; LANES]>,
}

impl Matrix {
    /// Packs `weights` (`inputs` x `outputs`) and a start of the sums, or nothing (taken for zeros).
    ///
    /// # Errors
    /// [`ShapeError`] when lengths do not fit each other.
    pub fn new(weights: &[f32], outputs: usize, start: Option<&[f32]>) -> Result<Self, ShapeError> {
        let inputs = weights.len().checked_div(outputs).unwrap_or(0);
        if weights.is_empty() || inputs * outputs != weights.len() {
            return Err(ShapeError(format!("{} weights for {outputs} outputs", weights.len())));
        }
        let mut packed = Self::default();
        packed.fill(weights, [inputs, outputs], [outputs, 1]);
        if let Some(start) = start {
            if start.len() != outputs {
                return Err(ShapeError(format!("a bias of {} for {outputs} outputs", start.len())));
            }
            packed.start.as_flattened_mut()[..outputs].copy_from_slice(start);
        }
        Ok(packed)
    }

    /// Makes it that of `size` (inputs, outputs) whose elements lie so many `steps` apart, with sums from 0. Keeps its memory.
    ///
    /// # Panics
    /// When an element lies behind the end.
    pub fn fill(&mut self, weights: &[f32], size: [usize; 2], steps: [usize; 2]) {
        let [inputs, outputs] = size;
        let blocks = outputs.div_ceil(LANES);
        (self.inputs, self.outputs) = (inputs, outputs);
        self.start.clear();
        self.start.resize(blocks, [0.0; LANES]);
        // What is written over need not be cleared.
        self.blocks.resize(blocks * inputs, Block::ZERO);
        for panel in (0..blocks).step_by(PANEL_BLOCKS) {
            let wide = PANEL_BLOCKS.min(blocks - panel);
            let packed = &mut self.blocks[panel * inputs..][..wide * inputs];
            for (input, blocks) in packed.chunks_exact_mut(wide.max(1)).enumerate() {
                for (at, block) in blocks.iter_mut().enumerate() {
                    let first = (panel + at) * LANES;
                    let lanes = LANES.min(outputs - first);
                    let from = input * steps[0] + first * steps[1];
                    if lanes < LANES {
                        *block = Block::ZERO;
                    }
                    match steps[1] {
                        1 => block.0[..lanes].copy_from_slice(&weights[from..from + lanes]),
                        step => (0..lanes).for_each(|lane| block.0[lane] = weights[from + lane * step]),
                    }
                }
            }
        }
    }

    /// Memory that it holds.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>() + self.start.capacity() * size_of::<[f32; LANES]>()
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

    /// Writes a row of `y` for each row of `x`.
    ///
    /// # Panics
    /// When `x` holds no whole rows of this layer's inputs, or `y` another number of rows of its outputs.
    pub fn run(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        let rows = x.len().checked_div(self.inputs).unwrap_or(0);
        assert!(
            rows * self.inputs == x.len() && rows.checked_mul(self.outputs) == Some(y.len()),
            "{} elements into {}, by a layer of {} x {}",
            x.len(),
            y.len(),
            self.inputs,
            self.outputs
        );
        if !y.is_empty() {
            let to = RowsMut::all(y, [rows, 1], self.outputs);
            self.run_into(isa, x, Activation::None, &mut to.places(0));
        }
    }

    /// Writes a pixel, activated, for each row of `x`.
    ///
    /// # Panics
    /// When `x` holds no whole rows, or pixels have fewer channels than there are outputs.
    pub(crate) fn run_into(&self, isa: Isa, x: &[f32], activation: Activation, y: &mut PlacesMut<'_>) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2(layer: &Matrix, x: &[f32], activation: Activation, y: &mut PlacesMut<'_>) {
            // SAFETY: this function has the instructions.
            unsafe { layer.panels::<products::Avx2>(x, activation, y) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn avx512(layer: &Matrix, x: &[f32], activation: Activation, y: &mut PlacesMut<'_>) {
            // SAFETY: this function has the instructions.
            unsafe { layer.panels::<products::Avx512>(x, activation, y) }
        }
        assert!(self.inputs > 0 && x.len().is_multiple_of(self.inputs));
        match isa.0 {
            // SAFETY: every processor can do plain loops.
            Kind::Portable => unsafe { self.panels::<products::Portable>(x, activation, y) },
            // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(self, x, activation, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { avx512(self, x, activation, y) },
        }
    }

    /// # Safety
    /// The processor has the instructions of `P`.
    #[inline(always)]
    unsafe fn panels<P: Products>(&self, x: &[f32], activation: Activation, y: &mut PlacesMut<'_>) {
        let mut place = y.next();
        for (panel, start) in self.start.chunks(PANEL_BLOCKS).enumerate() {
            let first = panel * PANEL_BLOCKS;
            let weights = &self.blocks[first * self.inputs..][..start.len() * self.inputs];
            place = y.next();
            for rows in x.chunks(ROWS * self.inputs) {
                let mut places = [0; ROWS];
                for at in &mut places[..rows.len() / self.inputs] {
                    *at = y.step(&mut place);
                }
                let tile = Tile {
                    rows,
                    inputs: self.inputs,
                    weights,
                    start,
                    first: first * LANES,
                    places,
                    activation,
                };
                // SAFETY: the caller's promise.
                unsafe {
                    match start.len() {
                        4 => tile.by_rows::<P, 4>(y),
                        3 => tile.by_rows::<P, 3>(y),
                        2 => tile.by_rows::<P, 2>(y),
                        _ => tile.by_rows::<P, 1>(y),
                    }
                }
            }
        }
        y.go_on(place);
    }
}

/// A few rows by a panel.
struct Tile<'a> {
    rows: &'a [f32],
    inputs: usize,
    weights: &'a [Block],
    start: &'a [[f32; LANES]],
    /// The panel's first channel.
    first: usize,
    /// Where each row's pixel lies.
    places: [usize; ROWS],
    activation: Activation,
}

impl Tile<'_> {
    /// # Safety
    /// The processor has the instructions of `P`.
    #[inline(always)]
    unsafe fn by_rows<P: Products, const C: usize>(&self, y: &mut PlacesMut<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.rows.len() / self.inputs {
                6 => self.make::<P, 6, C>(y),
                5 => self.make::<P, 5, C>(y),
                4 => self.make::<P, 4, C>(y),
                3 => self.make::<P, 3, C>(y),
                2 => self.make::<P, 2, C>(y),
                _ => self.make::<P, 1, C>(y),
            }
        }
    }

    /// # Safety
    /// The processor has the instructions of `P`.
    #[inline(always)]
    unsafe fn make<P: Products, const R: usize, const C: usize>(&self, y: &mut PlacesMut<'_>) {
        let Some(start) = self.start.first_chunk::<C>() else {
            return;
        };
        let mut rows = [&[][..]; R];
        for (row, x) in rows.iter_mut().zip(self.rows.chunks_exact(self.inputs)) {
            *row = x;
        }
        // SAFETY: the caller's promise.
        let mut sums = unsafe { P::products::<R, C>(rows, self.weights, start) };
        self.activation.apply_here(sums.as_flattened_mut().as_flattened_mut());
        for (at, blocks) in self.places.iter().zip(&sums) {
            for (block, values) in blocks.iter().enumerate() {
                y.put(*at, self.first + block * LANES, values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conv::tests::{bits, noise};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_form_gives_the_bits_of_the_definition(
            rows in 1_usize..20, inputs in 1_usize..40, outputs in 1_usize..150, turned: bool, seed: u64,
        ) {
            let (weights, start) = (noise(seed, inputs * outputs), noise(seed ^ 1, outputs));
            let x = noise(seed ^ 2, rows * inputs);
            let mut layer = Matrix::new(&noise(seed ^ 3, 7 * 77), 77, None).unwrap();
            let steps = if turned { [1, inputs] } else { [outputs, 1] };
            layer.fill(&weights, [inputs, outputs], steps);
            let biased = (!turned).then(|| Matrix::new(&weights, outputs, Some(&start)).unwrap());
            for (layer, start) in [(Some(layer), vec![0.0; outputs]), (biased, start)] {
                let Some(layer) = layer else { continue };
                let mut exact = Vec::new();
                for row in x.chunks(inputs) {
                    for output in 0..outputs {
                        let weight = |input: usize| weights[input * steps[0] + output * steps[1]];
                        let products = row.iter().enumerate();
                        exact.push(products.fold(start[output], |sum, (input, x)| x.mul_add(weight(input), sum)));
                    }
                }
                for isa in Isa::available() {
                    let mut y = vec![f32::NAN; rows * outputs];
                    layer.run(isa, &x, &mut y);
                    prop_assert_eq!(bits(&y), bits(&exact), "{}", isa.name());
                }
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert!(Matrix::new(&[0.0; 8], 3, None).is_err());
        assert!(Matrix::new(&[], 0, None).is_err());
        assert!(Matrix::new(&[], 4, None).is_err());
        assert!(Matrix::new(&[0.0; 8], 4, Some(&[0.0; 3])).is_err());
    }
}
