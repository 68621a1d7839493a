"""Makes the models of `sizes.py` in the folder given, and times ONNX Runtime on them: CPU time of one thread per call.

    v/bin/python time.py FOLDER      (`make.py` says how to make v; examples/tables.rs times the engine on the same files)
"""
import pathlib, sys, time
import numpy as np, onnxruntime as ort
from sizes import make

folder = pathlib.Path(sys.argv[1])
x, names = make(folder)
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1


def median(session, batch):
    calls = [np.ascontiguousarray(x[at:at + batch]) for at in range(0, len(x), batch)]
    name, figures = session.get_inputs()[0].name, []
    for _ in range(9):
        start = time.thread_time()
        for _ in range(5):
            for call in calls:
                session.run(None, {name: call})
        figures.append((time.thread_time() - start) / len(calls) / 5 * 1e6)
    return sorted(figures)[4]


for name in names:
    session = ort.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
    for batch in (1, 32):
        print(f"{name}, batch {batch}: {median(session, batch):.1f} us")
