from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import CompletionOutput, RequestInfo
from folovllm.sampling_params import SamplingParams
from support.builders.sample_tokenizers import EOS, EOS_ID, byte_tokenizer
from tokenizer_service.text.token_texts import add_token_texts
from tokenizer_service.text.tokenizer import Tokenizer


def position(token_id: int, *others: int) -> PositionLogprobs:
    return PositionLogprobs(
        Logprob(token_id, -1.0, 2), tuple(Logprob(other, -2.0, 1) for other in others)
    )


def test_every_candidate_of_output_and_prompt_has_its_text() -> None:
    info = RequestInfo(SamplingParams(), prompt_logprobs=(position(ord("p")),))
    tokenizer = Tokenizer(byte_tokenizer())
    output = CompletionOutput(logprobs=[position(ord("a"), ord("b")), position(EOS_ID)], info=info)
    add_token_texts(output, tokenizer)
    first, last = output.logprobs
    assert (first.token.decoded_token, first[ord("b")].decoded_token) == ("a", "b")
    assert (first.token.logprob, first.token.rank) == (-1.0, 2)
    assert last.token.decoded_token == EOS
    assert output.info is not None
    assert output.info.prompt_logprobs[0].token.decoded_token == "p"


def test_half_a_character_is_the_replacement_character() -> None:
    output = CompletionOutput(logprobs=[position("\u00e9".encode()[0])])
    add_token_texts(output, Tokenizer(byte_tokenizer()))
    assert output.logprobs[0].token.decoded_token == "\ufffd"
