"""Asks the health of a fleet as load balancers do: by grpc's own client, without a key.

    python3 health.py NAME=HOST:PORT ..    environment: CA (a PEM file)
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def asked(service):
    return health_pb2.HealthCheckRequest(service=service)


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return
    raise AssertionError(f"answered where {code} was expected")


def node(stub):
    for service in ("", "inference.GRPCInferenceService"):
        assert stub.Check(asked(service), timeout=10).status == SERVING, service
    refused(lambda: stub.Check(asked("other.Service"), timeout=10), grpc.StatusCode.NOT_FOUND)
    for service, status in (("", SERVING), ("other.Service", SERVICE_UNKNOWN)):
        watch = stub.Watch(asked(service), timeout=30)
        assert next(watch).status == status, service
        watch.cancel()


def main():
    with open(os.environ["CA"], "rb") as ca:
        credentials = grpc.ssl_channel_credentials(ca.read())
    for place in sys.argv[1:]:
        name, address = place.split("=", 1)
        with grpc.secure_channel(address, credentials) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            if name == "router":
                assert stub.Check(asked(""), timeout=10).status == SERVING
            else:
                node(stub)
        print(f"  grpc_health, {name}: serving, as its own client is told")


if __name__ == "__main__":
    main()
