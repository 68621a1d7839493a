//! What the layers of a model see while it answers: the inputs of each coded weight, gathered as second moments.
//!
//! ```text
//!   graph + the inputs of its linear layers and convolutions as outputs, a few at a time
//!     -> run on every calibration input -> windows cut out as the layer would -> moments -> their factor
//! ```
//! Weights whose layers are not among those that [`Lookout`] knows have none; they are rounded each by itself.

use std::collections::{BTreeMap, BTreeSet};

use kernels::{Moments, Rounding};
use proto::oip::Tensor;
use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::type_proto::{self, Tensor as TensorType};
use tract_onnx::pb::{ModelProto, NodeProto, TypeProto, ValueInfoProto};

use super::{Channels, QuantizeError, prepared};
use crate::graph::Graph;
use crate::onnx::{OnnxError, values};
use crate::{LoadError, RunError, tensor};

mod windows;
use windows::Cut;

/// Tensors that one run gives: what lies between layers is large, and all of these are held at once.
const AT_ONCE: usize = 8;
/// Numbers that the moments of all layers may hold: 512 MiB. Layers that come later have none.
const NUMBERS_MAX: usize = 64 << 20;

/// Why nothing could be gathered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The model cannot be coded.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// The model does not load with what its layers see as outputs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model does not answer an input.
    #[error("calibration input {input}: {source}")]
    Run {
        /// From 1.
        input: usize,
        /// Why not.
        source: RunError,
    },
}

/// What the layers of one model see, by weight; the default knows nothing.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// One for each group of a weight's channels.
    by_weight: BTreeMap<String, Vec<Rounding>>,
}

impl Calibration {
    /// Has the f32 model `onnx` answer `inputs`, each the tensors that its graph takes, in order.
    ///
    /// Takes about as long as the answers, and `width^2` for each sample of a layer with that many inputs; holds 512 MiB at most.
    ///
    /// # Errors
    /// [`CalibrateError`].
    pub fn gather(onnx: &[u8], inputs: &[Vec<Tensor>]) -> Result<Self, CalibrateError> {
        let (model, axes) = prepared(onnx)?;
        let lookouts = lookouts(&model, &axes)?;
        let mut seen: BTreeMap<&str, Vec<&Lookout>> = BTreeMap::new();
        for lookout in &lookouts {
            seen.entry(&lookout.input).or_default().push(lookout);
        }
        let mut by_weight: BTreeMap<String, Vec<Moments>> = BTreeMap::new();
        let names: Vec<&str> = seen.keys().copied().collect();
        for names in names.chunks(AT_ONCE) {
            let graph = Graph::new(giving(&model, names))?;
            let given: BTreeSet<&str> = graph.inputs().iter().map(|spec| spec.name.as_str()).collect();
            for (at, inputs) in inputs.iter().enumerate() {
                let failed = |source| CalibrateError::Run { input: at + 1, source };
                let made = graph.run(inputs).map_err(failed)?;
                let taken = inputs.iter().filter(|tensor| given.contains(tensor.name.as_str()));
                for tensor in taken.chain(&made) {
                    for lookout in seen.get(tensor.name.as_str()).into_iter().flatten() {
                        lookout.add(tensor, &mut by_weight);
                    }
                }
            }
        }
        let factored = by_weight.into_iter().filter_map(|(weight, moments)| {
            let factored = moments.into_iter().map(Moments::factor).collect::<Option<Vec<_>>>();
            Some((weight, factored?))
        });
        Ok(Self {
            by_weight: factored.collect(),
        })
    }

    /// Weights of which it knows something.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.by_weight.len()
    }

    pub(super) fn of_weight(&self, name: &str) -> &[Rounding] {
        self.by_weight.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A layer that can be watched.
struct Lookout {
    /// What it sees.
    input: String,
    weight: String,
    /// How a row of its weights lies over its input.
    cut: Cut,
}

impl Lookout {
    fn add(&self, input: &Tensor, by_weight: &mut BTreeMap<String, Vec<Moments>>) {
        let Some(numbers) = tensor::f32s(input) else { return };
        let new = || vec![Moments::new(self.cut.width()); self.cut.groups()];
        let moments = by_weight.entry(self.weight.clone()).or_insert_with(new);
        for (group, moments) in moments.iter_mut().enumerate() {
            self.cut
                .samples(group, &input.shape, &numbers, |samples| moments.add(samples));
        }
    }
}

/// The layers to watch, as many as there is room for.
fn lookouts(model: &ModelProto, axes: &BTreeMap<String, Channels>) -> Result<Vec<Lookout>, QuantizeError> {
    let graph = model.graph.as_ref().ok_or(OnnxError::NoGraph)?;
    let constants: BTreeMap<&str, _> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let watched = |node: &NodeProto| {
        let [input, weight, ..] = node.input.as_slice() else {
            return None;
        };
        let tensor = constants.get(weight.as_str())?;
        super::scales(tensor, axes.get(weight)?.axis)?;
        if constants.contains_key(input.as_str()) {
            return None;
        }
        Some(Lookout {
            input: input.clone(),
            weight: weight.clone(),
            cut: Cut::of(node, &tensor.dims)?,
        })
    };
    let (mut known, mut left) = (BTreeSet::new(), NUMBERS_MAX);
    let mut found: Vec<Lookout> = graph.node.iter().filter_map(watched).collect();
    found.retain(|lookout| {
        if known.contains(&lookout.weight) {
            return true;
        }
        let numbers = lookout
            .cut
            .width()
            .saturating_pow(2)
            .saturating_mul(lookout.cut.groups());
        let fits = numbers <= left;
        if fits {
            left -= numbers;
            known.insert(lookout.weight.clone());
        }
        fits
    });
    Ok(found)
}

/// The model with these tensors as its only outputs; those that are its inputs are left out, for they are at hand.
fn giving(model: &ModelProto, names: &[&str]) -> ModelProto {
    let mut model = model.clone();
    if let Some(graph) = model.graph.as_mut() {
        let made: BTreeSet<&String> = graph.node.iter().flat_map(|node| &node.output).collect();
        let wanted = names.iter().filter(|name| made.contains(&(**name).to_owned()));
        let outputs: Vec<ValueInfoProto> = wanted.map(|name| of_floats(name)).collect();
        // A layer of the graph's own input alone: any output will do, the engine needs one.
        if !outputs.is_empty() {
            graph.output = outputs;
        }
    }
    model
}

fn of_floats(name: &str) -> ValueInfoProto {
    let of = TensorType {
        elem_type: values::onnx(OnnxType::Float),
        shape: None,
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(of)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

#[cfg(test)]
mod tests;
