use std::fs;

use tempfile::TempDir;

use super::*;
use crate::graph::Graph;
use crate::quantize::weights_int8;
use crate::tensor;
use crate::testing::{self, node, ramp, with_int, with_ints};

const KEY: [u8; 32] = [7; 32];

/// A convolution that mixes channels, one that keeps them apart, both of codes, and a layer of codes turned round.
fn file_of_layers() -> Vec<u8> {
    let constants = vec![
        values::of_floats("mix", vec![16, 8, 3, 3], &ramp(16 * 8 * 9)),
        values::of_floats("apart", vec![16, 1, 5, 5], &ramp(16 * 25)),
        values::of_floats("w", vec![24, 64], &ramp(24 * 64)),
        values::of_floats("b", vec![24], &ramp(24)),
    ];
    let mut apart = with_int(node("Conv", &["a", "apart"], "c"), "group", 16);
    "apart".clone_into(&mut apart.name);
    let nodes = vec![
        with_ints(node("Conv", &["x", "mix"], "a"), "kernel_shape", &[3, 3]),
        with_ints(apart, "kernel_shape", &[5, 5]),
        node("Flatten", &["c"], "flat"),
        with_int(node("Gemm", &["flat", "w", "b"], "y"), "transB", 1),
    ];
    let file = testing::model(&[("x", &[1, 8, 8, 8])], &[("y", &[1, 24])], nodes, constants);
    weights_int8(&file).unwrap()
}

/// An embedding whose rows a layer takes.
fn file_of_a_table() -> Vec<u8> {
    let constants = vec![
        values::of_floats("table", vec![50, 32], &ramp(50 * 32)),
        values::of_floats("w", vec![32, 48], &ramp(32 * 48)),
    ];
    let nodes = vec![
        node("Gather", &["table", "ids"], "rows"),
        node("MatMul", &["rows", "w"], "y"),
    ];
    let mut model = testing::model_proto(&[("ids", &[-1, 3])], &[("y", &[-1, 3, 48])], nodes, constants);
    let graph = model.graph.as_mut().unwrap();
    graph.input[0] = testing::info(&("ids", &[-1, 3]), tract_onnx::pb::tensor_proto::DataType::Int64);
    weights_int8(&onnx::encode(&model)).unwrap()
}

/// A model file and a folder beside it.
struct Kept {
    dir: TempDir,
    folder: PackedFolder,
    file: ContentHash,
}

impl Kept {
    fn new(onnx: &[u8]) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("model.onnx"), onnx).unwrap();
        let folder = PackedFolder::new(dir.path().join("packed"), KEY).unwrap();
        let file = ContentHash::of(onnx);
        Self { dir, folder, file }
    }
    fn prepare(&self) -> Prepared {
        prepare(&self.dir.path().join("model.onnx"), Some((&self.folder, &self.file))).unwrap()
    }
    /// The one file of the folder.
    fn path(&self) -> std::path::PathBuf {
        let mut files = fs::read_dir(self.dir.path().join("packed"))
            .unwrap()
            .map(|e| e.unwrap().path());
        let path = files.next().unwrap();
        assert!(files.next().is_none());
        path
    }
}

fn answer(prepared: Prepared) -> Vec<u8> {
    let graph = Graph::of(prepared).unwrap();
    let input = &graph.inputs()[0];
    let given = if input.name == "ids" {
        let data = [0_i64, 49, -1, 7, 7, 31]
            .iter()
            .flat_map(|id| id.to_le_bytes())
            .collect();
        proto::oip::Tensor {
            name: "ids".to_owned(),
            datatype: input.datatype,
            shape: vec![2, 3],
            data,
        }
    } else {
        tensor::of_f32s("x", vec![1, 8, 8, 8], &ramp(512))
    };
    graph.run(&[given]).unwrap().remove(0).data
}

#[test]
fn what_was_packed_answers_the_same_bits_before_and_after_it_was_kept() {
    for (onnx, layers, tables) in [(file_of_layers(), 2, 0), (file_of_a_table(), 1, 1)] {
        let fresh = Prepared::of(onnx::decode(&onnx).unwrap()).unwrap();
        let count = |kind: fn(&Weights) -> bool| fresh.weights.iter().filter(|w| kind(w)).count();
        assert_eq!(count(|w| matches!(w, Weights::Linear(_))), layers);
        assert_eq!(count(|w| matches!(w, Weights::Table(_))), tables);
        let expected = answer(fresh);
        let kept = Kept::new(&onnx);
        assert_eq!(answer(kept.prepare()), expected);
        // From here on the model file itself is not looked at.
        fs::write(kept.dir.path().join("model.onnx"), "no model").unwrap();
        assert_eq!(answer(kept.prepare()), expected);
    }
}

#[test]
fn a_file_that_was_cut_flipped_or_written_by_somebody_else_is_made_anew() {
    let kept = Kept::new(&file_of_a_table());
    let expected = answer(kept.prepare());
    let whole = fs::read(kept.path()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut spoilt: Vec<Vec<u8>> = (0..whole.len()).step_by(61).map(flipped).collect();
    spoilt.extend([0, 1, 47, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec()));
    spoilt.push([&whole[..], b"more"].concat());
    for bytes in spoilt {
        fs::write(kept.path(), &bytes).unwrap();
        assert!(kept.folder.open(&kept.file).is_none());
    }
    assert_eq!(answer(kept.prepare()), expected);
    assert_eq!(fs::read(kept.path()).unwrap(), whole, "it was not written anew");
    let other = PackedFolder::new(kept.dir.path().join("packed"), [8; 32]).unwrap();
    assert!(other.open(&kept.file).is_none());
}

#[test]
fn only_what_is_wanted_stays() {
    let kept = Kept::new(&file_of_layers());
    kept.prepare();
    let half = kept.dir.path().join("packed/half.1-0.tmp");
    fs::write(&half, "cut off").unwrap();
    kept.folder.retain(|file| *file == kept.file).unwrap();
    assert!(!half.exists() && kept.folder.open(&kept.file).is_some());
    kept.folder.retain(|_| false).unwrap();
    assert!(kept.folder.open(&kept.file).is_none());
}

#[test]
fn a_folder_that_cannot_be_written_costs_nothing_but_time() {
    let kept = Kept::new(&file_of_layers());
    fs::remove_dir(kept.dir.path().join("packed")).unwrap();
    answer(kept.prepare());
}

#[test]
fn a_graph_of_floats_alone_is_not_kept() {
    let weight = values::of_floats("w", vec![4, 4], &ramp(16));
    let onnx = testing::model(
        &[("x", &[-1, 4])],
        &[("y", &[-1, 4])],
        vec![node("MatMul", &["x", "w"], "y")],
        vec![weight],
    );
    let kept = Kept::new(&onnx);
    kept.prepare();
    assert!(kept.folder.open(&kept.file).is_none());
}

#[test]
fn weights_that_do_not_fit_their_operator_are_told_with_its_node() {
    let onnx = file_of_layers();
    let mut model = onnx::decode(&onnx).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let codes = graph.initializer.iter_mut().find(|t| t.name == "w.s8").unwrap();
    codes.raw_data.truncate(5);
    let told = Prepared::of(model).unwrap_err().to_string();
    assert!(told.contains("MeridianLinear") && told.contains("do not fit"), "{told}");
}

#[test]
fn what_was_packed_of_one_model_is_not_taken_for_another() {
    let kept = Kept::new(&file_of_layers());
    kept.prepare();
    let other = ContentHash::of(b"another model");
    let name = format!("{}.packed", proto::ids::hex(other.as_bytes()));
    fs::copy(kept.path(), kept.dir.path().join("packed").join(name)).unwrap();
    assert!(kept.folder.open(&other).is_none());
}
