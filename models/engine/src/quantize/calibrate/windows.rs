//! What a layer multiplies with a row of its weights: rows of its input, or windows of it.

use tract_onnx::pb::NodeProto;

/// Samples that are handed on together.
const ROWS: usize = 64;

/// How a layer cuts its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Rows of so many numbers.
    Rows { width: usize },
    /// Windows of a picture, `[batch, channel, height, width]`.
    Windows {
        groups: usize,
        /// Of each group.
        channels: usize,
        kernel: [usize; 2],
        strides: [usize; 2],
        dilations: [usize; 2],
        /// Above and left, below and right.
        pads: [usize; 4],
    },
}

impl Cut {
    /// Of a node with weights of these dimensions; `None` where it is another kind of layer.
    pub(super) fn of(node: &NodeProto, dims: &[i64]) -> Option<Self> {
        let ints = |name: &str| {
            node.attribute
                .iter()
                .find(|a| a.name == name)
                .map(|a| a.ints.as_slice())
        };
        let flag = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i);
        let size = |dim: &i64| usize::try_from(*dim).ok().filter(|size| *size > 0);
        match (node.op_type.as_str(), dims) {
            ("MatMul", [width, _]) => Some(Self::Rows { width: size(width)? }),
            ("Gemm", [rows, columns]) if flag("transA") == 0 => {
                let width = if flag("transB") == 0 { rows } else { columns };
                Some(Self::Rows { width: size(width)? })
            }
            ("Conv", [outputs, channels, height, width]) => {
                let padded = node.attribute.iter().find(|a| a.name == "auto_pad");
                if padded.is_some_and(|a| !matches!(a.s.as_slice(), b"" | b"NOTSET")) {
                    return None;
                }
                let two = |name: &str| match ints(name) {
                    None => Some([1, 1]),
                    Some([y, x]) => Some([size(y)?, size(x)?]),
                    Some(_) => None,
                };
                let pads = match ints("pads") {
                    None => [0; 4],
                    Some(pads) => {
                        let pads: Vec<usize> = pads
                            .iter()
                            .map(|pad| usize::try_from(*pad).ok())
                            .collect::<Option<_>>()?;
                        pads.try_into().ok()?
                    }
                };
                let groups = usize::try_from(flag("group").max(1)).ok()?;
                Some(Self::Windows {
                    groups: Some(groups)
                        .filter(|groups| size(outputs).is_some_and(|all| all.is_multiple_of(*groups)))?,
                    channels: size(channels)?,
                    kernel: [size(height)?, size(width)?],
                    strides: two("strides")?,
                    dilations: two("dilations")?,
                    pads,
                })
            }
            _ => None,
        }
    }

    /// Numbers in a sample.
    pub(super) const fn width(&self) -> usize {
        match self {
            Self::Rows { width } => *width,
            Self::Windows { channels, kernel, .. } => *channels * kernel[0] * kernel[1],
        }
    }

    /// Groups of channels that see different parts of the input.
    pub(super) const fn groups(&self) -> usize {
        match self {
            Self::Rows { .. } => 1,
            Self::Windows { groups, .. } => *groups,
        }
    }

    /// Hands on what `group` sees of an input, some samples at a time; nothing where the input has another form than it should.
    pub(super) fn samples(&self, group: usize, shape: &[usize], numbers: &[f32], mut take: impl FnMut(&[f32])) {
        match (self, shape) {
            (Self::Rows { width }, [.., last]) if last == width => take(numbers),
            (Self::Windows { groups, channels, .. }, [batch, all, height, width]) if groups * channels == *all => {
                let picture = channels * height * width;
                for row in 0..*batch {
                    let start = (row * groups + group) * picture;
                    let Some(picture) = numbers.get(start..start + picture) else {
                        return;
                    };
                    self.windows(picture, [*height, *width], &mut take);
                }
            }
            _ => {}
        }
    }

    /// All windows of one picture, `[channel, height, width]`.
    fn windows(&self, picture: &[f32], [height, width]: [usize; 2], take: &mut impl FnMut(&[f32])) {
        let &Self::Windows {
            kernel,
            strides,
            dilations,
            pads,
            ..
        } = self
        else {
            return;
        };
        let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
        let places = |axis: usize, size: usize| {
            let padded = size + pads[axis] + pads[axis + 2];
            (padded + strides[axis]).saturating_sub(reach(axis)) / strides[axis]
        };
        let mut samples = Vec::with_capacity(ROWS * self.width());
        for y in 0..places(0, height) {
            for x in 0..places(1, width) {
                for plane in picture.chunks_exact(height * width) {
                    for (down, right) in (0..kernel[0]).flat_map(|down| (0..kernel[1]).map(move |right| (down, right)))
                    {
                        let at = (y * strides[0] + down * dilations[0]).checked_sub(pads[0]);
                        let row = at.filter(|at| *at < height);
                        let at = (x * strides[1] + right * dilations[1]).checked_sub(pads[1]);
                        let column = at.filter(|at| *at < width);
                        let place = row.zip(column).map(|(row, column)| row * width + column);
                        samples.push(place.map_or(0.0, |place| plane[place]));
                    }
                }
                if samples.len() == samples.capacity() {
                    take(&samples);
                    samples.clear();
                }
            }
        }
        take(&samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, with_int, with_ints};

    fn all(cut: &Cut, group: usize, shape: &[usize], numbers: &[f32]) -> Vec<f32> {
        let mut all = Vec::new();
        cut.samples(group, shape, numbers, |samples| all.extend_from_slice(samples));
        all
    }

    #[test]
    fn a_linear_layer_sees_rows() {
        let cut = Cut::of(&node("MatMul", &["x", "w"], "y"), &[3, 8]).unwrap();
        assert_eq!((cut.width(), cut.groups()), (3, 1));
        let numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(all(&cut, 0, &[1, 2, 3], &numbers), numbers);
        assert!(all(&cut, 0, &[3, 2], &numbers).is_empty());
        let turned = with_int(node("Gemm", &["x", "w"], "y"), "transB", 1);
        assert_eq!(Cut::of(&turned, &[8, 3]), Some(cut));
    }

    #[test]
    fn a_convolution_sees_windows_with_zeros_beyond_the_edge() {
        let conv = with_ints(node("Conv", &["x", "w"], "y"), "pads", &[1, 0, 0, 1]);
        let conv = with_ints(conv, "strides", &[2, 1]);
        let cut = Cut::of(&conv, &[4, 1, 2, 2]).unwrap();
        let picture = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        // Two rows of three: padded above and on the right; windows begin in row 0 only, the next would lie below.
        let expected = [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 2.0, 3.0, 0.0, 0.0, 3.0, 0.0];
        assert_eq!(all(&cut, 0, &[1, 1, 2, 3], &picture), expected);
    }

    #[test]
    fn a_group_sees_its_own_channels_of_every_row() {
        let conv = with_int(node("Conv", &["x", "w"], "y"), "group", 2);
        let cut = Cut::of(&conv, &[2, 1, 1, 1]).unwrap();
        assert_eq!(cut.groups(), 2);
        let numbers = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(all(&cut, 1, &[2, 2, 1, 1], &numbers), [2.0, 4.0]);
    }

    #[test]
    fn layers_of_other_kinds_are_not_cut() {
        let conv = node("Conv", &["x", "w"], "y");
        assert_eq!(Cut::of(&conv, &[4, 1, 3]), None);
        assert_eq!(
            Cut::of(&with_ints(conv.clone(), "pads", &[-1, 0, 0, 0]), &[4, 1, 3, 3]),
            None
        );
        assert_eq!(Cut::of(&with_ints(conv, "strides", &[0, 1]), &[4, 1, 3, 3]), None);
        assert_eq!(Cut::of(&node("MatMul", &["x", "w"], "y"), &[2, 3, 4]), None);
        assert_eq!(Cut::of(&node("Gather", &["w", "i"], "y"), &[30, 40]), None);
    }
}
