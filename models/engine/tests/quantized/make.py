"""Quantizes the zoo's iris-mlp and a small net of convolutions in every way that ONNX Runtime has, for tests/quantized.rs.

python make.py FOLDER     needs numpy 2.4.6, onnx 1.23.2 and onnxruntime 1.32.0
"""

import os
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

HERE = os.path.dirname(os.path.abspath(__file__))


def convolutions():
    """A stem, a depthwise layer, a residual sum and a classifier, with seeded weights."""
    random = np.random.default_rng(1)
    constants, nodes = [], []

    def constant(name, *shape):
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        constants.append(numpy_helper.from_array(random.normal(0, spread, shape).astype(np.float32), name))
        return name

    def add(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def convolution(x, name, outputs, inputs, side, **attributes):
        weights = [constant(f"{name}.w", outputs, inputs, side, side), constant(f"{name}.b", outputs)]
        return add("Conv", [x, *weights], name, pads=[side // 2] * 4, **attributes)

    stem = add("Relu", [convolution("x", "stem", 16, 3, 3, strides=[2, 2])], "stem.relu")
    apart = add("Relu", [convolution(stem, "apart", 16, 1, 5, group=16)], "apart.relu")
    whole = add("Relu", [add("Add", [stem, convolution(apart, "project", 16, 16, 1)], "sum")], "sum.relu")
    flat = add("Flatten", [add("GlobalAveragePool", [whole], "pool")], "flat")
    add("Gemm", [flat, constant("w", 16, 24), constant("b", 24)], "y")
    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "small", [tensor("x", ["N", 3, 16, 16])], [tensor("y", ["N", 24])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Inputs(CalibrationDataReader):
    def __init__(self, model):
        given = model.graph.input[0]
        shape = [dim.dim_value or 8 for dim in given.type.tensor_type.shape.dim]
        random = np.random.default_rng(2)
        # Flowers are centimetres, pictures are normalised.
        draw = (lambda: random.uniform(0, 8, shape)) if len(shape) == 2 else (lambda: random.normal(0, 1, shape))
        self.rows = iter([{given.name: draw().astype(np.float32)} for _ in range(16)])

    def get_next(self):
        return next(self.rows, None)


def main(folder):
    iris = onnx.load(os.path.join(HERE, "..", "..", "..", "zoo", "iris-mlp", "model.onnx"))
    for name, model in [("iris", iris), ("convolutions", convolutions())]:
        with tempfile.TemporaryDirectory() as scratch:
            plain, ready = os.path.join(scratch, "plain.onnx"), os.path.join(scratch, "ready.onnx")
            onnx.save(model, plain)
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            onnx.save(model, os.path.join(folder, f"{name}.onnx"))
            to = lambda form: os.path.join(folder, f"{name}-{form}.onnx")
            quantize_dynamic(plain, to("dynamic"), weight_type=QuantType.QInt8)
            quantize_dynamic(plain, to("dynamic-u8"), weight_type=QuantType.QUInt8)
            static = lambda form, **how: quantize_static(ready, to(form), Inputs(model), **how)
            static("qdq", quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8)
            static("qdq-tensor", quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8, activation_type=QuantType.QInt8)
            static("qoperator", quant_format=QuantFormat.QOperator, per_channel=True, weight_type=QuantType.QInt8)


main(sys.argv[1])
