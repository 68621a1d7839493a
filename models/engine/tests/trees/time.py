"""Makes models of realistic size in the folder given, and times ONNX Runtime on them: CPU time of one thread per call.

    v/bin/python time.py FOLDER      (`make.py` says how to make v; examples/tables.rs times the engine on the same files)
"""
import pathlib, sys, time
import numpy as np, onnxruntime as ort
from onnx import TensorProto as T, helper as h
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from skl2onnx import to_onnx

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
x, y = make_classification(4000, 30, n_informative=15, random_state=1)
x = x.astype(np.float32)
models = {
    "boosted-100-trees-depth-6": (GradientBoostingClassifier(n_estimators=100, max_depth=6, random_state=1), y),
    "boosted-300-trees-3-classes": (GradientBoostingClassifier(n_estimators=100, max_depth=6, random_state=1), y + (x[:, 0] > 0.5)),
    "forest-100-trees-depth-6": (RandomForestClassifier(n_estimators=100, max_depth=6, random_state=1), y),
    "forest-100-trees-any-depth": (RandomForestClassifier(n_estimators=100, random_state=1), y),
}
x[:3200].tofile(folder / "rows.f32")
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1


def median(session, batch):
    calls = [np.ascontiguousarray(x[at:at + batch]) for at in range(0, 3200, batch)]
    name, figures = session.get_inputs()[0].name, []
    for _ in range(9):
        start = time.thread_time()
        for _ in range(5):
            for call in calls:
                session.run(None, {name: call})
        figures.append((time.thread_time() - start) / len(calls) / 5 * 1e6)
    return sorted(figures)[4]


for name, (model, classes) in models.items():
    path = folder / f"{name}.onnx"
    if not path.exists():
        model.fit(x, classes)
        proto = to_onnx(model, x[:1], options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3})
        path.write_bytes(proto.SerializeToString())
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for batch in (1, 32):
        print(f"{name}, batch {batch}: {median(session, batch):.1f} us")
identity = h.make_graph([h.make_node("Identity", ["x"], ["y"])], "g", [h.make_tensor_value_info("x", T.FLOAT, [None, 30])],
                        [h.make_tensor_value_info("y", T.FLOAT, [None, 30])])
model = h.make_model(identity, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
print(f"a model that does nothing, batch 1: {median(session, 1):.1f} us")
