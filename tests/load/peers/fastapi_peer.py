"""FastAPI, uvicorn and ONNX Runtime: `python fastapi_peer.py PORT WORKERS`. What it serves stands in `peer.py`.

A tiny model runs where the request is read: handing it to a thread costs more than it takes. An embedder runs in the pool of
threads. Each worker process runs its sessions on one thread: two workers fill two cores.
"""

import os
import sys

import orjson
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

import peer


class Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[str]


class InferRequest(BaseModel):
    inputs: list[Tensor]


app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
name = os.environ["PEER_NAME"]
model = peer.model(threads=1)


def infer(of: str, request: InferRequest) -> Response:
    if of != name:
        raise HTTPException(404, f"unknown model {of}")
    (values,) = model.run([model.parse(request.inputs[0].__dict__)])
    body = orjson.dumps(peer.answer(name, model.output, values), option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


async def infer_here(of: str, request: InferRequest) -> Response:
    return infer(of, request)


route = infer if isinstance(model, peer.Embedder) else infer_here
app.post("/v2/models/{of}/infer", response_class=Response, response_model=None)(route)

if __name__ == "__main__":
    uvicorn.run(
        "fastapi_peer:app",
        port=int(sys.argv[1]),
        workers=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
