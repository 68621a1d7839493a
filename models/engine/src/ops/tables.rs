//! Operators of `ai.onnx.ml` for tables, in place of tract's: trees, linear models, scaling. All arithmetic is in [`crate::trees`].

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::write::{self, Input, Output, Write};
use crate::trees::{Attributes, LinearModel, Norm, Trees, TreesError, scale};

/// The operators of this module, as files name them.
pub(crate) const TABLES: [&str; 7] = [
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "TreeEnsemble",
    "LinearClassifier",
    "LinearRegressor",
    "Scaler",
    "Normalizer",
];

/// Checks what can be known of a node of [`TABLES`] from the file alone. Nodes of other operators pass.
pub(crate) fn judge(node: &NodeProto) -> Result<(), String> {
    if TABLES.contains(&node.op_type.as_str()) {
        Work::of(node).map(drop).map_err(|why| why.to_string())
    } else {
        Ok(())
    }
}

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let work = Work::of(node).with_context(|| format!("node `{}` ({})", node.name, node.op_type))?;
    Ok((expand(Parsed(work)), vec![]))
}

/// What one node does, checked.
#[derive(Clone, Debug, PartialEq)]
enum Work {
    Trees(Arc<Trees>),
    Linear(Arc<LinearModel>),
    /// Offset and scale: one pair, or one for each column.
    Scale(Arc<[(f32, f32)]>),
    Normalize(Norm),
}

impl Work {
    fn of(node: &NodeProto) -> Result<Self, TreesError> {
        let attributes = Attributes::of(node);
        Ok(match node.op_type.as_str() {
            "Scaler" => Self::Scale(scale(attributes)?.into()),
            "Normalizer" => Self::Normalize(Norm::parse(attributes)?),
            "LinearClassifier" | "LinearRegressor" => Self::Linear(Arc::new(LinearModel::parse(node)?)),
            _ => Self::Trees(Arc::new(Trees::parse(node)?)),
        })
    }

    /// Scores of each row; `None` where a row keeps its columns.
    fn columns(&self) -> Option<usize> {
        match self {
            Self::Trees(trees) => Some(trees.columns()),
            Self::Linear(model) => Some(model.columns()),
            Self::Scale(_) | Self::Normalize(_) => None,
        }
    }

    fn labels(&self) -> bool {
        match self {
            Self::Trees(trees) => trees.labels(),
            Self::Linear(model) => model.labels(),
            Self::Scale(_) | Self::Normalize(_) => false,
        }
    }

    /// Whether a row may have this many columns.
    fn check(&self, width: usize) -> Result<(), TreesError> {
        let exactly = |needed: usize| TreesError::Length {
            list: "row",
            held: width,
            wanted: needed.to_string(),
        };
        match self {
            Self::Trees(trees) if width < trees.width_min() => Err(TreesError::Width {
                needed: trees.width_min(),
                given: width,
            }),
            Self::Linear(model) if width != model.width() => Err(exactly(model.width())),
            Self::Scale(pairs) if pairs.len() != 1 && pairs.len() != width => Err(exactly(pairs.len())),
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Trees(_) => "MeridianTrees",
            Self::Linear(_) => "MeridianLinearModel",
            Self::Scale(_) => "MeridianScaler",
            Self::Normalize(_) => "MeridianNormalizer",
        }
    }
}

#[derive(Clone, Debug)]
struct Parsed(Work);

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(if self.0.labels() { 2 } else { 1 })
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, self.nboutputs()?)?;
        let scores = &outputs[outputs.len() - 1];
        s.equals(&scores.datum_type, f32::datum_type())?;
        let Some(columns) = self.0.columns() else {
            return s.equals(&inputs[0].shape, &scores.shape);
        };
        s.equals(&inputs[0].rank, 2)?;
        s.equals(&scores.rank, 2)?;
        s.equals(&inputs[0].shape[0], &scores.shape[0])?;
        s.equals(&scores.shape[1], columns.to_dim())?;
        if self.0.labels() {
            s.equals(&outputs[0].datum_type, i64::datum_type())?;
            s.equals(&outputs[0].rank, 1)?;
            s.equals(&inputs[0].shape[0], &outputs[0].shape[0])?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?.clone();
        let width = fact.shape.last().context("a scalar has no columns")?;
        if let Ok(width) = width.to_usize() {
            self.0.check(width).with_context(|| format!("node `{prefix}`"))?;
        }
        ensure!(
            fact.rank() <= 2,
            "tables have rows and columns, not the shape {:?}",
            fact.shape
        );
        let kind = fact.datum_type;
        let rows = if kind == f32::datum_type() {
            inputs.into()
        } else {
            // Thresholds of doubles would be rounded, and rows would end at other leaves than where they were trained.
            ensure!(
                kind.is_integer(),
                "the engine runs tables of 32-bit floats or whole numbers, not {kind:?}"
            );
            model.wire_node(format!("{prefix}.floats"), cast(f32::datum_type()), inputs)?
        };
        model.wire_node(prefix, Table(self.0.clone()), &rows)
    }
}

/// The operator as it runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table(Work);

impl Eq for Table {}

impl Op for Table {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        Ok(match &self.0 {
            Work::Trees(trees) => {
                let (trees, nodes) = trees.size();
                vec![format!("{trees} trees of {nodes} nodes")]
            }
            _ => vec![],
        })
    }
    op_as_typed_op!();
}

write::evaluates!(Table);

impl Write for Table {
    /// Scaled and normalised rows stay where they are.
    fn changes(&self) -> Option<usize> {
        self.0.columns().is_none().then_some(0)
    }

    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let shape = match (self.changes(), &*outputs) {
            (Some(_), [changed, ..]) => changed.shape,
            _ => inputs.first().context("no rows")?.shape,
        };
        let width = shape.last().copied().unwrap_or(0);
        ensure!(width > 0, "rows without columns");
        self.0.check(width)?;
        let Some(columns) = self.0.columns() else {
            return self.change(outputs, width);
        };
        let x = inputs[0].elements::<f32>()?;
        let mut none = [];
        let (labels, scores) = match outputs {
            [labels, scores] if self.0.labels() => (labels.elements::<i64>()?, scores.elements::<f32>()?),
            [scores] if !self.0.labels() => (&mut none[..], scores.elements::<f32>()?),
            _ => bail!("other results than labels and scores"),
        };
        let rows = x.len() / width;
        ensure!(
            scores.len() == rows * columns && (labels.len() == rows || !self.0.labels()),
            "{} scores and {} labels of {rows} rows",
            scores.len(),
            labels.len()
        );
        match &self.0 {
            Work::Trees(trees) => trees.run(x, width, labels, scores)?,
            Work::Linear(model) => model.run(x, labels, scores)?,
            Work::Scale(_) | Work::Normalize(_) => {}
        }
        Ok(())
    }
}

impl Table {
    /// Changes the values of rows in place.
    fn change(&self, outputs: &mut [Output<'_>], width: usize) -> TractResult<()> {
        let rows = outputs.first_mut().context("no result")?.elements::<f32>()?;
        for row in rows.chunks_exact_mut(width) {
            match &self.0 {
                Work::Scale(pairs) => {
                    let pairs = pairs.iter().cycle();
                    row.iter_mut()
                        .zip(pairs)
                        .for_each(|(value, (offset, scale))| *value = (*value - offset) * scale);
                }
                Work::Normalize(norm) => norm.apply(row),
                Work::Trees(_) | Work::Linear(_) => {}
            }
        }
        Ok(())
    }
}

impl TypedOp for Table {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(columns) = self.0.columns() else {
            return Ok(tvec![f32::fact(inputs[0].shape.clone())]);
        };
        let rows = inputs[0].shape[0].clone();
        let scores = f32::fact([rows.clone(), columns.to_dim()]);
        Ok(if self.0.labels() {
            tvec![i64::fact([rows]), scores]
        } else {
            tvec![scores]
        })
    }
    as_op!();
}
