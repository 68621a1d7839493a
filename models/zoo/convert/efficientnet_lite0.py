"""EfficientNet-Lite0 from a PyTorch checkpoint to ONNX. Needs numpy and onnx, not torch; runs no code of the checkpoint.

The graph is EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6).
Batch normalisation is folded into the convolutions; padding is TensorFlow's SAME for 224 x 224 pictures.

    python3 efficientnet_lite0.py --from FOLDER --to model.onnx        FOLDER holds weights.pth
"""

import argparse
import collections
import os
import pickle

import numpy as np
from graph import FLOAT, Graph

REPEATS = [1, 2, 2, 3, 3, 4, 1]
STRIDES = [1, 2, 2, 2, 1, 2, 1]
EPSILON = 1e-3
STORAGES = {"FloatStorage": np.float32, "LongStorage": np.int64}


class CheckpointReader(pickle.Unpickler):
    """Unpickles names, shapes and storage keys, and refuses every other class: the file can call nothing."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *rest: (storage, offset, size, stride)
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"the checkpoint asks for {module}.{name}")

    def persistent_load(self, key):
        return key


def read_checkpoint(path):
    """Name to array, of the format that torch.save wrote before version 1.6."""
    with open(path, "rb") as file:
        for _ in range(3):  # magic number, protocol, sizes of the writing machine
            CheckpointReader(file).load()
        tensors = CheckpointReader(file).load()
        keys = CheckpointReader(file).load()
        dtypes = {storage[2]: np.dtype(STORAGES[storage[1]]) for storage, *_ in tensors.values()}
        storages = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    weights = {}
    for name, (storage, offset, size, stride) in tensors.items():
        flat = storages[storage[2]][offset:]
        steps = [step * flat.itemsize for step in stride]
        weights[name] = np.lib.stride_tricks.as_strided(flat, size, steps) if size else flat[:1].reshape(())
    return weights


def same_padding(kernel, stride):
    """TensorFlow's SAME where the side is a multiple of the stride: the odd pixel goes to the end."""
    total = max(kernel - stride, 0) if stride > 1 else kernel - 1
    return [total // 2, total // 2, total - total // 2, total - total // 2]


class Network:
    def __init__(self, weights):
        self.weights = weights
        self.g = Graph()
        self.bounds = [self.g.constant("zero", 0.0), self.g.constant("six", 6.0)]

    def convolution(self, x, key, norm, out, stride=1, relu6=True, group=1):
        weight = self.weights[key + ".weight"]
        part = lambda name: self.weights[f"{norm}.{name}"]
        scale = part("weight") / np.sqrt(part("running_var") + np.float32(EPSILON))
        kernel = weight.shape[2]
        inputs = [
            x,
            self.g.constant(out + ".weight", weight * scale[:, None, None, None]),
            self.g.constant(out + ".bias", part("bias") - part("running_mean") * scale),
        ]
        pads = same_padding(kernel, stride)
        y = self.g.op(
            "Conv", inputs, out, strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2, group=group
        )
        return self.g.op("Clip", [y, *self.bounds], out + ".relu6") if relu6 else y

    def block(self, x, index, stride, residual):
        key, out, y = f"_blocks.{index}", f"block{index}", x
        if f"{key}._expand_conv.weight" in self.weights:
            y = self.convolution(y, f"{key}._expand_conv", f"{key}._bn0", out + ".expand")
        channels = self.weights[f"{key}._depthwise_conv.weight"].shape[0]
        y = self.convolution(
            y, f"{key}._depthwise_conv", f"{key}._bn1", out + ".depthwise", stride, group=channels
        )
        y = self.convolution(y, f"{key}._project_conv", f"{key}._bn2", out + ".project", relu6=False)
        return self.g.op("Add", [y, x], out + ".sum") if residual else y

    def build(self):
        x = self.convolution("input", "_conv_stem", "_bn0", "stem", 2)
        index = 0
        for repeats, first_stride in zip(REPEATS, STRIDES):
            for repeat in range(repeats):
                x = self.block(x, index, first_stride if repeat == 0 else 1, residual=repeat > 0)
                index += 1
        x = self.convolution(x, "_conv_head", "_bn1", "head")
        x = self.g.op("Flatten", [self.g.op("GlobalAveragePool", [x], "pooled")], "features", axis=1)
        weight = self.g.constant("classes.weight", self.weights["_fc.weight"])
        bias = self.g.constant("classes.bias", self.weights["_fc.bias"])
        self.g.op("Gemm", [x, weight, bias], "logits", transB=1)
        return self.g


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", required=True)
    parser.add_argument("--to", required=True)
    arguments = parser.parse_args()
    graph = Network(read_checkpoint(os.path.join(arguments.folder, "weights.pth"))).build()
    picture = ("input", FLOAT, ["batch", 3, 224, 224])
    graph.save(arguments.to, "efficientnet-lite0", [picture], [("logits", FLOAT, ["batch", 1000])], 13, 8)


if __name__ == "__main__":
    main()
