"""mosec and ONNX Runtime, requests joined: `python mosec_peer.py --port PORT --address 127.0.0.1`. What it serves stands in `peer.py`.

PEER_WORKERS processes run batches of at most PEER_ROWS requests, on one thread each; a batch waits PEER_WAIT_MS for more.
"""

import os

import numpy
import orjson
from mosec import Runtime, Server, ValidationError, Worker

import peer

NAME = os.environ["PEER_NAME"]
ROWS = int(os.environ["PEER_ROWS"])


class Infer(Worker):
    def __init__(self):
        self.model = peer.model(threads=1)

    def deserialize(self, data):
        try:
            return self.model.parse(orjson.loads(data)["inputs"][0])
        except (ValueError, LookupError, TypeError) as error:
            raise ValidationError(str(error)) from error

    def forward(self, data):
        return self.model.run(data) if ROWS > 1 else self.model.run([data])[0]

    def serialize(self, data):
        told = peer.answer(NAME, self.model.output, numpy.ascontiguousarray(data))
        return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    server = Server()
    runtime = Runtime(
        Infer,
        num=int(os.environ["PEER_WORKERS"]),
        max_batch_size=ROWS,
        max_wait_time=int(os.environ["PEER_WAIT_MS"]),
    )
    server.register_runtime({f"/v2/models/{NAME}/infer": [runtime]})
    server.run()
