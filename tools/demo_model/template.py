"""From a sample to text: the prompt as the chat template renders it, and what follows it.

The template is rendered exactly as transformers renders it (trimmed blocks, its own `tojson`).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tools.demo_model.sample import Sample, Segment

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")


def segments(sample: Sample) -> list[Segment]:
    """The sample's text, in pieces, each with whether it is to be learned."""
    if sample.plain:
        return [segment for segment in sample.plain if segment[0]]
    return [(prompt(sample), False), (completion(sample), True)]


def prompt(sample: Sample) -> str:
    """The rendered conversation up to where the assistant begins to write."""
    return _template().render(
        messages=list(sample.messages),
        tools=list(sample.tools) or None,
        add_generation_prompt=True,
        enable_thinking=sample.thinking,
    )


def completion(sample: Sample) -> str:
    """What the assistant should write, to the end of its turn."""
    thought = f"<think>\n{sample.reasoning}\n</think>\n\n" if sample.thinking else ""
    return f"{thought}{sample.answer}<|im_end|>"


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    return environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8"))


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
