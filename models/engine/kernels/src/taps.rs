//! The inner loop of convolutions that keep channels apart: a few places by sixteen channels, in each form's own registers.

/// Channels of one call.
pub(crate) const LANES: usize = 16;

/// What a row of places sums: rows of taps over rows of a ring.
pub(crate) struct Taps<'a> {
    /// So many rows of `pitch` elements.
    pub(crate) ring: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) pitch: usize,
    /// The ring's row under the first row of taps, and how many on the next one lies.
    pub(crate) first: usize,
    pub(crate) step: usize,
    /// For each tap, row by row, sixteen channels.
    pub(crate) weights: &'a [[f32; LANES]],
    /// Taps of a row.
    pub(crate) side: usize,
    /// Where the first place's first tap lies in a row.
    pub(crate) at: usize,
    /// Elements from tap to tap, and from place to place.
    pub(crate) steps: [usize; 2],
    pub(crate) places: usize,
}

/// [`Taps`] all of which lie on elements that are there.
pub(crate) struct Checked<'a>(Taps<'a>);

impl<'a> Taps<'a> {
    /// # Panics
    /// When a tap of a place lies beyond its row, or the ring holds no whole rows.
    #[inline(always)]
    pub(crate) fn check(self) -> Checked<'a> {
        // In 128 bits, where no product is cut off and seems to be small.
        let far = |count: usize, step: usize| count.saturating_sub(1) as u128 * step as u128;
        let last = far(self.side, self.steps[0]) + far(self.places, self.steps[1]) + (self.at + LANES) as u128;
        assert!(self.at < self.pitch && last <= self.pitch as u128);
        assert!(self.rows.checked_mul(self.pitch) == Some(self.ring.len()));
        assert!(self.first < self.rows && self.step <= self.rows);
        Checked(self)
    }

    /// Where the next row of taps looks.
    #[inline(always)]
    const fn next(&self, row: usize) -> usize {
        let (row, end) = (row + self.step * self.pitch, self.ring.len());
        if row < end { row } else { row - end }
    }
}

/// A form of the loop. Every form multiplies and adds in one rounding, tap by tap, so all give the same bits.
pub(crate) trait Sums {
    /// Places along a row that share each weight they load: as many sums as hide an addition's latency and fit the registers.
    const PLACES: usize;

    /// `P` places from `place` on, each `start` plus the sum of its taps; `SIDE` is 0 or how many taps a row has, and `STEP` is 0 or
    /// how many elements it is from place to place where taps are neighbours: known, they cost no registers.
    ///
    /// # Panics
    /// When there are fewer places, rows have another number of taps, or steps are others.
    ///
    /// # Safety
    /// The processor has the form's instructions.
    unsafe fn sums<const P: usize, const SIDE: usize, const STEP: usize>(
        taps: &Checked<'_>,
        place: usize,
        start: &[f32; LANES],
    ) -> [[f32; LANES]; P];
}

/// Plain loops.
pub(crate) struct Portable;

impl Sums for Portable {
    const PLACES: usize = 4;

    #[inline(always)]
    unsafe fn sums<const P: usize, const SIDE: usize, const STEP: usize>(
        Checked(taps): &Checked<'_>,
        place: usize,
        start: &[f32; LANES],
    ) -> [[f32; LANES]; P] {
        let mut sums = [*start; P];
        let mut row = taps.first * taps.pitch;
        for weights in taps.weights.chunks_exact(taps.side) {
            for (tap, weights) in weights.iter().enumerate() {
                for (at, sums) in sums.iter_mut().enumerate() {
                    let pixel = row + taps.at + tap * taps.steps[0] + (place + at) * taps.steps[1];
                    for (sum, (x, w)) in sums.iter_mut().zip(taps.ring[pixel..][..LANES].iter().zip(weights)) {
                        *sum = x.mul_add(*w, *sum);
                    }
                }
            }
            row = taps.next(row);
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! of_vectors {
    ($(#[$doc:meta])* $name:ident, $lanes:literal, $places:literal, $load:ident, $fused:ident, $store:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Sums for $name {
            const PLACES: usize = $places;

            #[inline(always)]
            unsafe fn sums<const P: usize, const SIDE: usize, const STEP: usize>(
                Checked(taps): &Checked<'_>,
                place: usize,
                start: &[f32; LANES],
            ) -> [[f32; LANES]; P] {
                use std::arch::x86_64::*;
                const VECTORS: usize = LANES / $lanes;
                let side = if SIDE == 0 { taps.side } else { SIDE };
                let steps = if STEP == 0 { taps.steps } else { [LANES, STEP] };
                assert!(place + P <= taps.places && side == taps.side && steps == taps.steps);
                let mut y = [[0.0_f32; LANES]; P];
                let mut row = taps.first * taps.pitch;
                let mut tap = 0;
                // SAFETY: the caller has the instructions. The last tap of the last place ends within a row, which the ring holds
                // whole: `Taps::check` saw it. `row` starts at one, as it does after each `next`, which goes on by whole rows and
                // back by all. `tap` and the rest of its row are before the end of the weights. `start` and a row of `y` have 16
                // elements.
                unsafe {
                    let start: [_; VECTORS] = std::array::from_fn(|v| $load(start.as_ptr().add(v * $lanes)));
                    let mut sums = [start; P];
                    while tap + side <= taps.weights.len() {
                        let weights = taps.weights.as_ptr().add(tap).cast::<f32>();
                        let pixels = taps.ring.as_ptr().add(row + taps.at + place * steps[1]);
                        for tap in 0..side {
                            let weights: [_; VECTORS] =
                                std::array::from_fn(|v| $load(weights.add(tap * LANES + v * $lanes)));
                            for place in 0..P {
                                let seen = pixels.add(tap * taps.steps[0] + place * steps[1]);
                                for v in 0..VECTORS {
                                    sums[place][v] = $fused($load(seen.add(v * $lanes)), weights[v], sums[place][v]);
                                }
                            }
                        }
                        tap += side;
                        row = taps.next(row);
                    }
                    for place in 0..P {
                        for v in 0..VECTORS {
                            $store(y[place].as_mut_ptr().add(v * $lanes), sums[place][v]);
                        }
                    }
                }
                y
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
of_vectors!(
    /// A vector of 16.
    Avx512, 16, 14, _mm512_loadu_ps, _mm512_fmadd_ps, _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
of_vectors!(
    /// Two vectors of 8.
    Avx2, 8, 4, _mm256_loadu_ps, _mm256_fmadd_ps, _mm256_storeu_ps
);
