"""ONNX Runtime as the rival of `cargo load engine`: one model, on one thread, timed when it is told to.

Reads one JSON object a line, answers with one a line.

    {"open": PATH, "int8": PATH, "inputs": [{"name", "dtype", "shape", "file"}], "output": PATH}
        makes `int8` by dynamic quantization (s8 weights a channel) if it is not there, runs both forms on the inputs, writes the
        f32 form's first output; answers {"int8_cosine": the mean over rows, "width": of a row}
    {"run": SECONDS}
        runs both forms for so long each; answers {"f32": [us, ..], "int8": [us, ..]}, CPU time of this thread a run
"""

import json
import logging
import os
import sys
import time

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def cosine(a, b):
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)))


class Rival:
    def open(self, ask):
        if not os.path.exists(ask["int8"]):
            quantize_dynamic(ask["open"], ask["int8"], weight_type=QuantType.QInt8, per_channel=True)
        self.forms = {"f32": session(ask["open"]), "int8": session(ask["int8"])}
        read = lambda i: np.fromfile(i["file"], i["dtype"]).reshape(i["shape"])
        self.inputs = {i["name"]: read(i) for i in ask["inputs"]}
        answers = {name: form.run(None, self.inputs)[0] for name, form in self.forms.items()}
        answers["f32"].astype(np.float32).tofile(ask["output"])
        return {"int8_cosine": cosine(answers["f32"], answers["int8"]), "width": answers["f32"].shape[-1]}

    def run(self, seconds):
        return {name: self.times(form, seconds) for name, form in self.forms.items()}

    def times(self, form, seconds):
        taken, began = [], time.monotonic()
        while not taken or time.monotonic() - began < seconds:
            start = time.thread_time_ns()
            form.run(None, self.inputs)
            taken.append((time.thread_time_ns() - start) / 1e3)
        return taken


def main():
    logging.disable(logging.WARNING)
    rival = Rival()
    for line in sys.stdin:
        ask = json.loads(line)
        answer = rival.run(ask["run"]) if "run" in ask else rival.open(ask)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
