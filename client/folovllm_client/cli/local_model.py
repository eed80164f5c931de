"""LocalModelOptions: the model that a command runs in its own process."""

from dataclasses import dataclass

import click

from folovllm.serving.args import option


@dataclass(frozen=True, slots=True)
class LocalModelOptions:
    """Options of commands that need no server."""

    model: str | None = option(
        None,
        "A model's folder or hub id, to run in this process. Default: the embedded one.",
        metavar="PATH_OR_ID",
    )
    dtype: str = option(
        "auto",
        "Of its weights.",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    )
    quantization: str = option(
        "none", "Of its weights, on a CPU.", type=click.Choice(["none", "int8", "int4"])
    )
    device: str = option("auto", "cpu, cuda or cuda:N, for it.", metavar="DEVICE")
