//! A package that answers: the steps before, the graph, and the steps after, chosen by the names of a request's inputs.

use std::collections::BTreeMap;

use proto::limits::{CALL_ROWS_MAX, ONNX_BYTES_MAX};
use proto::manifest::{Dim, Manifest, Signature, TensorSpec, Variant};
use proto::oip::Tensor;
use tract_onnx::pb::ModelProto;

use crate::graph::Graph;
use crate::onnxruntime::Wanted;
use crate::package::read_bounded;
use crate::{LoadError, PackageFiles, RunError, onnx, pack, post, pre, tensor};

mod buckets;

/// A model ready to answer. Share it between threads; every call blocks until its answer is whole.
pub struct LoadedModel {
    release: String,
    graph: Graph,
    signatures: Vec<Ready>,
}

struct Ready {
    spec: Signature,
    pre: Vec<pre::Step>,
    post: Vec<post::Step>,
    /// The step that makes rows of mixed lengths, where they may run apart: its place in `pre`.
    mixed: Option<usize>,
}

/// Loads one variant of a package: reads, judges and plans its graph, and prepares the steps of its signatures.
///
/// Nothing of the file is executed before [`crate::preflight`] has passed it; for a file that was never run on this machine use
/// [`crate::child`] first, which also bounds time and memory.
///
/// # Errors
/// [`LoadError`], each saying which file, step or node.
#[tracing::instrument(name = "engine.load", skip_all, fields(model = %manifest.release(), variant = %variant.id))]
pub fn load(manifest: &Manifest, variant: &Variant, files: &PackageFiles) -> Result<LoadedModel, LoadError> {
    let path = files.path(&variant.file)?;
    let graph = match Wanted::of(variant)? {
        None => {
            let file = manifest.file(&variant.file).map(|file| &file.blake3);
            Graph::of(pack::prepare(path, files.packed().zip(file))?)?
        }
        Some(wanted) => {
            let library = wanted.permitted(variant, files.onnxruntime())?;
            let bytes = read_bounded(path, ONNX_BYTES_MAX)?;
            Graph::in_onnxruntime(&onnx::decode(&bytes)?, &bytes, wanted.provider, library)?
        }
    };
    assembled(manifest, graph, files)
}

/// As [`load`], of a variant for the engine's own that preflight has passed and that somebody has decoded.
pub(crate) fn load_judged(
    manifest: &Manifest,
    model: ModelProto,
    files: &PackageFiles,
) -> Result<LoadedModel, LoadError> {
    assembled(manifest, Graph::of(pack::Prepared::of(model)?)?, files)
}

fn assembled(manifest: &Manifest, graph: Graph, files: &PackageFiles) -> Result<LoadedModel, LoadError> {
    same("inputs", &manifest.inputs, graph.inputs())?;
    same("outputs", &manifest.outputs, graph.outputs())?;
    let signatures = manifest.signatures.iter().map(|spec| {
        let step = |why: String| LoadError::Step {
            signature: spec.name.clone(),
            why,
        };
        let sequence_multiple = if graph.any_shape() { 1 } else { pre::SEQUENCE_BUCKET };
        let before = spec
            .pre
            .iter()
            .map(|s| pre::Step::new(s, files, sequence_multiple, &step))
            .collect::<Result<_, _>>()?;
        let after = spec
            .post
            .iter()
            .map(|s| post::Step::new(s, files, &step))
            .collect::<Result<_, _>>()?;
        let mut ready = Ready {
            spec: spec.clone(),
            pre: before,
            post: after,
            mixed: None,
        };
        ready.mixed = ready.mixed_lengths(&graph);
        Ok(ready)
    });
    let signatures = signatures.collect::<Result<_, LoadError>>()?;
    let release = manifest.release().to_string();
    // Decoding and planning took the file's size several times over.
    kernels::give_back();
    Ok(LoadedModel {
        release,
        graph,
        signatures,
    })
}

impl LoadedModel {
    /// The signature that takes exactly these inputs.
    ///
    /// # Errors
    /// [`RunError::UnknownInputs`] when there is none.
    pub fn signature_for(&self, input_names: &[&str]) -> Result<&Signature, RunError> {
        self.ready_for(input_names).map(|ready| &ready.spec)
    }

    /// Whether rows of different requests may be joined on axis 0 for one call.
    #[must_use]
    pub const fn batched(&self) -> bool {
        self.graph.batched()
    }

    /// Answers one request, which may hold joined rows of several. Outputs are those of the signature, in its order.
    ///
    /// # Errors
    /// [`RunError::is_clients`] tells a malformed request from a failing model. Nothing of the request is in the text
    /// but names, types and shapes.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        self.run_keeping(inputs, &pre::Nothing)
    }

    /// As [`LoadedModel::run`], to the same bits, with what steps before the graph make of rows kept in `kept`.
    ///
    /// # Errors
    /// Those of [`LoadedModel::run`].
    #[tracing::instrument(target = "meridian::requests", name = "engine.run", skip_all, fields(model = %self.release, rows))]
    pub fn run_keeping(&self, inputs: &[Tensor], kept: &dyn pre::KeptRows) -> Result<Vec<Tensor>, RunError> {
        tracing::Span::current().record(
            "rows",
            inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(1),
        );
        let Given {
            ready,
            tensors,
            lengths,
        } = self.before_the_graph(inputs, kept)?;
        let mixed = ready.mixed.map(|at| &ready.pre[at]).filter(|_| lengths.len() > 1);
        let Some(step) = mixed else {
            return self.the_graph_and_after(ready, tensors);
        };
        let runs = buckets::runs(&lengths, |length| step.padded(length));
        if runs.len() < 2 {
            return self.the_graph_and_after(ready, tensors);
        }
        let wrong = |why| RunError::Step { step: "buckets", why };
        let parts = runs.iter().map(|run| {
            let some = run.of(&tensors, &step.sequences()).map_err(wrong)?;
            self.the_graph_and_after(ready, some)
        });
        buckets::in_order(&runs, parts.collect::<Result<_, _>>()?).map_err(wrong)
    }

    /// Runs the graph and the steps after it; gives what the signature asks for.
    fn the_graph_and_after(
        &self,
        ready: &Ready,
        mut tensors: BTreeMap<String, Tensor>,
    ) -> Result<Vec<Tensor>, RunError> {
        let given = self.taken(&tensors)?;
        tensors.extend(self.graph.run(&given)?.into_iter().map(|t| (t.name.clone(), t)));
        for step in &ready.post {
            step.run(&mut tensors)?;
        }
        let wanted = ready.spec.outputs.iter().map(|spec| {
            tensors.remove(&spec.name).ok_or_else(|| RunError::Step {
                step: "outputs",
                why: format!("nothing made `{}`", spec.name),
            })
        });
        wanted.collect()
    }

    /// What the graph is given for a request, in the order of its inputs: the request after the steps before the graph.
    ///
    /// # Errors
    /// Those of [`LoadedModel::run`].
    pub fn graph_inputs(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        self.taken(&self.before_the_graph(inputs, &pre::Nothing)?.tensors)
    }

    fn before_the_graph(&self, inputs: &[Tensor], kept: &dyn pre::KeptRows) -> Result<Given<'_>, RunError> {
        let names: Vec<&str> = inputs.iter().map(|t| t.name.as_str()).collect();
        let ready = self.ready_for(&names)?;
        check_inputs(&ready.spec.inputs, inputs)?;
        let mut tensors: BTreeMap<String, Tensor> = inputs.iter().map(|t| (t.name.clone(), t.clone())).collect();
        let mut lengths = Vec::new();
        for (at, step) in ready.pre.iter().enumerate() {
            let made = step.run(&mut tensors, kept)?;
            if ready.mixed == Some(at) {
                lengths = made;
            }
        }
        Ok(Given {
            ready,
            tensors,
            lengths,
        })
    }

    /// Those tensors that the graph takes.
    fn taken(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<Tensor>, RunError> {
        let taken = self.graph.inputs().iter().map(|spec| {
            tensors
                .get(&spec.name)
                .cloned()
                .ok_or_else(|| RunError::input(&spec.name, "is neither given nor made by a step"))
        });
        taken.collect()
    }

    /// How many tokens the tokenizer makes of a request, padding not counted; 0 where there is none, or nothing that it can read.
    #[must_use]
    pub fn tokens(&self, inputs: &[Tensor]) -> usize {
        let names: Vec<&str> = inputs.iter().map(|t| t.name.as_str()).collect();
        let steps = self.ready_for(&names).map_or(&[][..], |ready| &ready.pre);
        steps.iter().map(|step| step.tokens(inputs)).sum()
    }

    /// Makes the plan of a first call by running zeros. A model that cannot run zeros stays cold.
    pub fn warm(&self) {
        if let Err(error) = self.graph.try_zeros() {
            tracing::debug!(model = %self.release, %error, "stays cold until its first request");
        }
    }

    fn ready_for(&self, names: &[&str]) -> Result<&Ready, RunError> {
        let takes = |ready: &&Ready| {
            let inputs = &ready.spec.inputs;
            inputs.len() == names.len() && inputs.iter().all(|spec| names.contains(&spec.name.as_str()))
        };
        self.signatures.iter().find(takes).ok_or_else(|| {
            let list = |spec: &Signature| {
                spec.inputs
                    .iter()
                    .map(|i| i.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let known: Vec<_> = self
                .signatures
                .iter()
                .map(|r| format!("{} [{}]", r.spec.name, list(&r.spec)))
                .collect();
            RunError::UnknownInputs {
                given: names.join(", "),
                known: known.join(" or "),
            }
        })
    }
}

/// A request that has come as far as the graph.
struct Given<'a> {
    /// Who answers it.
    ready: &'a Ready,
    /// All tensors so far by their names.
    tensors: BTreeMap<String, Tensor>,
    /// Tokens of each row, where rows of mixed lengths may run apart.
    lengths: Vec<usize>,
}

impl Ready {
    /// The step that makes rows of mixed lengths, where a row's answer has nothing of the length: one step tokenizes, nothing else that
    /// requests size reaches the graph beside its rows, and every tensor has its rows on axis 0.
    fn mixed_lengths(&self, graph: &Graph) -> Option<usize> {
        let mut tokenizing = (0..self.pre.len()).filter(|at| !self.pre[*at].sequences().is_empty());
        let at = tokenizing.next().filter(|_| tokenizing.next().is_none())?;
        let sequences = self.pre[at].sequences();
        let rows = self.spec.inputs.first()?.shape.first()?;
        let of_a_row = |spec: &TensorSpec| match spec.shape.split_first() {
            Some((first, rest)) => first == rows && rest.iter().all(|dim| matches!(dim, Dim::Fixed(_))),
            None => false,
        };
        let fits = |spec: &TensorSpec| sequences.contains(&spec.name.as_str()) || of_a_row(spec);
        let given = self.spec.inputs.iter().chain(&self.spec.outputs);
        (graph.batched() && given.into_iter().all(of_a_row) && graph.inputs().iter().all(fits)).then_some(at)
    }
}

fn same(what: &str, manifest: &[TensorSpec], file: &[TensorSpec]) -> Result<(), LoadError> {
    let alike =
        |a: &TensorSpec, b: &TensorSpec| a.name == b.name && a.datatype == b.datatype && a.shape.len() == b.shape.len();
    if manifest.len() == file.len() && manifest.iter().zip(file).all(|(a, b)| alike(a, b)) {
        return Ok(());
    }
    let text = |specs: &[TensorSpec]| specs.iter().map(describe).collect::<Vec<_>>().join(", ");
    Err(LoadError::Mismatch {
        manifest: format!("{what} {}", text(manifest)),
        file: text(file),
    })
}

fn describe(spec: &TensorSpec) -> String {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Named(name) => name.clone(),
    };
    let dims: Vec<String> = spec.shape.iter().map(dim).collect();
    format!("{} {}[{}]", spec.name, spec.datatype.as_str(), dims.join(", "))
}

/// Checks a request against its signature: types, ranks, fixed sizes, equal sizes under equal names, lengths.
fn check_inputs(specs: &[TensorSpec], inputs: &[Tensor]) -> Result<(), RunError> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in specs {
        let Some(input) = inputs.iter().find(|t| t.name == spec.name) else {
            return Err(RunError::input(&spec.name, "is missing"));
        };
        let wrong = |why: String| RunError::input(&spec.name, why);
        if input.datatype != spec.datatype {
            return Err(wrong(format!(
                "is {}, the model takes {}",
                input.datatype.as_str(),
                spec.datatype.as_str()
            )));
        }
        let misfit = || {
            wrong(format!(
                "has the shape {:?}, the model takes {}",
                input.shape,
                describe(spec)
            ))
        };
        if input.shape.len() != spec.shape.len() {
            return Err(misfit());
        }
        for (axis, (&size, dim)) in input.shape.iter().zip(&spec.shape).enumerate() {
            let fits = match dim {
                Dim::Fixed(fixed) => usize::try_from(*fixed) == Ok(size),
                Dim::Named(name) => size > 0 && *sizes.entry(name).or_insert(size) == size,
            };
            if !fits {
                return Err(misfit());
            }
            if axis == 0 && size > CALL_ROWS_MAX && matches!(dim, Dim::Named(_)) {
                return Err(wrong(format!("has {size} rows, one call takes {CALL_ROWS_MAX}")));
            }
        }
        let elements = tensor::elements(&input.shape).ok_or_else(misfit)?;
        match spec.datatype.element_bytes() {
            Some(one) if elements.checked_mul(one) != Some(input.data.len()) => {
                return Err(wrong(format!(
                    "holds {} bytes, its shape needs {} of {one}",
                    input.data.len(),
                    elements
                )));
            }
            None => drop(tensor::byte_strings(input).map_err(wrong)?),
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
