"""Asks a fleet with tritonclient (binary tensors, its default) and compares every number with ONNX Runtime's.

    python3 compare.py NAME=HOST:PORT ..    environment: CA (a PEM file), KEY (an API key), ZOO (folder of the recipes)

ONNX Runtime runs the f32 model of the recipe `magika`. What the recipe declares is what must hold: of `[checks]` the
bounds of f32, or those of int8 where the signed plan chose that variant. The steps around the model (file ends, softmax
is in the graph, labels) are written here a second time and share nothing with the engine.
"""

import os
import sys
import tomllib

import numpy as np
import onnxruntime
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

MODEL = "magika"
SEED = 7
SAMPLES = [
    b"#!/usr/bin/env python3\nimport sys\nprint(sys.argv)\n",
    b"<!DOCTYPE html><html><head><title>x</title></head><body><p>hello</p></body></html>\n",
    b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
    b"SELECT id, name FROM users WHERE id = 3 ORDER BY name;\n" * 60,
]


def file_ends(data, begin=1024, end=1024, block=4096, padding=256):
    """Magika's features: the stripped first and last bytes of a file, padded on the side away from its edge."""
    head = data[:block].lstrip()[:begin]
    tail = data[-block:].rstrip()[-end:]
    row = np.full(begin + end, padding, np.int32)
    row[: len(head)] = np.frombuffer(head, np.uint8)
    if tail:
        row[-len(tail) :] = np.frombuffer(tail, np.uint8)
    return row


def infer(client, headers, name, array, datatype, outputs):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)  # binary_data=True is the default
    wanted = [triton.InferRequestedOutput(o) for o in outputs]  # binary answers too
    return client.infer(MODEL, [tensor], outputs=wanted, headers=headers, request_id="interop-1")


def holds(check, got, want):
    """Whether one check of the recipe holds, and the figure it is about."""
    (kind, bound), = check.items()
    if kind == "close":
        excess = np.abs(got - want) - (bound["abs"] + bound["rel"] * np.abs(want))
        return excess.max() <= 0, f"largest difference {np.abs(got - want).max():.2g}"
    if kind == "cosine":
        cosine = (got * want).sum(-1) / (np.linalg.norm(got, axis=-1) * np.linalg.norm(want, axis=-1))
        return cosine.min() >= bound["min"], f"cosine {cosine.min():.5f}"
    if kind == "same-top1":
        share = (got.argmax(-1) == want.argmax(-1)).mean()
        return share >= bound["share_min"], f"same top-1 {share:.0%}"
    sys.exit(f"the recipe has a check that this script does not know: {kind}")


def judge(checks, got, want, where):
    for variant in ("f32", "int8"):
        results = [holds(c, got, want) for c in checks[variant]]
        if all(ok for ok, _ in results):
            return f"{variant} bounds hold, " + ", ".join(text for _, text in results)
    raise AssertionError(f"{where}: no declared bound holds: {results}")


def main():
    zoo = os.environ["ZOO"]
    with open(os.path.join(zoo, f"{MODEL}.toml"), "rb") as file:
        recipe = tomllib.load(file)
    with open(os.path.join(zoo, MODEL, "labels.txt"), encoding="utf-8") as file:
        labels = file.read().splitlines()
    session = onnxruntime.InferenceSession(os.path.join(zoo, MODEL, "model.onnx"), providers=["CPUExecutionProvider"])
    source, target = session.get_inputs()[0].name, session.get_outputs()[0].name

    ends = np.stack([file_ends(s) for s in SAMPLES])
    noise = np.random.default_rng(SEED).integers(0, 257, (3, 2048), dtype=np.int32)
    rows = np.concatenate([ends, noise])
    want = session.run([target], {source: rows})[0]
    headers = {"Authorization": "Bearer " + os.environ["KEY"]}

    for argument in sys.argv[1:]:
        name, address = argument.split("=")
        client = triton.InferenceServerClient(address, ssl=True, ssl_options={"ca_certs": os.environ["CA"]})
        assert client.is_server_live(headers=headers) and client.is_server_ready(headers=headers), name
        assert client.is_model_ready(MODEL, headers=headers), name
        metadata = client.get_model_metadata(MODEL, headers=headers)
        assert metadata["name"] == MODEL and metadata["inputs"], metadata

        answer = infer(client, headers, source, rows, "INT32", [target])
        assert answer.get_response()["id"] == "interop-1", "the request's id was not echoed"
        got = answer.as_numpy(target)
        assert got.dtype == np.float32 and got.shape == want.shape, (got.dtype, got.shape)
        print(f"  tritonclient, {name}: {len(rows)} rows of {want.shape[1]} numbers; {judge(recipe['checks'], got, want, name)}")

        files = np.array(SAMPLES, dtype=np.object_).reshape(-1)
        answer = infer(client, headers, "file", files, "BYTES", ["label", "score"])
        found = [x.decode() for x in answer.as_numpy("label").reshape(-1)]
        expected = [labels[i] for i in want[: len(SAMPLES)].argmax(-1)]
        assert found == expected, f"{name}: {found} where ONNX Runtime says {expected}"
        print(f"  tritonclient, {name}: files are {', '.join(found)}, as ONNX Runtime says")

        for attempt, status in ((lambda: client.infer("nobody", answer_input(), headers=headers), "404"),
                                (lambda: infer(client, headers, source, rows[:, :7].copy(), "INT32", [target]), "400"),
                                (lambda: client.infer(MODEL, answer_input()), "401"),
                                (lambda: client.get_model_metadata(MODEL), "401")):
            try:
                attempt()
            except InferenceServerException as error:
                assert status in (error.status() or ""), f"{name}: {error} where {status} was expected"
            else:
                raise AssertionError(f"{name}: answered where {status} was expected")
        print(f"  tritonclient, {name}: refuses an unknown model, a wrong shape and a missing key")
        client.close()


def answer_input():
    tensor = triton.InferInput("x", [1], "INT32")
    tensor.set_data_from_numpy(np.zeros(1, np.int32))
    return [tensor]


if __name__ == "__main__":
    main()
