//! A graph that is ready to run: one plan for every shape where that is fast, else one plan per shape.
//!
//! tract runs convolutions about five times slower when the batch is a symbol, and up to twice slower a row when rows are
//! joined, so such graphs run row by row, with a plan made when it is first needed. Other graphs run one plan for all shapes, with as
//! many rows as the cache holds, and fall back to plans per shape when tract cannot make one.
//!
//! Invariant: equal input gives equal output shape and rows in the order they came, however they were cut.

use proto::manifest::{Dim, TensorSpec};
use proto::oip;
use tract_onnx::pb::ModelProto;

use crate::engine::{Call, Engine};
use crate::onnx::Described;
use crate::onnxruntime::{Library, Provider, Session};
use crate::pack::Prepared;
use crate::{LoadError, RunError, onnx, preflight, tensor};

mod layout;
mod plan;
mod program;
mod run;
mod shapes;
use shapes::PlanPerShape;

/// A loaded graph. Shared by threads; each call makes its own scratch state.
pub struct Graph {
    io: Described,
    batched: bool,
    engine: Box<dyn Engine>,
}

impl Graph {
    /// Prepares a decoded model and chooses how it runs.
    ///
    /// # Errors
    /// [`LoadError::Onnx`] for inputs or outputs that requests cannot carry, [`LoadError::Plan`] when tract refuses.
    pub fn new(model: ModelProto) -> Result<Self, LoadError> {
        Self::of(Prepared::of(model)?)
    }

    /// Chooses how a prepared model runs.
    ///
    /// # Errors
    /// Those of [`Graph::new`].
    pub fn of(prepared: Prepared) -> Result<Self, LoadError> {
        let Prepared { model, weights } = prepared;
        let io = onnx::describe_model(&model)?;
        let graph = model.graph.as_ref().ok_or(onnx::OnnxError::NoGraph)?;
        let convolves = graph.node.iter().any(|node| node.op_type.contains("Conv"));
        let parsed = crate::ops::with_weights(weights, || plan::parse(&model, &io.inputs))?;
        drop(model);
        let symbolic = !convolves && has_free_axes(&io.inputs);
        let any = symbolic
            .then(|| plan::for_any(parsed.clone(), &io.inputs).ok())
            .flatten();
        Ok(Self {
            batched: onnx::batched(&io.inputs, &io.outputs),
            io,
            engine: match any {
                Some(plan) => Box::new(plan),
                None => Box::new(PlanPerShape::new(parsed)),
            },
        })
    }

    /// Judges a decoded model and hands its file, `onnx`, to ONNX Runtime.
    ///
    /// # Errors
    /// [`LoadError::Preflight`], [`LoadError::Onnx`], [`LoadError::OnnxRuntime`].
    pub(crate) fn in_onnxruntime(
        model: &ModelProto,
        onnx: &[u8],
        provider: Provider,
        library: &Library,
    ) -> Result<Self, LoadError> {
        preflight::check_for_onnxruntime(model)?;
        let io = onnx::describe_model(model)?;
        Ok(Self {
            batched: onnx::batched(&io.inputs, &io.outputs),
            io,
            engine: Box::new(Session::new(onnx, provider, library)?),
        })
    }

    /// What the graph takes.
    #[must_use]
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.io.inputs
    }
    /// What the graph gives.
    #[must_use]
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.io.outputs
    }
    /// Whether rows of different requests may be joined on axis 0.
    #[must_use]
    pub const fn batched(&self) -> bool {
        self.batched
    }
    /// Whether one plan serves every shape; otherwise each new length of a sequence costs a plan.
    #[must_use]
    pub fn any_shape(&self) -> bool {
        self.engine.any_shape()
    }

    /// Runs the graph on inputs in the order of [`Graph::inputs`], types and shapes already checked.
    ///
    /// # Errors
    /// [`RunError::Engine`]; a panic inside the engine is one too.
    pub fn run(&self, inputs: &[oip::Tensor]) -> Result<Vec<oip::Tensor>, RunError> {
        let rows = inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(0);
        let one = |spec: &TensorSpec| spec.shape.first() == Some(&Dim::Fixed(1));
        let single = self.inputs().iter().all(one);
        let whole = Call::whole(inputs);
        let run_rows = if self.batched {
            self.engine.rows_worth_joining(&self.io, &whole)
        } else {
            1
        };
        if !(self.batched || single) || rows <= run_rows || inputs.iter().any(|t| t.shape.first() != Some(&rows)) {
            return self.engine.run(&self.io, &whole);
        }
        let mut parts: Vec<Vec<oip::Tensor>> = vec![Vec::new(); self.outputs().len()];
        for start in (0..rows).step_by(run_rows) {
            let end = rows.min(start + run_rows);
            let cut = Call::rows(inputs, start..end);
            for (output, part) in self.engine.run(&self.io, &cut)?.into_iter().zip(&mut parts) {
                let (given, made) = (end - start, output.shape.first());
                if made != Some(&given) {
                    let detail = format!("output `{}` has {made:?} rows for {given} given", output.name);
                    return Err(RunError::Engine { detail });
                }
                part.push(output);
            }
        }
        Ok(parts.into_iter().filter_map(tensor::join_rows).collect())
    }

    /// Runs a row of zeros: makes the plan of a first call, and shows whether the graph runs at all.
    pub(crate) fn try_zeros(&self) -> Result<(), RunError> {
        let zeros: Option<Vec<oip::Tensor>> = self.inputs().iter().map(zeros).collect();
        zeros.map_or(Ok(()), |zeros| self.run(&zeros).map(drop))
    }
}

fn zeros(spec: &TensorSpec) -> Option<oip::Tensor> {
    /// A length that sequences commonly have.
    const LENGTH: usize = 16;
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => usize::try_from(*size).ok(),
        Dim::Named(_) => Some(if axis == 0 { 1 } else { LENGTH }),
    };
    let shape = spec.shape.iter().enumerate().map(size).collect::<Option<Vec<_>>>()?;
    let bytes = tensor::elements(&shape)?.checked_mul(spec.datatype.element_bytes()?)?;
    Some(oip::Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data: vec![0; bytes],
    })
}

fn has_free_axes(inputs: &[TensorSpec]) -> bool {
    inputs
        .iter()
        .flat_map(|spec| &spec.shape)
        .any(|dim| matches!(dim, Dim::Named(_)))
}

#[cfg(test)]
mod tests;
