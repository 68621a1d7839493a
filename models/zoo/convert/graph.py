"""A small builder of ONNX graphs whose files come out byte for byte the same on every run.

Nothing here stamps a time, host or tool version into the file; node and tensor names are the caller's.
"""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper


class Graph:
    def __init__(self):
        self.nodes = []
        self.initializers = []

    def constant(self, name, value, dtype=np.float32):
        """Adds a tensor of the file and returns its name."""
        array = np.array(value, dtype=dtype, order="C")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind, inputs, output, **attributes):
        """Adds a node named after its one output and returns that name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def save(self, path, name, inputs, outputs, opset, ir_version):
        """Writes the model. `inputs` and `outputs` are (name, element type, shape); a text in a shape names a free axis."""
        value = lambda spec: helper.make_tensor_value_info(*spec)
        graph = helper.make_graph(
            self.nodes, name, [value(s) for s in inputs], [value(s) for s in outputs], self.initializers
        )
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="meridian-zoo")
        checker.check_model(model)
        with open(path, "wb") as file:
            file.write(model.SerializeToString(deterministic=True))


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
