"""Raises an ONNX file of a package to the operator set from which on int8 weights can name their channels."""

import argparse
import os

import onnx
from onnx import TensorProto, checker, helper, version_converter

OPSET, IR_VERSION = 13, 8


def constants_to_initializers(graph):
    """Exporters of Paddle write weights as nodes; quantizers look for them among the initializers."""
    constants = [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]
    for node in constants:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)


def without_unused(graph, outputs):
    """Drops what no output needs."""
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    kept.reverse()
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)


def raise_opset(source, path, inputs, outputs):
    """Writes `source` to `path`, without its notes. `inputs` and `outputs`: (name in the file, name to have, shape); a text in a
    shape names a free axis. Equal files give equal bytes."""
    model = version_converter.convert_version(onnx.load(source), OPSET)
    model.ir_version = IR_VERSION
    graph = model.graph
    constants_to_initializers(graph)
    without_unused(graph, [old for old, _, _ in outputs])
    names = {old: new for old, new, _ in [*inputs, *outputs]}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for specs, values in ((inputs, graph.input), (outputs, graph.output)):
        del values[:]
        values.extend(helper.make_tensor_value_info(new, TensorProto.FLOAT, shape) for _, new, shape in specs)
    del graph.value_info[:], model.metadata_props[:]
    checker.check_model(model)
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def main(description, inputs, outputs):
    """The command line of such a conversion: `--from FOLDER --to model.onnx`; FOLDER holds source.onnx."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--from", dest="folder", required=True)
    parser.add_argument("--to", required=True)
    arguments = parser.parse_args()
    raise_opset(os.path.join(arguments.folder, "source.onnx"), arguments.to, inputs, outputs)
