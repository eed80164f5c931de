"""Talks to a running server with the generated stubs alone, as a client in any language would.

python examples/raw_stubs.py [HOST:PORT]
"""

import sys

import grpc

from folovllm.v1 import tokenizer_service_pb2, tokenizer_service_pb2_grpc, types_pb2


def main(address: str) -> None:
    """Generates, and shows what a wrong request answers."""
    with grpc.insecure_channel(address) as channel:
        stub = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
        request = tokenizer_service_pb2.GenerateRequest(
            text="Once upon a time",
            # 0 is a value here, not "unset": every field with another default is optional.
            sampling_params=types_pb2.SamplingParams(temperature=0.0, max_tokens=24),
        )
        for output in stub.Generate(request, timeout=60):
            print(output.text, end="", flush=True)
            if output.finish_reason:
                print(f"\n{types_pb2.FinishReason.Name(output.finish_reason)}, {output.usage}")

        # The same without a stream: one answer, when everything is there.
        answer = stub.GenerateOnce(request, timeout=60)
        print(f"{len(answer.outputs[0].text)} characters at once")

        request.sampling_params.top_p = 1.5
        try:
            stub.GenerateOnce(request, timeout=60)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            print(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
