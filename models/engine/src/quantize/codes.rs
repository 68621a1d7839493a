//! The codes of one weight: scales by channel, and how its numbers are rounded.
#![allow(
    clippy::as_conversions,
    reason = "rounding f32 to codes of -127..=127 is what this module is for"
)]

use kernels::Rounding;
use tract_onnx::pb::TensorProto;

use crate::onnx::values;

/// Smaller tensors stay FP32: they hold little of the size and often much of the accuracy.
pub(super) const ELEMENTS_MIN: usize = 256;
/// Fewer weights to a scale would not pay for the scale.
const PER_SCALE_MIN: usize = 16;

/// What has a scale of its own.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Channels {
    pub(super) axis: usize,
    /// They are those of a convolution: what it sees has much in common.
    pub(super) image: bool,
}

/// A weight's numbers and the scale of each of its channels; `None` where FP32 should stay.
pub(super) fn scales(tensor: &TensorProto, axis: usize) -> Option<(Vec<f32>, Vec<f32>)> {
    let weights = values::floats(tensor)?;
    let (channels, inner) = channels(tensor, axis)?;
    if weights.len() < ELEMENTS_MIN
        || weights.len() / channels.max(1) < PER_SCALE_MIN
        || weights.iter().any(|w| !w.is_finite())
    {
        return None;
    }
    let mut scales = vec![0f32; channels];
    for (at, weight) in weights.iter().enumerate() {
        let scale = &mut scales[at / inner % channels];
        *scale = scale.max(weight.abs() / 127.0);
    }
    // Subnormal scales would make the division overflow; such a channel is as good as zero.
    scales
        .iter_mut()
        .filter(|scale| **scale < f32::MIN_POSITIVE)
        .for_each(|scale| *scale = 1.0);
    Some((weights, scales))
}

/// How many channels `axis` has, and how many numbers lie side by side in each.
fn channels(tensor: &TensorProto, axis: usize) -> Option<(usize, usize)> {
    let dims = tensor.dims.iter().map(|&d| usize::try_from(d).ok());
    let dims: Vec<usize> = dims.collect::<Option<_>>()?;
    Some((*dims.get(axis)?, dims[axis + 1..].iter().product()))
}

/// Codes and scales of a weight; `None` where FP32 should stay. `seen` tells what the groups of its channels are multiplied with.
pub(super) fn quantized(tensor: &TensorProto, of: Channels, seen: &[Rounding]) -> Option<(TensorProto, TensorProto)> {
    let (weights, scales) = scales(tensor, of.axis)?;
    let (channels, inner) = channels(tensor, of.axis)?;
    let mut places = vec![Vec::with_capacity(weights.len() / channels); channels];
    (0..weights.len()).for_each(|at| places[at / inner % channels].push(at));
    let mut codes = vec![0; weights.len()];
    for (channel, (places, scale)) in places.iter().zip(&scales).enumerate() {
        let own: Vec<f32> = places.iter().map(|at| weights[*at]).collect();
        let together = seen.get(channel * seen.len() / channels);
        let rounded = together
            .and_then(|together| together.round(&own, *scale))
            .unwrap_or_else(|| nearest(&own, *scale, of.image));
        places.iter().zip(rounded).for_each(|(at, code)| codes[*at] = code);
    }
    let codes = values::of_bytes(&format!("{}.s8", tensor.name), tensor.dims.clone(), &codes);
    let scales = values::of_floats(&format!("{}.scale", tensor.name), vec![tensor.dims[of.axis]], &scales);
    Some((codes, scales))
}

/// Each weight of a channel by itself.
fn nearest(weights: &[f32], scale: f32, image: bool) -> Vec<i8> {
    let code = |weight: &f32| (weight / scale).round().clamp(-127.0, 127.0) as i8;
    let mut codes: Vec<i8> = weights.iter().map(code).collect();
    if image {
        keep_sum(scale, weights, &mut codes);
    }
    codes
}

/// Moves codes, those whose rounding was the closest call, until their sum is that of the weights, to half a step.
fn keep_sum(scale: f32, weights: &[f32], codes: &mut [i8]) {
    let error = |at: usize, codes: &[i8]| f64::from(weights[at]) / f64::from(scale) - f64::from(codes[at]);
    let missing = (0..weights.len()).map(|at| error(at, codes)).sum::<f64>().round();
    let step: i8 = if missing < 0.0 { -1 } else { 1 };
    let gain = |at: usize| error(at, codes) * f64::from(step);
    let mut movable: Vec<(f64, usize)> = (0..weights.len())
        .filter(|at| codes[*at] != 127 * step)
        .map(|at| (gain(at), at))
        .collect();
    let moved = movable.len().min(missing.abs() as usize);
    if moved < movable.len() {
        movable.select_nth_unstable_by(moved, |(a, at), (b, other)| b.total_cmp(a).then(at.cmp(other)));
    }
    for (_, at) in &movable[..moved] {
        codes[*at] += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ramp;

    #[test]
    fn every_weight_is_within_a_step_of_its_code_and_sums_within_half_a_step() {
        let weights = ramp(32 * 64);
        let tensor = values::of_floats("w", vec![32, 64], &weights);
        for image in [false, true] {
            let (codes, scales) = quantized(&tensor, Channels { axis: 1, image }, &[]).unwrap();
            let (codes, scales) = (values::integers(&codes).unwrap(), values::floats(&scales).unwrap());
            let mut sums = vec![0.0; 64];
            for (at, weight) in weights.iter().enumerate() {
                let error = weight / scales[at % 64] - codes[at] as f32;
                assert!(error.abs() <= if image { 1.0001 } else { 0.5001 }, "{error}");
                assert!(codes[at].abs() <= 127);
                sums[at % 64] += error;
            }
            let far = sums.iter().fold(0.0, |far: f32, sum| far.max(sum.abs()));
            assert_eq!(far <= 0.501, image, "{far}");
        }
    }

    #[test]
    fn a_channel_of_zeros_and_weights_that_are_no_numbers_do_no_harm() {
        let zeros = values::of_floats("w", vec![32, 64], &[0.0; 32 * 64]);
        let (codes, scales) = quantized(&zeros, Channels { axis: 0, image: true }, &[]).unwrap();
        assert!(values::integers(&codes).unwrap().iter().all(|c| *c == 0));
        assert!(values::floats(&scales).unwrap().iter().all(|s| *s == 1.0));
        let nan = values::of_floats("w", vec![32, 64], &[f32::NAN; 32 * 64]);
        assert!(quantized(&nan, Channels { axis: 0, image: true }, &[]).is_none());
    }
}
