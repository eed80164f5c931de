"""What an engine has in flight, while the harness holds its thread."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine_service.engine.llm_engine import LLMEngine


def snapshot(engine: "LLMEngine") -> list[dict[str, Any]]:
    """Every sequence that has not ended, as plain values."""
    found = []
    for group in list(engine.scheduler._states.groups.values()):
        for seq in group.unfinished_seqs():
            name, index = engine._parents.name_of(seq.request.request_id, seq.index)
            found.append(
                {
                    "name": name,
                    "index": index,
                    "status": seq.status.name,
                    "num_computed_tokens": seq.num_computed_tokens,
                    "num_prompt_tokens": seq.num_prompt_tokens,
                    "num_output_tokens": seq.num_output_tokens,
                    "num_preemptions": seq.num_preemptions,
                    "has_grammar": seq.matcher is not None,
                }
            )
    return found


class Ballast:
    """KV blocks that the harness takes out of the pool, so that the pool runs out."""

    def __init__(self, engine: "LLMEngine") -> None:
        self._pool = engine._kv._pool
        self._blocks: list[int] = []

    def take_all(self) -> int:
        """Takes every block that is free; how many."""
        while self._pool.num_free_blocks:
            self._blocks.append(self._pool.allocate())
        return len(self._blocks)

    def give_back(self) -> None:
        """Frees them again."""
        while self._blocks:
            self._pool.release(self._blocks.pop())
