"""NVIDIA Triton through PyTriton, around ONNX Runtime: `python pytriton_peer.py PORT`. What it serves stands in `peer.py`.

Triton's own HTTP front and batcher, models in Python processes: the wheel carries no ONNX Runtime backend. Two instances on one
thread each. Its gRPC and metrics fronts are bound to loopback too and not used.
"""

import os
import socket
import sys
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

import peer

ROWS = int(os.environ["PEER_ROWS"])
WAIT_US = int(os.environ["PEER_WAIT_MS"]) * 1000


def instance():
    model = peer.model(threads=1)

    @batch
    def tables(**inputs):
        return {model.output: model.run([inputs[model.input]])[0]}

    def texts(requests):
        return [{model.output: model.run([[text.decode() for text in one["text"]]])[0]} for one in requests]

    return texts if isinstance(model, peer.Embedder) else tables


def described():
    """Names and shapes of what the model takes and gives. Texts are not joined: Triton has no batch of single values."""
    model = peer.model(threads=1)
    outputs = model.session.get_outputs()
    if isinstance(model, peer.Embedder):
        texts = Tensor(name="text", dtype=bytes, shape=(-1,))
        vectors = Tensor(name=model.output, dtype=np.float32, shape=(-1, outputs[0].shape[-1]))
        return [texts], [vectors], ModelConfig(batching=False)

    def side(specs):
        return [Tensor(name=spec.name, dtype=np.float32, shape=tuple(spec.shape[1:])) for spec in specs]

    joined = ModelConfig(max_batch_size=ROWS, batcher=DynamicBatcher(max_queue_delay_microseconds=WAIT_US))
    return side(model.session.get_inputs()), side(outputs), joined


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    port = int(sys.argv[1])
    # Triton's Python must be this very one: another patch version's library does not fit the modules.
    paths = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_address="127.0.0.1",
        grpc_port=free_port(),
        metrics_address="127.0.0.1",
        metrics_port=free_port(),
        log_verbose=0,
    )
    inputs, outputs, joined = described()
    with Triton(config=config) as triton:
        triton.bind(
            model_name=os.environ["PEER_NAME"],
            infer_func=[instance() for _ in range(int(os.environ["PEER_WORKERS"]))],
            inputs=inputs,
            outputs=outputs,
            config=joined,
        )
        triton.serve()
