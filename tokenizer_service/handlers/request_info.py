"""The engine's account of a request, on its way to the caller.

It stays the message that it is: with a prompt's log-probabilities it may hold 200,000 entries, and
to convert those would hold up all other streams.
"""

from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2


def take_info(
    message: types_pb2.CompletionOutput, params: SamplingParams
) -> types_pb2.RequestInfo | None:
    """Takes the account out of a piece, with what only this service knows; None where none is.

    That is what of the parameters is text, which the engine never sees.
    """
    if not message.HasField("info"):
        return None
    info = types_pb2.RequestInfo()
    info.CopyFrom(message.info)
    message.ClearField("info")
    info.sampling_params.stop.extend(params.stop)
    info.sampling_params.bad_words.extend(params.bad_words)
    return info
