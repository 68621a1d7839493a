"""Makes every call of tritonclient.http and of tritonclient.http.aio at a fleet, errors included.

    python3 triton_http.py NAME=HOST:PORT ..    environment: CA (a PEM file), KEY (an API key)
"""

import asyncio
import json
import os
import ssl
import sys

import gevent.ssl
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

MODEL = "magika"
FILES = [b"SELECT id, name FROM users WHERE id = 3 ORDER BY name;\n" * 60, b"#!/usr/bin/env python3\nimport sys\nprint(sys.argv)\n"]


def files(contents, binary=True):
    tensor = triton.InferInput("file", [len(contents)], "BYTES")
    tensor.set_data_from_numpy(np.array(contents, dtype=np.object_), binary_data=binary)
    return [tensor]


def labels(answer):
    return [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label").reshape(-1)]


async def refuses(call, status, *words):
    try:
        await call()
    except InferenceServerException as error:
        told = (error.status(), str(error))
        assert error.status() == str(status) and all(word in str(error) for word in words), (told, status, words)
        return
    raise AssertionError(f"answered where {status} was expected")


class Both:
    """Either client behind the same `await`: each call below is made by both. Each gets headers of its own, since the
    clients write what is true of one request into the headers that they were given."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        async def call(*args, headers, **kwargs):
            answer = getattr(self.client, name)(*args, headers=dict(headers), **kwargs)
            return await answer if hasattr(answer, "__await__") else answer

        return call


async def pages(client, headers):
    assert await client.is_server_live(headers=headers) and await client.is_server_ready(headers=headers)
    server = await client.get_server_metadata(headers=headers)
    assert server["name"] == "meridian" and "statistics" in server["extensions"], server
    for version in ("", "1"):
        assert await client.is_model_ready(MODEL, version, headers=headers)
        metadata = await client.get_model_metadata(MODEL, version, headers=headers)
        config = await client.get_model_config(MODEL, version, headers=headers)
        assert metadata["name"] == config["name"] == MODEL and config["input"] and config["max_batch_size"] >= 1, config
    assert not await client.is_model_ready("nobody", headers=headers)
    index = await client.get_model_repository_index(headers=headers)
    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in index, index
    await client.load_model(MODEL, headers=headers)
    await refuses(lambda: client.load_model("nobody", headers=headers), 404, "nobody")
    await refuses(lambda: client.load_model(MODEL, headers=headers, config="{}"), 403, "config")
    await refuses(lambda: client.unload_model(MODEL, headers=headers), 403, "signed releases")
    await client.unload_model("nobody", headers=headers)
    assert (await client.get_trace_settings(MODEL, headers=headers))["trace_level"] == ["OFF"]
    await refuses(lambda: client.update_trace_settings(settings={"trace_level": ["OFF"]}, headers=headers), 403, "operator")
    assert (await client.get_log_settings(headers=headers))["log_error"] is True
    await refuses(lambda: client.update_log_settings({"log_info": False}, headers=headers), 403, "operator")
    assert await client.get_system_shared_memory_status(headers=headers) == []
    assert await client.get_cuda_shared_memory_status(headers=headers) == []
    await refuses(lambda: client.register_system_shared_memory("r", "/r", 8, headers=headers), 501, "memory")
    await refuses(lambda: client.register_cuda_shared_memory("r", b"r", 0, 8, headers=headers), 501, "memory")
    await refuses(lambda: client.unregister_system_shared_memory(headers=headers), 501, "memory")
    await refuses(lambda: client.unregister_cuda_shared_memory("r", headers=headers), 501, "memory")


async def inference(client, headers):
    count = lambda stats, part: stats["model_stats"][0]["inference_stats"][part]["count"]
    before = await client.get_inference_statistics(MODEL, headers=headers)
    calls = 0
    for binary in (True, False):
        for packing in (None, "gzip", "deflate"):
            outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "score")]
            answer = await client.infer(
                MODEL, files(FILES, binary), outputs=outputs, headers=headers, request_id="i1", timeout=9_000_000, priority=1,
                request_compression_algorithm=packing, response_compression_algorithm=packing,
            )
            calls += 1
            assert labels(answer) == ["sql", "python"] and answer.get_response()["id"] == "i1", answer.get_response()
    top = [triton.InferRequestedOutput("score", class_count=1)]
    assert (await client.infer(MODEL, files(FILES[:1]), outputs=top, headers=headers)).as_numpy("score").dtype == np.object_
    after = await client.get_inference_statistics(MODEL, "1", headers=headers)
    assert count(after, "success") - count(before, "success") >= calls + 1, (before, after)
    everything = await client.get_inference_statistics(headers=headers)
    assert MODEL in [model["name"] for model in everything["model_stats"]]

    await refuses(lambda: client.infer("nobody", files(FILES), headers=headers), 404, "nobody")
    await refuses(lambda: client.infer(MODEL, files(FILES), model_version="9", headers=headers), 404, "version")
    wrong = triton.InferInput("file", [1, 1], "BYTES").set_data_from_numpy(np.array([[b"x"]], dtype=np.object_))
    await refuses(lambda: client.infer(MODEL, [wrong], headers=headers), 400, "shape")
    other = triton.InferInput("other", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32))
    await refuses(lambda: client.infer(MODEL, [other], headers=headers), 400, "other")
    asked = [triton.InferRequestedOutput("nothing")]
    await refuses(lambda: client.infer(MODEL, files(FILES), outputs=asked, headers=headers), 400, "nothing")
    await refuses(lambda: client.infer(MODEL, files(FILES), headers={}), 401, "key")


def generate(client, headers):
    """tritonclient has no call of its own for it: its own transport is used."""
    body = json.dumps({"file": FILES[1].decode(), "id": "g1"})
    for name in ("generate", "generate_stream"):
        answer = client._post(f"v2/models/{MODEL}/{name}", body, headers, None)
        text = answer.read().decode()
        if name == "generate_stream":
            assert text.startswith("data: ") and text.endswith("\n\n"), text
            text = text.removeprefix("data: ")
        told = json.loads(text)
        assert (told["label"], told["id"], told["model_name"]) == ("python", "g1", MODEL), told


async def main():
    headers = {"Authorization": f"Bearer {os.environ['KEY']}"}
    ca = os.environ["CA"]
    for at in sys.argv[1:]:
        name, address = at.split("=")
        context = lambda: gevent.ssl.create_default_context(cafile=ca)
        client = triton.InferenceServerClient(address, ssl=True, ssl_context_factory=context)
        await pages(Both(client), headers)
        await inference(Both(client), headers)
        waiting = [client.async_infer(MODEL, files(FILES), headers=dict(headers)) for _ in range(4)]
        assert all(labels(one.get_result()) == ["sql", "python"] for one in waiting)
        generate(client, headers)
        client.close()
        async with triton_aio.InferenceServerClient(address, ssl=True, ssl_context=ssl.create_default_context(cafile=ca)) as client:
            await pages(Both(client), headers)
            await inference(Both(client), headers)
        print(f"  tritonclient.http and its asyncio twin, {name}: every call, errors included")


asyncio.run(main())
