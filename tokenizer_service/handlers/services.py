"""Services: what all handlers work with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from folovllm.parameters.seeds import new_seed
from folovllm.serving.active_calls import current_call
from folovllm.serving.turns import Turns
from tokenizer_service.chat.markers import ChatMarkers
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.text.limits import Limits
from tokenizer_service.text.offload import Offload
from tokenizer_service.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Services:
    """One model's text side, and its engines."""

    tokenizer: Tokenizer
    limits: Limits
    renderer: Renderer
    markers: ChatMarkers
    engines: EnginePool
    offload: Offload
    turns: Turns = field(default_factory=Turns)
    """For all long work on the event loop."""
    new_seed: Callable[[], int] = new_seed
    """Draws the seeds that callers leave unset."""

    @property
    def caller(self) -> str:
        """Whose call the task serves, for work that is done in turns: where it came from."""
        return current_call.get().peer

    @property
    def vocab_size(self) -> int:
        """The model's once an engine is ready; padding makes it larger than the tokenizer's."""
        if not self.engines.ready:
            return self.tokenizer.vocab_size
        return max(self.tokenizer.vocab_size, self.engines.model_info().vocab_size)
