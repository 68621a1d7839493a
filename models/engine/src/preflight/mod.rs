//! Judges a graph before anything of it is executed.
//!
//! A graph's size in memory and time has little to do with the size of its file: forty bytes can ask for eight terabytes.
//! What can be read from the file is checked here, and the refusal names the node; what only shows when shapes are
//! inferred is bounded by [`crate::graph`], and what only shows when something runs by the limits of
//! [`crate::child`]. Invariant: this module allocates in proportion to the file, and no operator of the engine runs.

mod constants;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use proto::limits::{GRAPH_INPUT_ELEMENTS_MAX, GRAPH_NODES_MAX, GRAPH_TENSOR_BYTES_MAX, ONNX_BYTES_MAX};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::type_proto::Value as Type;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

use crate::onnx::{OnnxError, decode_shared, values};
use crate::package::map_bounded;

/// Operators that draw numbers.
const RANDOM: [&str; 7] = [
    "RandomUniform",
    "RandomUniformLike",
    "RandomNormal",
    "RandomNormalLike",
    "Multinomial",
    "Bernoulli",
    "Sampling",
];

/// What a graph that passed consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GraphReport {
    /// Nodes, those of subgraphs included.
    pub nodes: usize,
    /// Bytes of constants.
    pub constant_bytes: u64,
    /// How often each operator is used.
    pub operators: BTreeMap<String, usize>,
}

/// Why a graph is refused. Each names the node or constant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PreflightError {
    /// Not an ONNX file within bounds.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The file could not be read.
    #[error("{0}")]
    Read(String),
    /// The optimiser would take too long.
    #[error("the graph has more than {GRAPH_NODES_MAX} nodes; simplify it before publishing")]
    TooManyNodes,
    /// Operators that the engine lacks, each with the nodes that use it.
    #[error("the engine has no operator {}", .0.join("; "))]
    Operators(Vec<String>),
    /// Equal input would not give equal output.
    #[error("node `{node}` ({operator}) draws random numbers; export the model for inference")]
    Random {
        /// Which node.
        node: String,
        /// Its operator.
        operator: String,
    },
    /// Weights outside the file are not covered by its digest.
    #[error("constant `{name}` is kept outside the file; save the model with its weights inside")]
    External {
        /// Which constant.
        name: String,
    },
    /// A constant whose shape and bytes disagree, or which the engine cannot hold.
    #[error("constant `{name}` {why}")]
    Constant {
        /// Which constant.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A node that would fail, hang or take all memory.
    #[error("node `{node}` ({operator}) {why}")]
    Node {
        /// Which node.
        node: String,
        /// Its operator.
        operator: String,
        /// What it would do.
        why: String,
    },
    /// The graph is not a graph.
    #[error("the graph {0}")]
    Structure(String),
}

/// Judges an ONNX file.
///
/// # Errors
/// [`PreflightError`], which names what is wrong and where.
pub fn preflight(onnx: &Path) -> Result<GraphReport, PreflightError> {
    let bytes = map_bounded(onnx, ONNX_BYTES_MAX).map_err(|e| PreflightError::Read(e.to_string()))?;
    check(&decode_shared(bytes)?)
}

/// Judges a decoded model.
///
/// # Errors
/// [`PreflightError`], which names what is wrong and where.
pub fn check(model: &ModelProto) -> Result<GraphReport, PreflightError> {
    judge(model, engine_has)
}

/// Judges a decoded model that is to run in ONNX Runtime: by the same rules, but for the operators that tract lacks.
///
/// # Errors
/// [`PreflightError`], which names what is wrong and where.
pub fn check_for_onnxruntime(model: &ModelProto) -> Result<GraphReport, PreflightError> {
    judge(model, onnxruntime_may_run)
}

fn judge(model: &ModelProto, known: fn(&NodeProto) -> bool) -> Result<GraphReport, PreflightError> {
    let graph = model.graph.as_ref().ok_or(OnnxError::NoGraph)?;
    if !model.functions.is_empty() {
        return Err(PreflightError::Structure(
            "uses model-local functions; inline them before publishing".to_owned(),
        ));
    }
    inputs(graph)?;
    let mut found = Found {
        known,
        report: GraphReport::default(),
        missing: BTreeMap::new(),
    };
    walk(graph, &BTreeSet::new(), &mut found)?;
    if found.missing.is_empty() {
        return Ok(found.report);
    }
    let name = |(operator, nodes): (String, Vec<String>)| {
        let shown = nodes
            .iter()
            .take(3)
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let more = if nodes.len() > 3 {
            format!(" and {} more", nodes.len() - 3)
        } else {
            String::new()
        };
        format!("{operator} (node {shown}{more})")
    };
    Err(PreflightError::Operators(found.missing.into_iter().map(name).collect()))
}

/// What was seen of a graph so far.
struct Found {
    /// Whether the engine that is to run it has the operator of a node.
    known: fn(&NodeProto) -> bool,
    report: GraphReport,
    /// Nodes by the operator that the engine lacks.
    missing: BTreeMap<String, Vec<String>>,
}

/// Refuses inputs whose fixed sizes alone would fill the memory: nothing could be sent to them.
fn inputs(graph: &GraphProto) -> Result<(), PreflightError> {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    for info in graph
        .input
        .iter()
        .filter(|info| !constants.contains(info.name.as_str()))
    {
        let Some(Type::TensorType(tensor)) = info.r#type.as_ref().and_then(|kind| kind.value.as_ref()) else {
            continue;
        };
        let dims = tensor.shape.iter().flat_map(|shape| &shape.dim);
        let mut fixed = dims.filter_map(|dim| match dim.value {
            Some(Dim::DimValue(size)) => usize::try_from(size).ok().filter(|size| *size > 0),
            _ => None,
        });
        let elements = fixed.try_fold(1_usize, usize::checked_mul);
        if elements.is_none_or(|elements| elements > GRAPH_INPUT_ELEMENTS_MAX) {
            return Err(PreflightError::Structure(format!(
                "takes more than {GRAPH_INPUT_ELEMENTS_MAX} elements as input `{}`; leave its sizes free or smaller",
                info.name
            )));
        }
    }
    Ok(())
}

fn walk(graph: &GraphProto, outer: &BTreeSet<&str>, found: &mut Found) -> Result<(), PreflightError> {
    let report = &mut found.report;
    report.nodes += graph.node.len();
    if report.nodes > GRAPH_NODES_MAX {
        return Err(PreflightError::TooManyNodes);
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(PreflightError::Structure(
            "holds sparse constants; make them dense before publishing".to_owned(),
        ));
    }
    for tensor in &graph.initializer {
        report.constant_bytes += constant(tensor)?;
    }
    let known = constants::Constants::of(graph);
    let mut names: BTreeSet<&str> = outer.clone();
    names.extend(
        graph
            .input
            .iter()
            .map(|i| i.name.as_str())
            .chain(graph.initializer.iter().map(|t| t.name.as_str())),
    );
    for node in &graph.node {
        let refuse = |why: String| PreflightError::Node {
            node: name_of(node),
            operator: node.op_type.clone(),
            why,
        };
        node_alone(node, found)?;
        if let Some(unmade) = node
            .input
            .iter()
            .find(|name| !name.is_empty() && !names.contains(name.as_str()))
        {
            return Err(refuse(format!("reads `{unmade}`, which nothing before it makes")));
        }
        rules::check(node, &known).map_err(refuse)?;
        for inner in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            walk(inner, &names, found)?;
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !names.insert(output) {
                return Err(refuse(format!("makes `{output}`, which exists already")));
            }
        }
    }
    match graph.output.iter().find(|info| !names.contains(info.name.as_str())) {
        Some(info) => Err(PreflightError::Structure(format!(
            "promises the output `{}`, which nothing makes",
            info.name
        ))),
        None => Ok(()),
    }
}

/// What can be said of a node without its neighbours: its operator is known and repeatable, its constants are whole.
fn node_alone(node: &NodeProto, found: &mut Found) -> Result<(), PreflightError> {
    let report = &mut found.report;
    *report.operators.entry(node.op_type.clone()).or_default() += 1;
    if !(found.known)(node) {
        found
            .missing
            .entry(node.op_type.clone())
            .or_default()
            .push(name_of(node));
    }
    if RANDOM.contains(&node.op_type.as_str()) {
        return Err(PreflightError::Random {
            node: name_of(node),
            operator: node.op_type.clone(),
        });
    }
    for tensor in node.attribute.iter().flat_map(tensors_of) {
        report.constant_bytes += constant(tensor)?;
    }
    Ok(())
}

fn tensors_of(attribute: &AttributeProto) -> impl Iterator<Item = &TensorProto> {
    attribute.t.iter().chain(&attribute.tensors)
}

/// Checks that a constant holds what its shape promises, and returns its bytes.
fn constant(tensor: &TensorProto) -> Result<u64, PreflightError> {
    /// Where the format keeps data in other files.
    const EXTERNAL: i32 = 1;
    if tensor.data_location == Some(EXTERNAL) || !tensor.external_data.is_empty() {
        return Err(PreflightError::External {
            name: tensor.name.clone(),
        });
    }
    let wrong = |why: String| PreflightError::Constant {
        name: tensor.name.clone(),
        why,
    };
    let promised = values::count(tensor).ok_or_else(|| wrong(format!("has the impossible shape {:?}", tensor.dims)))?;
    let held = values::held(tensor).ok_or_else(|| {
        wrong(format!(
            "has the element type {} or a length that the engine cannot hold",
            tensor.data_type
        ))
    })?;
    if held != promised {
        return Err(wrong(format!(
            "holds {held} elements, its shape {:?} needs {promised}",
            tensor.dims
        )));
    }
    let elements = held.saturating_mul(values::element_bytes(tensor));
    let bytes = u64::try_from(tensor.raw_data.len().max(elements)).unwrap_or(u64::MAX);
    // int4 and the like are expanded by the engine to no more than eight bytes an element.
    if bytes > GRAPH_TENSOR_BYTES_MAX * 4 {
        return Err(wrong(format!("has {bytes} bytes")));
    }
    Ok(bytes)
}

/// A node as people find it: its name, else what it makes.
fn name_of(node: &NodeProto) -> String {
    let first = || node.output.first().cloned().unwrap_or_default();
    if node.name.is_empty() {
        first()
    } else {
        node.name.clone()
    }
}

fn engine_has(node: &NodeProto) -> bool {
    let operator = node.op_type.as_str();
    static OPERATORS: OnceLock<BTreeSet<String>> = OnceLock::new();
    OPERATORS
        .get_or_init(|| tract_onnx::onnx().op_register.0.into_keys().collect())
        .contains(operator)
        || crate::ops::TABLES.contains(&operator)
        || (node.domain == "com.microsoft" && crate::onnx::OF_ONNX_RUNTIME.contains(&operator))
}

/// Whether ONNX Runtime may run a node; whether it can, it says itself. Operators of other domains come from libraries that nobody
/// has judged.
fn onnxruntime_may_run(node: &NodeProto) -> bool {
    /// They read files beside the model, run as often as their input says, or train.
    const NEVER: [&str; 5] = [
        "EPContext",
        "Loop",
        "BiasDropout",
        "BitmaskDropout",
        "BitmaskBiasDropout",
    ];
    let trains = node.op_type == "Dropout" && node.input.get(2).is_some_and(|mode| !mode.is_empty());
    matches!(node.domain.as_str(), "" | "ai.onnx" | "ai.onnx.ml" | "com.microsoft")
        && !NEVER.contains(&node.op_type.as_str())
        && !trains
}

#[cfg(test)]
mod tests;
