"""Makes every call of tritonclient.grpc and of tritonclient.grpc.aio at a fleet, errors included.

    python3 triton_grpc.py NAME=HOST:PORT ..    environment: CA (a PEM file), KEY (an API key)

The numbers must be those that the same client gets over REST, whose numbers compare.py holds against ONNX Runtime's.
"""

import asyncio
import os
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

MODEL = "magika"
SQL = b"SELECT id, name FROM users WHERE id = 3 ORDER BY name;\n" * 60
FILES = [SQL, b"#!/usr/bin/env python3\nimport sys\nprint(sys.argv)\n"]
UNIMPLEMENTED = "StatusCode.UNIMPLEMENTED"
WRONG = "StatusCode.INVALID_ARGUMENT"


def files(module, contents):
    tensor = module.InferInput("file", [len(contents)], "BYTES")
    tensor.set_data_from_numpy(np.array(contents, dtype=np.object_))
    return [tensor]


def rows(module, source, count, seed=7, width=2048):
    array = np.random.default_rng(seed).integers(0, 257, (count, width), dtype=np.int32)
    tensor = module.InferInput(source, list(array.shape), "INT32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def labels(answer):
    return [label.decode() for label in answer.as_numpy("label").reshape(-1)]


def refused(error, status, *words):
    assert error.status() == status and all(word in str(error) for word in words), (error.status(), str(error), status, words)


async def refuses(call, status, *words):
    try:
        answer = call()
        if hasattr(answer, "__await__"):
            await answer
    except InferenceServerException as error:
        return refused(error, status, *words)
    raise AssertionError(f"answered where {status} was expected")


class Now:
    """The blocking client behind the same `await` as the asyncio one: each call below is made by both."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        method = getattr(self.client, name)

        async def call(*arguments, **options):
            return method(*arguments, **options)

        return call


async def talk(client, module, headers, source):
    """Every call that is about servers and models."""
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready(MODEL, headers=headers)
    assert await client.is_model_ready(MODEL, "1", headers=headers)
    assert not await client.is_model_ready("nobody", headers=headers)
    server = await client.get_server_metadata(headers=headers, as_json=True)
    assert server["name"] == "meridian" and "classification" in server["extensions"], server
    model = await client.get_model_metadata(MODEL, headers=headers)
    assert model.name == MODEL and model.inputs[0].name == source and list(model.inputs[0].shape) == [-1, 2048], model
    config = (await client.get_model_config(MODEL, headers=headers)).config
    assert config.max_batch_size > 0 and list(config.input[0].dims) == [2048], config
    index = (await client.get_model_repository_index(headers=headers)).models
    assert [m.state for m in index if m.name == MODEL] == ["READY"], index
    stats = (await client.get_inference_statistics(MODEL, headers=headers)).model_stats
    assert stats[0].name == MODEL and stats[0].inference_count > 0, stats
    await client.load_model(MODEL, headers=headers)
    assert (await client.get_trace_settings(headers=headers)).settings
    assert (await client.get_log_settings(headers=headers)).settings["log_info"].bool_param

    denied = "StatusCode.PERMISSION_DENIED"
    await refuses(lambda: client.unload_model(MODEL, headers=headers), denied, "signed releases")
    await refuses(lambda: client.load_model("nobody", headers=headers), "StatusCode.NOT_FOUND", "nobody")
    await refuses(lambda: client.update_trace_settings(settings={"trace_level": "OFF"}, headers=headers), denied, "operator")
    await refuses(lambda: client.update_log_settings({"log_info": False}, headers=headers), denied, "operator")
    for call in (
        lambda: client.get_system_shared_memory_status(headers=headers),
        lambda: client.register_system_shared_memory("r", "/r", 8, headers=headers),
        lambda: client.unregister_system_shared_memory(headers=headers),
        lambda: client.get_cuda_shared_memory_status(headers=headers),
        lambda: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 8, headers=headers),
        lambda: client.unregister_cuda_shared_memory(headers=headers),
    ):
        await refuses(call, UNIMPLEMENTED, "shares no memory")
    await refuses(lambda: client.get_model_metadata("nobody", headers=headers), "StatusCode.NOT_FOUND", "unknown model: 'nobody'")
    await refuses(lambda: client.get_model_metadata(MODEL, "9", headers=headers), "StatusCode.NOT_FOUND", "serves version 1")


async def infer(client, module, headers, source, target, want):
    """Every form of a request for inference, and every refusal."""
    sent = {"headers": headers, "request_id": "interop-1"}
    answer = await client.infer(MODEL, files(module, FILES), **sent)
    assert labels(answer) == ["sql", "python"] and answer.get_response().id == "interop-1", answer.get_response()
    for algorithm in (None, "gzip", "deflate"):
        answer = await client.infer(MODEL, rows(module, source, 5), compression_algorithm=algorithm, headers=headers)
        assert np.array_equal(answer.as_numpy(target), want), f"not REST's numbers with {algorithm}"
    only = [module.InferRequestedOutput(target, class_count=3)]
    best = (await client.infer(MODEL, rows(module, source, 5), outputs=only, headers=headers)).as_numpy(target)
    assert [int(row[0].split(b":")[1]) for row in best] == list(want.argmax(-1)), best
    answer = await client.infer(
        MODEL, rows(module, source, 5), "1", priority=1, timeout=9_000_000, client_timeout=9.0, parameters={"who": "interop"}, **sent
    )
    assert np.array_equal(answer.as_numpy(target), want)

    await refuses(lambda: client.infer("nobody", rows(module, source, 1), headers=headers), "StatusCode.NOT_FOUND", "nobody")
    await refuses(lambda: client.infer(MODEL, rows(module, source, 1), "9", headers=headers), "StatusCode.NOT_FOUND", "version 9")
    await refuses(lambda: client.infer(MODEL, rows(module, source, 1, width=7), headers=headers), WRONG, "[1, 7]")
    other = [module.InferRequestedOutput("nothing")]
    await refuses(lambda: client.infer(MODEL, rows(module, source, 1), outputs=other, headers=headers), WRONG, "unknown output")
    await refuses(lambda: client.infer(MODEL, rows(module, source, 1)), "StatusCode.UNAUTHENTICATED", "key")
    late = {"timeout": 1, "headers": {**headers, "cache-control": "no-cache"}}
    await refuses(lambda: client.infer(MODEL, rows(module, source, 32, 8), **late), "StatusCode.DEADLINE_EXCEEDED")
    shared = module.InferInput(source, [1, 2048], "INT32")
    shared.set_shared_memory("r", 8192)
    await refuses(lambda: client.infer(MODEL, [shared], headers=headers), WRONG, "shares no memory")


def judge_stream(answers, target, want):
    """Answers of a stream by their ids: two good ones around one that was refused."""
    assert sorted(answers) == ["0", "2", "refused"], sorted(answers)
    for key in "02":
        assert np.array_equal(answers[key].as_numpy(target), want)
        assert answers[key].get_response().parameters["triton_final_response"].bool_param
    assert "[1, 7]" in str(answers["refused"]), answers["refused"]


def stream(client, headers, source, target, want):
    heard = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)), headers=headers)
    for key, inputs in (("0", rows(triton, source, 5)), ("refused", rows(triton, source, 1, width=7)), ("2", rows(triton, source, 5))):
        client.async_stream_infer(MODEL, inputs, request_id=key)
    answers = {}
    for _ in range(3):
        result, error = heard.get(timeout=30)
        answers["refused" if error else result.get_response().id] = error or result
    client.stop_stream()
    judge_stream(answers, target, want)
    # Without a key the stream itself is refused, and with a time it ends at it.
    for options, status in (({}, "StatusCode.UNAUTHENTICATED"), ({"headers": headers, "stream_timeout": 0.3}, "StatusCode.DEADLINE_EXCEEDED")):
        client.start_stream(lambda result, error: heard.put((result, error)), **options)
        refused(heard.get(timeout=30)[1], status)
        client.stop_stream()


async def stream_aio(client, headers, source, target, want):
    async def requests():
        for key, inputs in (("0", rows(triton_aio, source, 5)), ("refused", rows(triton_aio, source, 1, width=7)), ("2", rows(triton_aio, source, 5))):
            yield {"model_name": MODEL, "inputs": inputs, "request_id": key}

    answers = {}
    async for result, error in client.stream_infer(requests(), headers=headers):
        answers["refused" if error else result.get_response().id] = error or result
    judge_stream(answers, target, want)


async def main():
    headers = {"authorization": "Bearer " + os.environ["KEY"]}
    tls = {"ssl": True, "root_certificates": os.environ["CA"]}
    for argument in sys.argv[1:]:
        name, address = argument.split("=")
        rest = triton_http.InferenceServerClient(address, ssl=True, ssl_options={"ca_certs": os.environ["CA"]})
        model = rest.get_model_metadata(MODEL, headers=headers)
        source, target = model["inputs"][0]["name"], model["outputs"][0]["name"]
        want = rest.infer(MODEL, rows(triton_http, source, 5), headers=dict(headers)).as_numpy(target)
        rest.close()

        blocking = triton.InferenceServerClient(address, **tls)
        await talk(Now(blocking), triton, headers, source)
        await infer(Now(blocking), triton, headers, source, target, want)
        stream(blocking, headers, source, target, want)
        done = queue.Queue()
        blocking.async_infer(MODEL, rows(triton, source, 5), lambda result, error: done.put((result, error)), headers=headers)
        result, error = done.get(timeout=30)
        assert error is None and np.array_equal(result.as_numpy(target), want), error
        blocking.close()
        print(f"  tritonclient.grpc, {name}: every call, REST's numbers, a stream, and refusals with their status")

        async with triton_aio.InferenceServerClient(address, **tls) as client:
            await talk(client, triton_aio, headers, source)
            await infer(client, triton_aio, headers, source, target, want)
            await stream_aio(client, headers, source, target, want)
        print(f"  tritonclient.grpc.aio, {name}: the same")


if __name__ == "__main__":
    asyncio.run(main())
