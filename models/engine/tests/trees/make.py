"""Makes the models of this folder and what ONNX Runtime answers to them. Run once; the results are committed.

    python3 -m venv v && v/bin/pip install scikit-learn==1.9.1 skl2onnx==1.20.0 onnxruntime==1.32.0 && v/bin/python make.py

Trained models come from scikit-learn's bundled data; the others are small ensembles that walk through every rule by which
ONNX Runtime makes labels and scores of sums. In the JSON, null stands for an element that ONNX Runtime leaves unwritten.
"""
import itertools, json, math, pathlib
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto as T, helper as h, numpy_helper

HERE = pathlib.Path(__file__).parent
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]


def number(value):
    value = float(value)
    if math.isnan(value):
        return "nan"
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def tensor(name, array):
    whole = array.dtype.kind == "i"
    data = [int(v) if whole else number(v) for v in array.ravel()]
    return {"name": name, "datatype": "INT64" if whole else "FP32", "shape": list(array.shape), "data": data}


def save(name, model, x, unwritten=()):
    path = HERE / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    outputs = [tensor(n, v) for n, v in zip(names, session.run(names, {session.get_inputs()[0].name: x}))]
    for output in outputs:
        for at in dict(unwritten).get(output["name"], []):
            output["data"][at] = None
    case = {"input": tensor(session.get_inputs()[0].name, x), "outputs": outputs}
    (HERE / f"{name}.json").write_text(json.dumps(case, separators=(",", ":")) + "\n")


def trained():
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
    from sklearn.ensemble import (GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier,
                                  RandomForestRegressor)
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler
    from skl2onnx import to_onnx

    def fit(name, model, data, rows=41, classes=True):
        x, y = data(return_X_y=True)
        x = x.astype(np.float32)
        model.fit(x, y)
        options = {"zipmap": False} if classes else None
        proto = to_onnx(model, x[:1], options={id(model): options} if options else None, target_opset={"": 17, "ai.onnx.ml": 3})
        save(name, proto, x[:: len(x) // rows][:rows])

    fit("boosted-two", GradientBoostingClassifier(n_estimators=20, max_depth=3, random_state=1), load_breast_cancer)
    fit("boosted-three", GradientBoostingClassifier(n_estimators=8, max_depth=3, random_state=1), load_wine)
    fit("boosted-number", GradientBoostingRegressor(n_estimators=20, max_depth=3, random_state=1), load_diabetes, classes=False)
    fit("forest-two", RandomForestClassifier(n_estimators=12, max_depth=6, random_state=1), load_breast_cancer)
    fit("forest-three", RandomForestClassifier(n_estimators=12, max_depth=5, random_state=1), load_wine)
    fit("forest-number", RandomForestRegressor(n_estimators=8, max_depth=5, random_state=1), load_diabetes, classes=False)
    fit("logistic-two", make_pipeline(StandardScaler(), LogisticRegression()), load_breast_cancer)
    fit("logistic-three", make_pipeline(StandardScaler(), LogisticRegression()), load_wine)
    fit("linear-number", make_pipeline(Normalizer("l2"), LinearRegression()), load_diabetes, classes=False)


def graph(nodes, outputs, width, ml=3):
    infos = [h.make_tensor_value_info(n, T.INT64 if n.startswith("label") else T.FLOAT, ["N"] if n.startswith("label") else ["N", k])
             for n, k in outputs]
    inputs = [h.make_tensor_value_info("x", T.FLOAT, ["N", width])]
    opsets = [h.make_opsetid("", 17), h.make_opsetid("ai.onnx.ml", ml)]
    return h.make_model(h.make_graph(nodes, "rules", inputs, infos), opset_imports=opsets, ir_version=8)


def stumps(prefix, weights, thresholds=(0.25, 0.75), mode="BRANCH_LEQ", missing=None):
    """Two trees of one question each. `weights` holds (leaf, column, weight), the same for both trees but for the sign."""
    a = {"nodes_treeids": [], "nodes_nodeids": [], "nodes_featureids": [], "nodes_values": [], "nodes_modes": [],
         "nodes_truenodeids": [], "nodes_falsenodeids": []}
    given = {f"{prefix}_{n}": [] for n in ("treeids", "nodeids", "ids", "weights")}
    for tree, threshold in enumerate(thresholds):
        a["nodes_treeids"] += [tree] * 3
        a["nodes_nodeids"] += [0, 1, 2]
        a["nodes_featureids"] += [0, 0, 0]
        a["nodes_values"] += [threshold, 3.0, 5.0]
        a["nodes_modes"] += [mode, "LEAF", "LEAF"]
        a["nodes_truenodeids"] += [1, 0, 0]
        a["nodes_falsenodeids"] += [2, 0, 0]
        for leaf, column, weight in weights:
            for key, value in zip(("treeids", "nodeids", "ids", "weights"), (tree, leaf, column, weight * (1 + tree / 2))):
                given[f"{prefix}_{key}"].append(value)
    if missing is not None:
        a["nodes_missing_value_tracks_true"] = missing * len(thresholds)
    return a | given


def class_rules():
    x = np.array([[v] for v in ([0, 0.5, 1] * 4)[:11]], np.float32)
    layouts = {
        "first": [(1, 0, 0.1), (2, 0, 0.45)], "first-mixed": [(1, 0, -0.2), (2, 0, 0.9)],
        "second": [(1, 1, 0.1), (2, 1, 0.45)], "second-mixed": [(1, 1, -0.2), (2, 1, 0.9)],
        "both": [(1, 0, 0.7), (1, 1, 0.3), (2, 0, 0.1), (2, 1, 0.9)],
        "both-mixed": [(1, 0, 0.7), (1, 1, -0.3), (2, 0, 0.1), (2, 1, 0.9)],
        "apart": [(1, 0, 0.7), (2, 1, 0.9)], "rare": [(1, 0, -0.2)],
    }
    for transform in TRANSFORMS:
        nodes, outputs, unwritten = [], [], {}
        for (layout, weights), base in itertools.product(layouts.items(), ([], [0.1], [0.1, 0.25])):
            at = f"{layout}-{len(base)}"
            more = {"base_values": base} if base else {}
            nodes.append(h.make_node("TreeEnsembleClassifier", ["x"], [f"label-{at}", f"scores-{at}"], domain="ai.onnx.ml", name=at,
                         classlabels_int64s=[3, 7], post_transform=transform, **more, **stumps("class", weights)))
            outputs += [(f"label-{at}", 0), (f"scores-{at}", 2)]
            one = len({c for _, c, _ in weights}) == 1
            holes = []
            for row, (value,) in enumerate(x):
                leaves = [1 if value <= t else 2 for t in (0.25, 0.75)]
                seen = any(c == 1 and leaf in leaves for leaf, c, _ in weights)
                if not seen and len(base) < 2 and (transform == "PROBIT" or not one and len(base) == 1):
                    holes.append(2 * row + 1)
            unwritten[f"scores-{at}"] = holes
        save(f"classes-{transform.lower().replace('_', '-')}", graph(nodes, outputs, 1), x, unwritten)


def label_of_one():
    """The label as onnxmltools declares it: one, however many rows there are."""
    x = np.array([[v] for v in (0, 0.5, 1)], np.float32)
    classifier = h.make_node("TreeEnsembleClassifier", ["x"], ["whole", "scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1],
                             post_transform="LOGISTIC", **stumps("class", [(1, 0, -0.5), (2, 0, 0.5)]))
    model = graph([classifier, h.make_node("Identity", ["whole"], ["label"])], [("label", 0), ("scores", 2)], 1)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    save("label-of-one", model, x)


def number_rules():
    x = np.array([[v] for v in ([0, 0.5, 1] * 4)[:11]], np.float32)
    nodes, outputs = [], []
    for aggregate, base, transform in itertools.product(["SUM", "AVERAGE", "MIN", "MAX"], ([], [0.1]), ["NONE", "LOGISTIC", "PROBIT"]):
        at = f"one-{aggregate}-{len(base)}-{transform}"
        more = {"base_values": base} if base else {}
        nodes.append(h.make_node("TreeEnsembleRegressor", ["x"], [at], domain="ai.onnx.ml", name=at, n_targets=1, post_transform=transform,
                     aggregate_function=aggregate, **more, **stumps("target", [(1, 0, 0.2)])))
        outputs.append((at, 1))
    for aggregate, base in itertools.product(["SUM", "AVERAGE", "MIN", "MAX"], ([], [0.1, 0.2])):
        for transform in TRANSFORMS[:4]:
            at = f"two-{aggregate}-{len(base)}-{transform}"
            more = {"base_values": base} if base else {}
            nodes.append(h.make_node("TreeEnsembleRegressor", ["x"], [at], domain="ai.onnx.ml", name=at, n_targets=2,
                         post_transform=transform, aggregate_function=aggregate, **more,
                         **stumps("target", [(1, 0, 0.2), (2, 1, -0.4), (2, 0, 0.3)])))
            outputs.append((at, 2))
    for classes, base in ((1, []), (1, [0.3]), (3, []), (3, [0.1, 0.2, 0.3])):
        at = f"{classes}-{len(base)}"
        more = {"base_values": base} if base else {}
        weights = [(1, 0, -0.2), (2, classes - 1, -0.4)]
        nodes.append(h.make_node("TreeEnsembleClassifier", ["x"], [f"label-{at}", f"scores-{at}"], domain="ai.onnx.ml", name=at,
                     classlabels_int64s=[4, 9, 6][:classes], post_transform="SOFTMAX", **more, **stumps("class", weights)))
        outputs += [(f"label-{at}", 0), (f"scores-{at}", classes)]
    save("numbers", graph(nodes, outputs, 1), x)


def mode_rules():
    values = [-np.inf, -1.0, -0.0, 0.0, 1e-45, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1.0, np.inf, np.nan, 0.25]
    x = np.array([[v] for v in values], np.float32)
    nodes, outputs = [], []
    weights = [(1, 0, 1.0), (2, 0, 2.0)]
    for mode in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ"):
        for missing in (None, [1, 0, 0]):
            for at, thresholds in (("a", (0.5, 0.0)), ("b", (1.0, -1.0))):
                name = f"{mode}-{at}-{'no' if missing is None else 'yes'}"
                nodes.append(h.make_node("TreeEnsembleRegressor", ["x"], [name], domain="ai.onnx.ml", name=name, n_targets=1,
                             **stumps("target", weights, thresholds, f"BRANCH_{mode}", missing)))
                outputs.append((name, 1))
    mixed = stumps("target", weights, (0.5, 0.25, 1.0, 0.0), missing=[1, 0, 0])
    mixed["nodes_modes"] = [m for mode in ("GT", "EQ", "NEQ", "LT") for m in (f"BRANCH_{mode}", "LEAF", "LEAF")]
    nodes.append(h.make_node("TreeEnsembleRegressor", ["x"], ["mixed"], domain="ai.onnx.ml", name="mixed", n_targets=1, **mixed))
    save("modes", graph(nodes, outputs + [("mixed", 1)], 1), x)


def linear_rules():
    x = np.array([[0.5, -1, 2], [0, 0, 0], [-1, -2, -3], [1e-3, 4, -1], [3, 3, -9]], np.float32)
    nodes, outputs, unwritten = [], [], {}
    rows = [[0.1, 0.2, 0.3], [-0.1, 0.2, -0.3], [0.1, 0.1, 0.1]]
    for transform, targets in itertools.product(TRANSFORMS, (1, 2, 3)):
        at = f"{transform}-{targets}"
        common = {"coefficients": sum(rows[:targets], []), "intercepts": [0.05, -0.05, 0.0][:targets], "post_transform": transform,
                  "domain": "ai.onnx.ml"}
        nodes.append(h.make_node("LinearClassifier", ["x"], [f"label-{at}", f"scores-{at}"], name=f"c{at}",
                     classlabels_ints=[3, 7, 9][:max(targets, 2)], **common))
        nodes.append(h.make_node("LinearRegressor", ["x"], [f"numbers-{at}"], name=f"r{at}", targets=targets, **common))
        outputs += [(f"label-{at}", 0), (f"scores-{at}", max(targets, 2)), (f"numbers-{at}", targets)]
        if transform == "PROBIT" and targets == 1:
            unwritten[f"scores-{at}"] = range(0, 10)  # the first five elements hold what belongs to every second one
    for norm in ("MAX", "L1", "L2"):
        nodes.append(h.make_node("Normalizer", ["x"], [f"norm-{norm}"], name=norm, domain="ai.onnx.ml", norm=norm))
        outputs.append((f"norm-{norm}", 3))
    nodes.append(h.make_node("Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[1.0, 2.0, 3.0], scale=[2.0, 0.5, -1.0]))
    nodes.append(h.make_node("Scaler", ["x"], ["scaled-one"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0]))
    save("linear", graph(nodes, outputs + [("scaled", 3), ("scaled-one", 3)], 3, 1), x, unwritten)


def five():
    x = np.array([[v, w] for v in (0, 0.5, 1, np.nan) for w in (0.1, 0.9, np.nan)], np.float32)
    nodes, outputs = [], []
    for aggregate, targets, transform in itertools.product(range(4), (1, 2), (0, 1, 2, 3, 4)):
        if targets == 2 and transform in (1, 2):
            continue  # ONNX Runtime and the standard disagree; the engine refuses
        at = f"{aggregate}-{targets}-{transform}"
        nodes.append(h.make_node("TreeEnsemble", ["x"], [at], domain="ai.onnx.ml", name=at, n_targets=targets, aggregate_function=aggregate,
                     post_transform=transform, tree_roots=[0, 2, 3], nodes_featureids=[0, 1, 1, 0],
                     nodes_splits=numpy_helper.from_array(np.array([0.25, 0.5, 0.5, 0.0], np.float32)),
                     nodes_modes=numpy_helper.from_array(np.array([0, 3, 1, 0], np.uint8)),
                     nodes_truenodeids=[1, 0, 2, 5], nodes_trueleafs=[0, 1, 1, 1], nodes_falsenodeids=[4, 1, 3, 5],
                     nodes_falseleafs=[1, 1, 1, 1], nodes_missing_value_tracks_true=[1, 0, 1, 0],
                     leaf_targetids=[0, targets - 1, 0, targets - 1, 0, 0],
                     leaf_weights=numpy_helper.from_array(np.array([0.5, -0.25, 1.0, 2.0, 0.125, 0.75], np.float32))))
        outputs.append((at, targets))
    save("five", graph(nodes, outputs, 2, 5), x)


ort.set_default_logger_severity(4)
for make in (trained, class_rules, label_of_one, number_rules, mode_rules, linear_rules, five):
    make()
