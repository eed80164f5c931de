"""ChatTokenizer: a model's tokenizer and chat template, with the names of transformers' users.

Texts and ids are exactly those of the tokenizer service.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, overload

from folovllm.chat import ChatMessage, Conversation
from folovllm.errors import InvalidRequestError
from folovllm_client.api.chat_requests import ToolLike, read_messages, read_tools
from tokenizer_service.model import TextModel

Message = ChatMessage | Mapping[str, Any]


class ChatTokenizer:
    """What LLM.get_tokenizer() returns."""

    def __init__(self, text_model: TextModel) -> None:
        self._tokenizer = text_model.tokenizer
        self._template = text_model.chat_template

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def vocab_size(self) -> int:
        """The highest id that has a text, plus one."""
        return self._tokenizer.vocab_size

    @property
    def eos_token(self) -> str | None:
        """The token that ends an answer, by tokenizer_config.json; None if that names none."""
        return self._template.special_tokens.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id of eos_token."""
        return None if self.eos_token is None else self._tokenizer.added_token_id(self.eos_token)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the tokens that skip_special_tokens omits."""
        return sorted(self._tokenizer.special_ids)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens)

    def decode(self, token_ids: Sequence[int] | int, skip_special_tokens: bool = False) -> str:
        """The text of token ids; those that a model has and its tokenizer lacks have none."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return self._tokenizer.decode_known(ids, skip_special_tokens)

    def batch_decode(
        self, sequences: Iterable[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        """The text of each sequence of token ids."""
        return [self.decode(token_ids, skip_special_tokens) for token_ids in sequences]

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of an added token such as `<|im_end|>`; None if there is none."""
        return self._tokenizer.added_token_id(token)

    @overload
    def apply_chat_template(
        self,
        conversation: Iterable[Message],
        tools: Iterable[ToolLike] | None = ...,
        *,
        tokenize: Literal[False],
        chat_template: str | None = ...,
        add_generation_prompt: bool = ...,
        continue_final_message: bool = ...,
        **variables: Any,
    ) -> str: ...

    @overload
    def apply_chat_template(
        self,
        conversation: Iterable[Message],
        tools: Iterable[ToolLike] | None = ...,
        *,
        tokenize: Literal[True] = ...,
        chat_template: str | None = ...,
        add_generation_prompt: bool = ...,
        continue_final_message: bool = ...,
        **variables: Any,
    ) -> list[int]: ...

    def apply_chat_template(
        self,
        conversation: Iterable[Message],
        tools: Iterable[ToolLike] | None = None,
        *,
        tokenize: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str | list[int]:
        """A conversation as the model sees it: its token ids, or its text.

        `variables` are the template's own, such as enable_thinking. Raises InvalidRequestError for
        a conversation that it does not take, and UnsupportedError if the model has no template.
        """
        if add_generation_prompt and continue_final_message:
            raise InvalidRequestError(
                "continue_final_message",
                "continue_final_message goes with add_generation_prompt=False: a message is "
                "continued or a new one begun",
            )
        template = self._template
        if chat_template is not None:
            template = template.with_text(chat_template)
        read = Conversation(
            read_messages(conversation),
            read_tools(tools or ()),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        text = template.render(read, variables)
        # The template has written the special tokens already.
        return self.encode(text, add_special_tokens=False) if tokenize else text
