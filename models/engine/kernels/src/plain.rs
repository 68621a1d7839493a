//! What is done to each element by itself, and moves and sums that need no weights: what stands around layers in every graph.
//!
//! Each result is made by one IEEE 754 operation, or by a sum in the order of its elements, so how wide vectors are makes no difference.

use crate::isa::per_isa;

/// What becomes of `a` and `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `b - a`
    SubFrom,
    /// `a * b`
    Mul,
    /// The smaller; where one is no number, the other.
    Min,
    /// The larger; where one is no number, the other.
    Max,
}

/// Runs `$loop` with `$with` standing for the operation, so that the loop holds no choice.
macro_rules! chosen {
    ($combine:expr, $with:ident => $loop:expr) => {
        match $combine {
            Combine::Add => {
                let $with = |a: f32, b: f32| a + b;
                $loop
            }
            Combine::Sub => {
                let $with = |a: f32, b: f32| a - b;
                $loop
            }
            Combine::SubFrom => {
                let $with = |a: f32, b: f32| b - a;
                $loop
            }
            Combine::Mul => {
                let $with = |a: f32, b: f32| a * b;
                $loop
            }
            Combine::Min => {
                let $with = |a: f32, b: f32| a.min(b);
                $loop
            }
            Combine::Max => {
                let $with = |a: f32, b: f32| a.max(b);
                $loop
            }
        }
    };
}

per_isa! {
    /// Combines each row of `a`, as long as `b`, with `b`, element by element. What is left of a row stays as it is.
    pub fn combine_rows(combine: Combine, a: &mut [f32], b: &[f32]) {
        chosen!(combine, with => {
            for row in a.chunks_exact_mut(b.len().max(1)) {
                for (a, b) in row.iter_mut().zip(b) {
                    *a = with(*a, *b);
                }
            }
        });
    }
}

per_isa! {
    /// Combines each of as many equal parts of `a` as `b` has elements with its element. What is left of a part stays as it is.
    pub fn combine_parts(combine: Combine, a: &mut [f32], b: &[f32]) {
        let part = (a.len() / b.len().max(1)).max(1);
        chosen!(combine, with => {
            for (part, b) in a.chunks_exact_mut(part).zip(b) {
                for a in part {
                    *a = with(*a, *b);
                }
            }
        });
    }
}

per_isa! {
    /// Sums rows as long as `y` into `y`, the first row first.
    pub fn sum_rows(x: &[f32], y: &mut [f32]) {
        y.fill(0.0);
        for row in x.chunks_exact(y.len().max(1)) {
            for (y, x) in y.iter_mut().zip(row) {
                *y += x;
            }
        }
    }
}

per_isa! {
    /// `y = x W` for rows of `inputs` elements and `weights` of `inputs` rows: each product is rounded, then each sum, in the order
    /// of the inputs. For few weights: they stay in the nearest cache.
    pub fn multiply_rows(x: &[f32], weights: &[f32], inputs: usize, y: &mut [f32]) {
        let inputs = inputs.max(1);
        let outputs = (weights.len() / inputs).max(1);
        for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
            y.fill(0.0);
            for (x, weights) in x.iter().zip(weights.chunks_exact(outputs)) {
                for (y, weight) in y.iter_mut().zip(weights) {
                    *y += x * weight;
                }
            }
        }
    }
}

per_isa! {
    /// Squares in place.
    pub fn square(values: &mut [f32]) {
        for x in values {
            *x *= *x;
        }
    }
}

per_isa! {
    /// Whole numbers as FP32, rounded to the nearest, halves to even.
    pub fn floats_of_i64(x: &[i64], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x as f32;
        }
    }
}

per_isa! {
    /// The same of 32 bits.
    pub fn floats_of_i32(x: &[i32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x as f32;
        }
    }
}

/// Exchanges the middle axes of `x`, whose shape is `[outer, p, q, inner]`: `y` becomes `[outer, q, p, inner]`.
///
/// # Panics
/// When a length is not that of the shape.
pub fn exchange_axes<T: Copy>(x: &[T], [outer, p, q, inner]: [usize; 4], y: &mut [T]) {
    /// Side of the squares that are turned one by one, so that lines of the cache are used while they are there.
    const SIDE: usize = 16;
    let image = p * q * inner;
    assert!(x.len() == outer * image && y.len() == x.len());
    if image == 0 {
        return;
    }
    for (x, y) in x.chunks_exact(image).zip(y.chunks_exact_mut(image)) {
        for (first_p, first_q) in (0..p)
            .step_by(SIDE)
            .flat_map(|a| (0..q).step_by(SIDE).map(move |b| (a, b)))
        {
            for at_q in first_q..q.min(first_q + SIDE) {
                for at_p in first_p..p.min(first_p + SIDE) {
                    let (from, to) = ((at_p * q + at_q) * inner, (at_q * p + at_p) * inner);
                    if inner == 1 {
                        y[to] = x[from];
                    } else {
                        y[to..to + inner].copy_from_slice(&x[from..from + inner]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    const ALL: [Combine; 6] = [
        Combine::Add,
        Combine::Sub,
        Combine::SubFrom,
        Combine::Mul,
        Combine::Min,
        Combine::Max,
    ];

    fn ramp(length: usize) -> Vec<f32> {
        (0..length).map(|i| (i * 37 % 101) as f32 / 7.0 - 6.0).collect()
    }

    #[test]
    fn every_form_combines_to_the_bits_of_the_portable_one() {
        for isa in Isa::available() {
            for (combine, width) in ALL.into_iter().flat_map(|c| [1, 3, 16, 37].map(|w| (c, w))) {
                let (mut ours, mut portable) = (ramp(width * 5), ramp(width * 5));
                let b = ramp(width + 9).split_off(9);
                combine_rows(isa, combine, &mut ours, &b);
                combine_rows(Isa::PORTABLE, combine, &mut portable, &b);
                assert_eq!(ours, portable, "{combine:?} {width}");
                combine_parts(isa, combine, &mut ours, &b[..1]);
                combine_parts(Isa::PORTABLE, combine, &mut portable, &b[..1]);
                assert_eq!(ours, portable, "{combine:?} {width}");
            }
        }
    }

    #[test]
    fn parts_and_rows_meet_the_elements_they_should() {
        let mut a = [1.0, 2.0, 3.0, 4.0];
        combine_parts(Isa::best(), Combine::SubFrom, &mut a, &[10.0, 20.0]);
        assert_eq!(a, [9.0, 8.0, 17.0, 16.0]);
        combine_rows(Isa::best(), Combine::Sub, &mut a, &[1.0, 2.0]);
        assert_eq!(a, [8.0, 6.0, 16.0, 14.0]);
        let mut sums = [7.0; 2];
        sum_rows(Isa::best(), &a, &mut sums);
        assert_eq!(sums, [24.0, 20.0]);
    }

    #[test]
    fn every_form_multiplies_to_the_bits_of_the_portable_one() {
        let (x, weights) = (ramp(3 * 17), ramp(17 * 19));
        let mut portable = vec![7.0; 3 * 19];
        multiply_rows(Isa::PORTABLE, &x, &weights, 17, &mut portable);
        let third: f32 = (0..17).fold(0.0, |sum, i| sum + x[34 + i] * weights[i * 19 + 18]);
        assert_eq!(portable[3 * 19 - 1], third);
        for isa in Isa::available() {
            let mut ours = vec![7.0; 3 * 19];
            multiply_rows(isa, &x, &weights, 17, &mut ours);
            assert_eq!(ours, portable, "{}", isa.name());
        }
    }

    #[test]
    fn what_is_no_number_gives_way_to_what_is_one() {
        let mut a = [f32::NAN, 1.0];
        combine_rows(Isa::best(), Combine::Max, &mut a, &[0.0, f32::NAN]);
        assert_eq!(a, [0.0, 1.0]);
    }

    #[test]
    fn exchanged_axes_are_those_of_a_plain_loop() {
        for shape in [[1, 1, 1, 1], [2, 3, 5, 1], [1, 49, 33, 1], [3, 17, 2, 4]] {
            let [outer, p, q, inner] = shape;
            let x = ramp(outer * p * q * inner);
            let mut y = vec![0.0; x.len()];
            exchange_axes(&x, shape, &mut y);
            for (at, value) in x.iter().enumerate() {
                let (i, rest) = (at % inner, at / inner);
                let (at_q, at_p, o) = (rest % q, rest / q % p, rest / q / p);
                assert_eq!(y[((o * q + at_q) * p + at_p) * inner + i], *value, "{shape:?} {at}");
            }
        }
    }
}
