"""A chat in which the model thinks, answers in JSON and calls a Python function.

folovllm serve &
python examples/chat_with_tools.py [HOST:PORT]
"""

import sys
from typing import Annotated

from pydantic import BaseModel, Field

from folovllm import Client, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=None)


class Person(BaseModel):
    """What one answer must be."""

    name: str
    age: int
    city: str


def get_weather(city: Annotated[str, Field(description="Where.")]) -> dict[str, object]:
    """Get the weather in a city."""
    return {"temperature": 21, "condition": "sunny"}


def main(address: str) -> None:
    """Three questions of three kinds."""
    with Client(address) as client:
        answer = client.chat("What is 47 + 38?", sampling_params=GREEDY).message
        print(f"{answer.content}  (thought: {answer.reasoning_content!r})")

        asked = "Write as JSON: Anna is 12 and lives in Oslo."
        answer = client.chat(asked, response_format=Person, sampling_params=GREEDY).message
        print(Person.model_validate_json(answer.content))

        _, messages = client.chat_with_tools(
            "What is the weather in Oslo?", [get_weather], sampling_params=GREEDY
        )
        for message in messages:
            print(f"{message.role}: {message.content or message.tool_calls}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
