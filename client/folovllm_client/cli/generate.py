"""`folovllm generate`: continues a text.

It uses asyncio for the sake of Ctrl-C, as ChatSession does.
"""

import asyncio
import dataclasses
import json
import sys
from contextlib import aclosing
from typing import Any

import click

from folovllm.outputs import RequestOutput
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.requests import empty_output, generate_request
from folovllm_client.cli.console import note, show_text
from folovllm_client.cli.group import examples
from folovllm_client.cli.logprob_table import logprob_tables
from folovllm_client.cli.request_options import (
    argument_or_stdin,
    request_options,
    sampling_message,
    server_option,
)
from folovllm_client.cli.stream_stats import StreamStats


@click.command(
    epilog=examples(
        'folovllm generate "Once upon a time"',
        'folovllm generate "2 + 2 =" --max-tokens 1 --logprobs 3',
        "folovllm generate - --json < prompt.txt",
    )
)
@click.argument("prompt")
@click.option(
    "--logprobs", type=int, metavar="K", help="Print each token's log-probability and K candidates."
)
@click.option("--prompt-logprobs", type=int, metavar="K", help="The same for the prompt.")
@click.option("--n", type=int, metavar="N", help="Number of answers.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as one JSON object.")
@request_options
@server_option
def generate(
    prompt: str,
    server: str,
    timeout: float | None,
    as_json: bool,
    stats: bool,
    **sampling: Any,
) -> None:
    """Continues PROMPT and prints the text as it arrives.

    `-` reads the prompt from standard input. A parameter that is not given is left to the model's
    own default.
    """
    message = sampling_message(sampling)
    text = argument_or_stdin(prompt)
    request = generate_request(text, message, return_prompt_token_ids=as_json)
    live = not as_json and sampling["n"] in (None, 1)
    output = empty_output(text)
    timer = StreamStats()

    async def run() -> None:
        async with AsyncClient(server, timeout) as client:
            async with aclosing(client.send(request)) as pieces:
                try:
                    async for piece in pieces:
                        timer.observe(piece)
                        output.add(piece)
                        if live:
                            show_text(piece.text, nl=False)
                finally:
                    if live and output.outputs:
                        click.echo()
            if not live:
                show_text(_json_line(output) if as_json else _with_headers(output))
            if not as_json and (tables := await logprob_tables(output, client)):
                show_text(f"\n{tables}")

    asyncio.run(run())
    if stats or sys.stderr.isatty():
        note(timer.summary())


def _with_headers(output: RequestOutput) -> str:
    total = len(output.outputs)
    return "\n".join(f"[{one.index + 1}/{total}]\n{one.text}" for one in output.outputs)


def _json_line(output: RequestOutput) -> str:
    answer = dataclasses.asdict(output)
    for continuation in answer["outputs"]:
        del continuation["info"]  # the request's, which the answer holds itself
    return json.dumps(answer, ensure_ascii=False)
