"""Trains a small network on scikit-learn's copy of Fisher's iris data and writes it as ONNX. Needs scikit-learn and onnx.

The seed is fixed, but training sums in an order that the processor chooses: the committed file is the model, this is how
it was made. Scaling of the features is part of the graph.

    python3 iris_mlp.py --to ../iris-mlp/model.onnx
"""

import argparse

from graph import FLOAT, Graph
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True)
    arguments = parser.parse_args()
    features, classes = load_iris(return_X_y=True)
    scaler = StandardScaler().fit(features)
    network = MLPClassifier((16, 16), max_iter=2000, random_state=7).fit(scaler.transform(features), classes)
    g = Graph()
    x = g.op("Sub", ["features", g.constant("mean", scaler.mean_)], "centred")
    x = g.op("Div", [x, g.constant("deviation", scaler.scale_)], "scaled")
    last = len(network.coefs_) - 1
    for i, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_)):
        x = g.op("Gemm", [x, g.constant(f"layer{i}.weight", weight), g.constant(f"layer{i}.bias", bias)], f"layer{i}")
        if i < last:
            x = g.op("Relu", [x], f"layer{i}.relu")
    g.op("Softmax", [x], "probabilities", axis=-1)
    rows = lambda name, width: (name, FLOAT, ["batch", width])
    g.save(arguments.to, "iris-mlp", [rows("features", 4)], [rows("probabilities", 3)], 13, 8)
    print("accuracy on the data it was trained with:", network.score(scaler.transform(features), classes))


if __name__ == "__main__":
    main()
