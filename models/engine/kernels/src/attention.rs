//! Attention of every query to all keys, head by head, without ever holding the scores of more than a few queries.

use crate::Isa;
use crate::isa::Kind;
use crate::outer::{self, COLUMNS, Outer};
use crate::vector::softmax_row;

/// Queries that are computed together.
const QUERIES: usize = 6;

/// Sizes of one call. Queries, keys, values and the answer are rows of `heads * width` elements, a row a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Tokens that ask.
    pub queries: usize,
    /// Tokens that are asked.
    pub keys: usize,
    /// Heads side by side in a row.
    pub heads: usize,
    /// Elements of one head.
    pub width: usize,
}

/// Memory that calls reuse.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// Keys of one head, turned: panels of 32 keys, in a panel one row for each element.
    panels: Vec<f32>,
    /// Scores of some queries, rows as long as all panels.
    scores: Vec<f32>,
}

/// What is added to the scores: for head `h` and query `q` the row of `keys` elements at `h * head_step + q * query_step`.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// From head to head; 0 where all heads share.
    pub head_step: usize,
    /// From query to query; 0 where all queries share.
    pub query_step: usize,
}

impl AttentionShape {
    /// Whether all slices have the lengths that this shape says.
    fn fits(&self, call: &Attention<'_>, y: &[f32]) -> bool {
        let elements = |tokens: usize| tokens.checked_mul(self.heads)?.checked_mul(self.width);
        let masked = call.mask.is_none_or(|mask| {
            let step = |count: usize, step: usize| count.saturating_sub(1).checked_mul(step);
            let last = step(self.heads, mask.head_step).zip(step(self.queries, mask.query_step));
            let needed = last.and_then(|(head, query)| head.checked_add(query)?.checked_add(self.keys));
            needed.is_some_and(|needed| mask.values.len() >= needed)
        });
        let [asking, asked] = [self.queries, self.keys].map(elements);
        let lengths = [call.q, y].map(|slice| asking == Some(slice.len()));
        let others = [call.k, call.v].map(|slice| asked == Some(slice.len()));
        self.width > 0 && masked && lengths == [true; 2] && others == [true; 2]
    }
}

/// One call: what is asked, of what, and what is added.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Sizes.
    pub shape: AttentionShape,
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Added to the scores.
    pub mask: Option<Mask<'a>>,
    /// Scores are multiplied by it.
    pub scale: f32,
}

impl Attention<'_> {
    /// `y = softmax(scale * q k^T + mask) v` for every head.
    ///
    /// # Panics
    /// When a slice has another length than the shape says.
    pub fn run(self, isa: Isa, scratch: &mut AttentionScratch, y: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2(call: Attention<'_>, scratch: &mut AttentionScratch, y: &mut [f32]) {
            call.heads::<outer::Avx2>(scratch, y);
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn avx512(call: Attention<'_>, scratch: &mut AttentionScratch, y: &mut [f32]) {
            call.heads::<outer::Avx512>(scratch, y);
        }
        assert!(self.shape.fits(&self, y), "slices do not fit {:?}", self.shape);
        match isa.0 {
            Kind::Portable => self.heads::<outer::Portable>(scratch, y),
            // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(self, scratch, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { avx512(self, scratch, y) },
        }
    }

    #[inline(always)]
    fn heads<O: Outer>(self, scratch: &mut AttentionScratch, y: &mut [f32]) {
        let shape = self.shape;
        let padded = shape.keys.next_multiple_of(COLUMNS);
        scratch.scores.resize(QUERIES * padded, 0.0);
        scratch.panels.resize(padded * shape.width, 0.0);
        for head in 0..shape.heads {
            turn_keys(shape, head, self.k, &mut scratch.panels);
            let mut first = 0;
            while first < shape.queries {
                first += match shape.queries - first {
                    1 => self.some::<O, 1>(head, first, scratch, y),
                    2 | 3 => self.some::<O, 2>(head, first, scratch, y),
                    4 | 5 => self.some::<O, 4>(head, first, scratch, y),
                    _ => self.some::<O, QUERIES>(head, first, scratch, y),
                };
            }
        }
    }

    /// `R` queries of one head from `first`; gives `R`.
    #[inline(always)]
    fn some<O: Outer, const R: usize>(
        self,
        head: usize,
        first: usize,
        scratch: &mut AttentionScratch,
        y: &mut [f32],
    ) -> usize {
        let shape = self.shape;
        let row = shape.heads * shape.width;
        let padded = shape.keys.next_multiple_of(COLUMNS);
        let queries: [&[f32]; R] =
            std::array::from_fn(|r| &self.q[(first + r) * row + head * shape.width..][..shape.width]);
        for (panel, keys) in scratch.panels.chunks_exact(shape.width * COLUMNS).enumerate() {
            // SAFETY: whoever chose `O` has its instructions.
            let sums = unsafe { O::outer::<R>(queries, keys, COLUMNS) };
            for r in 0..R {
                scratch.scores[r * padded + panel * COLUMNS..][..COLUMNS].copy_from_slice(&sums[r]);
            }
        }
        for r in 0..R {
            let scores = &mut scratch.scores[r * padded..][..shape.keys];
            match self.mask {
                None => scores.iter_mut().for_each(|score| *score *= self.scale),
                Some(mask) => {
                    let at = head * mask.head_step + (first + r) * mask.query_step;
                    for (score, add) in scores.iter_mut().zip(&mask.values[at..][..shape.keys]) {
                        *score = *score * self.scale + add;
                    }
                }
            }
            softmax_row(scores);
        }
        let shares: [&[f32]; R] = std::array::from_fn(|r| &scratch.scores[r * padded..][..shape.keys]);
        for column in (0..shape.width).step_by(COLUMNS) {
            let lanes = COLUMNS.min(shape.width - column);
            let at = head * shape.width + column;
            // The last rows of a narrow head may end before 32 columns: those are read one by one.
            let sums = if lanes == COLUMNS {
                // SAFETY: as above.
                unsafe { O::outer::<R>(shares, &self.v[at.min(self.v.len())..], row) }
            } else {
                narrow::<R>(shares, &self.v[at.min(self.v.len())..], row, lanes)
            };
            for r in 0..R {
                y[(first + r) * row + at..][..lanes].copy_from_slice(&sums[r][..lanes]);
            }
        }
        R
    }
}

/// Writes one head's keys as panels; what pads the last one is 0.
#[inline(always)]
fn turn_keys(shape: AttentionShape, head: usize, k: &[f32], panels: &mut [f32]) {
    let row = shape.heads * shape.width;
    for (panel, to) in panels.chunks_exact_mut(shape.width * COLUMNS).enumerate() {
        for lane in 0..COLUMNS {
            let key = panel * COLUMNS + lane;
            let to = to[lane..].iter_mut().step_by(COLUMNS);
            if key < shape.keys {
                let values = &k[key * row + head * shape.width..][..shape.width];
                to.zip(values).for_each(|(to, value)| *to = *value);
            } else {
                to.for_each(|to| *to = 0.0);
            }
        }
    }
}

/// As [`Outer::outer`] for fewer columns.
#[inline(always)]
fn narrow<const R: usize>(a: [&[f32]; R], b: &[f32], step: usize, columns: usize) -> [[f32; COLUMNS]; R] {
    let mut sums = [[0.0; COLUMNS]; R];
    for (sums, a) in sums.iter_mut().zip(a) {
        for (i, a) in a.iter().enumerate() {
            for (sum, b) in sums.iter_mut().zip(&b[i * step..][..columns]) {
                *sum += a * b;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests;
