//! Where a convolution's window stands on an image.

use crate::ShapeError;

/// A window that slides over an image of `height` x `width` pixels; each pair is rows, then columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps of a side.
    pub sides: [usize; 2],
    /// Pixels from one place to the next.
    pub strides: [usize; 2],
    /// Pixels from tap to tap.
    pub dilations: [usize; 2],
    /// Zeros before the first pixel and after the last.
    pub pads: [[usize; 2]; 2],
}

impl Window {
    /// Most pixels along an axis, padding included, and most pixels of a step: what is computed of so few, and of elements
    /// that are in memory, is within an address.
    const SIDE_MAX: usize = 1 << 28;

    /// Rows and columns of places; `None` where the window does not fit, has no taps or no step, or is larger than any image.
    #[must_use]
    pub fn places(&self, image: [usize; 2]) -> Option<[usize; 2]> {
        Some([self.places_along(0, image[0])?, self.places_along(1, image[1])?])
    }

    /// Places along axis 0 or 1 of an image that has `size` pixels there.
    #[must_use]
    pub fn places_along(&self, axis: usize, size: usize) -> Option<usize> {
        let (stride, dilation) = (self.strides[axis], self.dilations[axis]);
        let reach = self.sides[axis].checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        let padded = size.checked_add(self.pads[axis][0])?.checked_add(self.pads[axis][1])?;
        let steps = (1..=Self::SIDE_MAX).contains(&stride) && (1..=Self::SIDE_MAX).contains(&dilation);
        let left = padded
            .checked_sub(reach)
            .filter(|_| steps && padded <= Self::SIDE_MAX)?;
        Some(left / stride + 1)
    }

    /// Whether a layer of so many inputs looks through it at pixels of so many channels.
    ///
    /// # Errors
    /// [`ShapeError`] when it has other inputs.
    pub(crate) fn takes(&self, inputs: usize, channels: usize) -> Result<(), ShapeError> {
        let taps = self.sides[0].checked_mul(self.sides[1]);
        if channels > 0 && taps.and_then(|taps| taps.checked_mul(channels)) == Some(inputs) {
            return Ok(());
        }
        let sides = self.sides;
        Err(ShapeError(format!(
            "{inputs} inputs for {sides:?} taps of {channels} channels"
        )))
    }

    /// Taps in all.
    #[must_use]
    pub const fn taps(&self) -> usize {
        self.sides[0] * self.sides[1]
    }

    /// Whether places are pixels and each sees just its own.
    #[must_use]
    pub fn is_point(&self) -> bool {
        self.sides == [1, 1] && self.strides == [1, 1] && self.pads == [[0, 0]; 2]
    }

    /// The pixel under a tap along one axis, unless it is padding.
    #[inline(always)]
    pub(crate) fn pixel(&self, axis: usize, place: usize, tap: usize, size: usize) -> Option<usize> {
        let at = place * self.strides[axis] + tap * self.dilations[axis];
        at.checked_sub(self.pads[axis][0]).filter(|at| *at < size)
    }

    /// The taps along one axis that lie on pixels: from the first to before the end.
    #[inline(always)]
    pub(crate) fn on_image(&self, axis: usize, place: usize, size: usize) -> std::ops::Range<usize> {
        let (start, step) = (place * self.strides[axis], self.dilations[axis]);
        let (first, end) = (self.pads[axis][0], self.pads[axis][0] + size);
        let before = first.saturating_sub(start).div_ceil(step).min(self.sides[axis]);
        let within = end.saturating_sub(start).div_ceil(step).min(self.sides[axis]);
        before..within.max(before)
    }

    /// The places along one axis all of whose taps lie on pixels.
    pub(crate) fn inner(&self, axis: usize, size: usize) -> std::ops::Range<usize> {
        let places = self.places_along(axis, size).unwrap_or(0);
        let first = self.pads[axis][0].div_ceil(self.strides[axis]).min(places);
        let reach = (self.sides[axis] - 1) * self.dilations[axis] + 1;
        let last = (size + self.pads[axis][0])
            .checked_sub(reach)
            .map(|at| at / self.strides[axis]);
        first..last.map_or(first, |last| (last + 1).clamp(first, places))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn taps_on_the_image_are_those_that_have_a_pixel(
            side in 1_usize..6, stride in 1_usize..4, dilation in 1_usize..4, pads in (0_usize..5, 0_usize..5), size in 1_usize..12,
        ) {
            let pads = [[pads.0, pads.1]; 2];
            let window = Window { sides: [side; 2], strides: [stride; 2], dilations: [dilation; 2], pads };
            for place in 0..window.places([size; 2]).map_or(0, |places| places[0]) {
                let seen: Vec<usize> = (0..side).filter(|tap| window.pixel(0, place, *tap, size).is_some()).collect();
                prop_assert_eq!(window.inner(0, size).contains(&place), seen.len() == side);
                prop_assert_eq!(window.on_image(0, place, size).collect::<Vec<_>>(), seen);
            }
        }
    }

    #[test]
    fn a_window_that_does_not_fit_or_cannot_step_has_no_places() {
        let window = Window {
            sides: [3, 3],
            strides: [1, 1],
            dilations: [1, 1],
            pads: [[0, 0]; 2],
        };
        assert_eq!(window.places([3, 5]), Some([1, 3]));
        assert_eq!(window.places([2, 5]), None);
        assert_eq!(
            Window {
                strides: [0, 1],
                ..window
            }
            .places([3, 3]),
            None
        );
        assert_eq!(
            Window {
                sides: [0, 1],
                ..window
            }
            .places([3, 3]),
            None
        );
        for dilation in [0, usize::MAX] {
            let dilations = [dilation, 1];
            assert_eq!(Window { dilations, ..window }.places([3, 3]), None);
        }
    }

    #[test]
    fn a_window_that_steps_further_than_an_image_can_be_wide_has_no_places() {
        // Four places a third of all addresses apart: multiplied by the elements of a pixel, they would seem to be near each other.
        let stride = (1_usize << 60).div_ceil(3);
        let window = Window {
            sides: [1, 1],
            strides: [1, stride],
            dilations: [1, 1],
            pads: [[0, 0], [0, 3 * stride]],
        };
        assert_eq!(window.places([1, 1]), None);
        assert_eq!(
            Window {
                pads: [[0, 0]; 2],
                ..window
            }
            .places([1, 1]),
            None
        );
    }
}
