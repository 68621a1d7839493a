//! Rows of a table of 8-bit codes, each with its scale: only the rows that are asked for become FP32.

use std::cell::RefCell;
use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{IntoExp, check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::Told;
use super::write::{self, Input, Output, Write};
use crate::pack::{Table, Weights};

thread_local! {
    /// Codes of a row that was read from a file.
    static CODES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    match super::weights(node)? {
        Weights::Table(table) => Ok((expand(Parsed(Embedding(table))), vec![])),
        Weights::Linear(_) => bail!("node `{}` (MeridianEmbedding) names a layer", node.name),
    }
}

#[derive(Clone, Debug)]
struct Parsed(Embedding);

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        "MeridianEmbedding".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(inputs[0].rank.bex() + 1, &outputs[0].rank)?;
        s.given(&inputs[0].rank, move |s, rank| {
            let rank = usize::try_from(rank)?;
            for axis in 0..rank {
                s.equals(&inputs[0].shape[axis], &outputs[0].shape[axis])?;
            }
            s.equals(&outputs[0].shape[rank], self.0.0.width().to_dim())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let ids = model.wire_node(
            format!("{prefix}.ids"),
            tract_onnx::tract_core::ops::cast::cast(i64::datum_type()),
            inputs,
        )?;
        model.wire_node(prefix, self.0.clone(), &ids)
    }
}

/// An embedding that is ready to run.
#[derive(Clone, Debug)]
pub(super) struct Embedding(Arc<Table>);

impl PartialEq for Embedding {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
impl Eq for Embedding {}

impl Op for Embedding {
    fn name(&self) -> StaticName {
        "MeridianEmbedding".into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{} x {} codes", self.0.rows(), self.0.width())])
    }
    op_as_typed_op!();
}

write::evaluates!(Embedding);

impl Write for Embedding {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([ids], [out]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let (rows, width) = (self.0.rows(), self.0.width());
        let (ids, out) = (ids.elements::<i64>()?, out.elements::<f32>()?);
        ensure!(
            out.len() / width == ids.len(),
            "{} ids for {} numbers",
            ids.len(),
            out.len()
        );
        CODES.with_borrow_mut(|held| {
            for (id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
                // The standard counts negative indices from the end.
                let signed = if *id < 0 {
                    id.saturating_add(i64::try_from(rows)?)
                } else {
                    *id
                };
                let found = match usize::try_from(signed) {
                    Ok(row) => self.0.read(row, held, out),
                    Err(_) => Ok(false),
                };
                let found = found.map_err(|why| Told(format!("a row of the table cannot be read: {}", why.kind())))?;
                ensure!(found, Told(format!("an id is not among the {rows} rows of the table")));
            }
            Ok(())
        })
    }
}

impl TypedOp for Embedding {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.push(self.0.width().to_dim());
        Ok(tvec![f32::fact(shape)])
    }
    as_op!();
}
