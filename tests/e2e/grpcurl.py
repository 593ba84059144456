"""What grpcurl does, with Python's grpcio: calls a method by name, knowing nothing but
what server reflection tells.

    grpcurl.py ADDRESS SERVICE/METHOD [JSON] [COUNT] [TOKEN] [CA [CERTIFICATE KEY]]

Prints each answer as a line of JSON, at most COUNT of a stream. A refusal is printed as
"CODE: text" and makes the exit code 1.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def connect(address, files):
    options = [("grpc.max_receive_message_length", -1)]
    if not files:
        return grpc.insecure_channel(address, options)
    authorities, *own = [open(file, "rb").read() for file in files]
    key, certificate = reversed(own) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
    return grpc.secure_channel(address, credentials, options)


def main(address, method, text="{}", count="0", token="", *files):
    channel = connect(address, files)
    reflection = ProtoReflectionDescriptorDatabase(channel)
    try:
        if method == "list":
            print(json.dumps(sorted(reflection.get_services())))
            return 0
        service_name, method_name = method.split("/")
        service = descriptor_pool.DescriptorPool(reflection).FindServiceByName(service_name)
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}")
        return 1
    found = service.FindMethodByName(method_name)
    request = message_factory.GetMessageClass(found.input_type)()
    json_format.Parse(text, request)
    answer = message_factory.GetMessageClass(found.output_type)
    make = channel.unary_stream if found.server_streaming else channel.unary_unary
    call = make(
        f"/{service_name}/{method_name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        if not found.server_streaming:
            show(call(request, metadata=metadata, timeout=100))
            return 0
        answers = call(request, metadata=metadata, timeout=100)
        for number, message in enumerate(answers, 1):
            show(message)
            if number == int(count):
                answers.cancel()
                return 0
        return 0
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}")
        return 1


def show(message):
    print(json.dumps(json_format.MessageToDict(message)), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
