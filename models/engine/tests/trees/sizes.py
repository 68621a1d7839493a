"""Makes models of realistic size, and rows for them, in the folder given: what `time.py` and `cargo load engine` measure with.

    v/bin/python sizes.py FOLDER      (`make.py` says how to make v)
"""
import pathlib, sys
import numpy as np
from onnx import TensorProto as T, helper as h

NOTHING = "nothing"


def make(folder):
    """Gives the rows; FOLDER then holds `rows.f32` and one ONNX file a model. A model that lies there is not trained again."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from skl2onnx import to_onnx

    folder.mkdir(parents=True, exist_ok=True)
    x, y = make_classification(4000, 30, n_informative=15, random_state=1)
    x = x.astype(np.float32)
    models = {
        "boosted-100-trees-depth-6": (GradientBoostingClassifier(n_estimators=100, max_depth=6, random_state=1), y),
        "boosted-300-trees-3-classes": (GradientBoostingClassifier(n_estimators=100, max_depth=6, random_state=1), y + (x[:, 0] > 0.5)),
        "forest-100-trees-depth-6": (RandomForestClassifier(n_estimators=100, max_depth=6, random_state=1), y),
        "forest-100-trees-any-depth": (RandomForestClassifier(n_estimators=100, random_state=1), y),
    }
    for name, (model, classes) in models.items():
        path = folder / f"{name}.onnx"
        if not path.exists():
            model.fit(x, classes)
            proto = to_onnx(model, x[:1], options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3})
            path.write_bytes(proto.SerializeToString())
    (folder / f"{NOTHING}.onnx").write_bytes(nothing().SerializeToString())
    x[:3200].tofile(folder / "rows.f32")
    return x[:3200], [*models, NOTHING]


def nothing():
    """A model that does nothing: what a call costs."""
    rows = lambda name: h.make_tensor_value_info(name, T.FLOAT, ["rows", 30])
    graph = h.make_graph([h.make_node("Identity", ["x"], ["y"])], NOTHING, [rows("x")], [rows("y")])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
