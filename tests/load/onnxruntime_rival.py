"""ONNX Runtime as the rival of `cargo load engine`: the forms of a model, timed when it is told to.

Reads one JSON object a line, answers with one a line. `TENSORS` is [{"name", "dtype", "shape", "file"}, ..].

    {"model": PATH, "made": PREFIX, "calibration": [TENSORS, ..]}
        makes int8 forms as PREFIX-dynamic.onnx and PREFIX-static.onnx unless they are there (without calibration: none);
        answers {"forms": {NAME: PATH}, "refused": {NAME: why}}
    {"calls": [TENSORS, ..], "to": FOLDER}
        runs each form on each call and writes its outputs; answers {"answers": {NAME: [TENSORS, ..]}, "refused": {NAME: why}}
    {"products": true}
        answers {"products": how many numbers the f32 form multiplies on the first of those calls, in layers and between activations}
    {"run": SECONDS, "threads": N}
        runs each form for so long on N threads; answers {NAME: {"cpu": [us, ..], "wall": [us, ..]}}, of one call each

    onnxruntime_rival.py --fresh MODEL TENSORS_FILE
        loads and answers once in this process; prints {"load_ms", "pss_mib"}: file on disk to first answer, and memory grown meanwhile
"""

import json
import logging
import os
import sys
import tempfile
import time

import numpy as np
import onnxruntime

# One sample is at least so long, so that clocks and the meeting of threads do not count.
SAMPLE_NS = 1_000_000


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def read(tensors):
    return {t["name"]: np.fromfile(t["file"], t["dtype"]).reshape(t["shape"]) for t in tensors}


def write(prefix, session, outputs):
    told = []
    for place, (spec, array) in enumerate(zip(session.get_outputs(), outputs)):
        file = f"{prefix}-{place}.bin"
        array.tofile(file)
        told.append({"name": spec.name, "dtype": array.dtype.str, "shape": array.shape, "file": file})
    return told


def why(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no more is said'}"


def prepared(model, folder):
    """The model as ONNX Runtime wants it before it quantizes: shapes inferred, constants folded, normalisation merged."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = os.path.join(folder, "prepared.onnx")
    quant_pre_process(model, path, skip_symbolic_shape=True)
    return path


def quantize(kind, model, path, calibration):
    """s8 weights with a scale a channel; activations u8, which its integer kernels for x86 want."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter([read(tensors) for tensors in calibration])

        def get_next(self):
            return next(self.left, None)

    weights = {"per_channel": True, "weight_type": QuantType.QInt8}
    static = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8}
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "made.onnx")

        def attempt(source):
            if kind == "dynamic":
                quantize_dynamic(source, made, **weights)
            else:
                quantize_static(source, made, Reader(), **static, **weights)

        try:
            attempt(prepared(model, folder))
        except Exception:  # some models are quantized only as they came
            attempt(model)
        session(made, 1)  # one that does not load is none
        with open(made, "rb") as file, open(path + ".part", "wb") as part:
            part.write(file.read())
        os.replace(path + ".part", path)


def products(path, inputs):
    """Multiply-accumulates of a call. Sizes are those that a run shows, so nothing about shapes has to be known."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    sizes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    sizes |= {name: array.shape for name, array in inputs.items()}
    of = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    shown = {name for node in of for name in [*node.input[:2], node.output[0]]} - sizes.keys()
    have = {output.name for output in graph.output}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(shown - have))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    ran = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sizes |= {name: array.shape for name, array in zip(sorted(shown), ran.run(sorted(shown), inputs))}

    def made(node):
        (left, right), out = (sizes[name] for name in node.input[:2]), sizes[node.output[0]]
        match node.op_type:
            case "Conv":
                return np.prod(out, dtype=np.int64) * np.prod(right[1:], dtype=np.int64)
            case "ConvTranspose":
                return np.prod(left, dtype=np.int64) * np.prod(right[1:], dtype=np.int64)
            case "Gemm":
                turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
                return np.prod(out, dtype=np.int64) * left[0 if turned else 1]
            case _:
                return np.prod(out, dtype=np.int64) * left[-1]

    return int(sum(made(node) for node in of))


class Rival:
    def model(self, ask):
        self.paths, self.sessions, refused = {"f32": ask["model"]}, {}, {}
        for kind in ("dynamic", "static") if ask["calibration"] else ():
            path = f"{ask['made']}-{kind}.onnx"
            try:
                if not os.path.exists(path):
                    quantize(kind, ask["model"], path, ask["calibration"])
                self.paths[kind] = path
            except Exception as error:  # the quantizer raises whatever its parts raise
                refused[kind] = why(error)
        return {"forms": self.paths, "refused": refused}

    def session(self, form, threads):
        if (form, threads) not in self.sessions:
            self.sessions[form, threads] = session(self.paths[form], threads)
        return self.sessions[form, threads]

    def calls(self, ask):
        self.inputs, answers, refused = [read(tensors) for tensors in ask["calls"]], {}, {}
        for form in list(self.paths):
            try:
                ran, prefix = self.session(form, 1), os.path.join(ask["to"], form)
                outputs = [ran.run(None, call) for call in self.inputs]
                answers[form] = [write(f"{prefix}-{at}", ran, answer) for at, answer in enumerate(outputs)]
            except Exception as error:  # ONNX Runtime has no common class of errors
                if form == "f32":
                    raise
                refused[form] = why(error)
                del self.paths[form]
        return {"answers": answers, "refused": refused}

    def products(self, _):
        return {"products": products(self.paths["f32"], self.inputs[0])}

    def run(self, ask):
        return {form: self.times(self.session(form, ask["threads"]), ask) for form in self.paths}

    def times(self, form, ask):
        """Samples of one turn. The first shows how many passes over all calls make a sample long enough."""
        clock = time.thread_time_ns if ask["threads"] == 1 else time.process_time_ns
        taken, passes, began = [], 1, time.monotonic()
        while not taken or time.monotonic() - began < ask["run"]:
            cpu, wall = clock(), time.perf_counter_ns()
            for _ in range(passes):
                for call in self.inputs:
                    form.run(None, call)
            cpu, wall = clock() - cpu, time.perf_counter_ns() - wall
            if passes == 1 and wall < SAMPLE_NS:
                passes = SAMPLE_NS // max(wall, 1) + 1
                continue
            share = 1e3 * passes * len(self.inputs)
            taken.append((cpu / share, wall / share))
        return {"cpu": [cpu for cpu, _ in taken], "wall": [wall for _, wall in taken]}


def fresh(model, tensors):
    def pss_kib():
        with open("/proc/self/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))

    with open(tensors) as file:
        inputs = read(json.load(file))
    before, start = pss_kib(), time.perf_counter()
    loaded = session(model, 1)
    answer = loaded.run(None, inputs)
    load_ms = (time.perf_counter() - start) * 1e3
    print(json.dumps({"load_ms": load_ms, "pss_mib": (pss_kib() - before) / 1024, "outputs": len(answer)}))


def main():
    logging.disable(logging.WARNING)
    if sys.argv[1:2] == ["--fresh"]:
        return fresh(*sys.argv[2:])
    # The quantizer talks to the standard output, which belongs to the answers.
    answers, sys.stdout, rival = sys.stdout, sys.stderr, Rival()
    for line in sys.stdin:
        ask = json.loads(line)
        task = next(getattr(rival, kind) for kind in ("model", "calls", "products", "run") if kind in ask)
        print(json.dumps(task(ask)), file=answers, flush=True)


if __name__ == "__main__":
    main()
