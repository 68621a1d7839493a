"""all-MiniLM-L6-v2 from safetensors to ONNX: token ids in, one vector a token out. Needs numpy and onnx, not torch.

The graph is BERT's encoder (Devlin et al. 2018, arXiv:1810.04805) with 6 layers, 12 heads of 32, GELU by the error function.
Averaging over tokens and scaling to length 1 are steps of the package, not of the graph.

    python3 minilm.py --from FOLDER --to model.onnx        FOLDER holds model.safetensors
"""

import argparse
import json
import math
import os
import struct

import numpy as np
from graph import FLOAT, INT64, Graph

LAYERS, HEADS, WIDTH = 6, 12, 384
HEAD_WIDTH = WIDTH // HEADS
# Added to the attention scores of padding: exp(-10000) is 0 in 32 bits, so padding changes no bit of a token.
PADDING_SCORE = -10000.0


def read_safetensors(path):
    """Name to array. Format: u64 header length, JSON header, then the tensors' little-endian bytes."""
    with open(path, "rb") as file:
        data = file.read()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    body = memoryview(data)[8 + header_bytes :]
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            weights[name] = np.frombuffer(body[start:end], np.float32).reshape(entry["shape"])
    return weights


class Encoder:
    def __init__(self, weights):
        self.weights = weights
        self.g = Graph()
        g = self.g
        self.one = g.constant("one", 1.0)
        self.half = g.constant("half", 0.5)
        self.root_two = g.constant("root_two", math.sqrt(2.0))
        self.scale = g.constant("attention_scale", 1.0 / math.sqrt(HEAD_WIDTH))
        self.split = g.constant("split_heads", [0, 0, HEADS, HEAD_WIDTH], np.int64)
        self.join = g.constant("join_heads", [0, 0, WIDTH], np.int64)

    def linear(self, x, key, out):
        g = self.g
        weight = g.constant(out + ".weight", self.weights[key + ".weight"].T)
        bias = g.constant(out + ".bias", self.weights[key + ".bias"])
        return g.op("Add", [g.op("MatMul", [x, weight], out + ".product"), bias], out)

    def normalize(self, x, key, out):
        scale = self.g.constant(out + ".scale", self.weights[key + ".weight"])
        shift = self.g.constant(out + ".shift", self.weights[key + ".bias"])
        return self.g.op("LayerNormalization", [x, scale, shift], out, axis=-1, epsilon=1e-12)

    def embed(self):
        g = self.g
        table = lambda key: g.constant(key, self.weights[f"embeddings.{key}_embeddings.weight"])
        words = g.op("Gather", [table("word"), "input_ids"], "embedded.words")
        types = g.op("Gather", [table("token_type"), "token_type_ids"], "embedded.types")
        zero, one = g.constant("int_zero", 0, np.int64), g.constant("int_one", 1, np.int64)
        length = g.op("Gather", [g.op("Shape", ["input_ids"], "ids_shape"), one], "length")
        places = g.op("Range", [zero, length, one], "places")
        positions = g.op("Gather", [table("position"), places], "embedded.positions")
        summed = g.op("Add", [g.op("Add", [words, types], "embedded.tokens"), positions], "embedded.sum")
        return self.normalize(summed, "embeddings.LayerNorm", "embedded")

    def padding_scores(self):
        g = self.g
        mask = g.op("Cast", ["attention_mask"], "mask", to=FLOAT)
        wide = g.op("Unsqueeze", [mask, g.constant("head_and_query", [1, 2], np.int64)], "mask.wide")
        padding = g.op("Sub", [self.one, wide], "padding")
        return g.op("Mul", [padding, g.constant("padding_score", PADDING_SCORE)], "padding.scores")

    def heads(self, x, key, out, order):
        split = self.g.op("Reshape", [self.linear(x, key, out), self.split], out + ".heads")
        return self.g.op("Transpose", [split], out + ".turned", perm=order)

    def attention(self, x, key, out, padding):
        g = self.g
        query = self.heads(x, f"{key}.self.query", out + ".query", [0, 2, 1, 3])
        keys = self.heads(x, f"{key}.self.key", out + ".key", [0, 2, 3, 1])
        value = self.heads(x, f"{key}.self.value", out + ".value", [0, 2, 1, 3])
        scores = g.op("Mul", [g.op("MatMul", [query, keys], out + ".products"), self.scale], out + ".scores")
        shares = g.op("Softmax", [g.op("Add", [scores, padding], out + ".masked")], out + ".shares", axis=-1)
        mixed = g.op("Transpose", [g.op("MatMul", [shares, value], out + ".mixed")], out + ".back", perm=[0, 2, 1, 3])
        return self.linear(g.op("Reshape", [mixed, self.join], out + ".joined"), f"{key}.output.dense", out + ".out")

    def gelu(self, x, out):
        """x / 2 * (1 + erf(x / sqrt 2))"""
        g = self.g
        erf = g.op("Erf", [g.op("Div", [x, self.root_two], out + ".scaled")], out + ".erf")
        return g.op("Mul", [g.op("Mul", [x, g.op("Add", [erf, self.one], out + ".gate")], out + ".gated"), self.half], out)

    def layer(self, x, index, padding):
        g, key, out = self.g, f"encoder.layer.{index}", f"layer{index}"
        attended = self.attention(x, f"{key}.attention", out + ".attention", padding)
        x = self.normalize(
            g.op("Add", [attended, x], out + ".attention.sum"), f"{key}.attention.output.LayerNorm", out + ".attended"
        )
        inner = self.gelu(self.linear(x, f"{key}.intermediate.dense", out + ".inner"), out + ".gelu")
        outer = self.linear(inner, f"{key}.output.dense", out + ".outer")
        name = "token_vectors" if index == LAYERS - 1 else out
        return self.normalize(g.op("Add", [outer, x], out + ".sum"), f"{key}.output.LayerNorm", name)

    def build(self):
        x, padding = self.embed(), self.padding_scores()
        for index in range(LAYERS):
            x = self.layer(x, index, padding)
        return self.g


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", required=True)
    parser.add_argument("--to", required=True)
    arguments = parser.parse_args()
    graph = Encoder(read_safetensors(os.path.join(arguments.folder, "model.safetensors"))).build()
    tokens = [(name, INT64, ["batch", "seq"]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    graph.save(arguments.to, "minilm-l6", tokens, [("token_vectors", FLOAT, ["batch", "seq", WIDTH])], 17, 8)


if __name__ == "__main__":
    main()
