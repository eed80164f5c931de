"""`folovllm chat` with a question, through a pipe and at a terminal."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from folovllm.chat_outputs import ContentDelta, ReasoningDelta
from folovllm.sampling_params import UNTIL_CONTEXT_ENDS
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm_client.cli.commands import commands
from support.fakes.chat import finish
from support.fakes.tokenizer_service import FakeTokenizerService, running_fake
from support.processes.terminal import CTRL_C, CTRL_D, CTRL_P, Terminal

TOOLS = '''
def get_weather(city: str) -> dict[str, object]:
    """Gets the weather in a city."""
    return {"city": city,\n            "degrees": 21}
'''


@pytest.fixture
def fake() -> Iterator[FakeTokenizerService]:
    with running_fake() as fake:
        yield fake


@pytest.fixture
def tools(tmp_path: Path) -> str:
    path = tmp_path / "tools.py"
    path.write_text(TOOLS)
    return str(path)


def chat(fake: FakeTokenizerService, *arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(commands, ["chat", "--server", fake.address, *arguments], input=stdin)


def contents(request: wire.ChatRequest) -> list[str]:
    return [message.content for message in request.messages]


def test_a_question_is_answered_once(fake: FakeTokenizerService) -> None:
    result = chat(fake, "abc")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "cba\n", "")
    result = chat(fake, "!UNAVAILABLE")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no engine is ready\n"


def test_options_arrive(fake: FakeTokenizerService, tools: str) -> None:
    flags = ["--system", "Be brief.", "--thinking-budget", "9", "--no-thinking", "--tools", tools]
    assert chat(fake, "abc", *flags, "--temperature", "0", "--timeout", "30").exit_code == 0
    [request] = fake.chats
    assert contents(request) == ["Be brief.", "abc"]
    assert request.messages[0].role == wire.ROLE_SYSTEM
    assert request.thinking_budget == 9
    assert request.HasField("enable_thinking") and not request.enable_thinking
    assert [tool.name for tool in request.tools] == ["get_weather"]
    sent = {field.name: value for field, value in request.sampling_params.ListFields()}
    del sent["seed"]  # drawn by the client, so that a stream that breaks can go on
    assert sent == {"temperature": 0, "max_tokens": UNTIL_CONTEXT_ENDS}
    assert fake.deadlines[0] is not None and fake.deadlines[0] < 60


def test_only_answers_go_to_standard_output(fake: FakeTokenizerService, tools: str) -> None:
    result = chat(fake, "Weather in Oslo?", "--tools", tools, "--stats")
    answer = '{"city": "Oslo", "degrees": 21}'
    assert result.stdout == f"{answer[::-1]}\n"
    call, figures = result.stderr.splitlines()
    assert call == f'get_weather {{"city": "Oslo"}} → {answer}'
    assert figures.startswith(f"{len(answer) + 1} tokens · first after 250 ms · ")
    fake.scripts = [[ReasoningDelta("Hm\x1b[2J"), ContentDelta("a\x07"), finish("stop")]]
    result = chat(fake, "a")
    assert (result.stdout, result.stderr) == ("a\ufffd\n", "Hm\ufffd[2J\n\n")


def test_each_line_of_a_pipe_is_a_turn(fake: FakeTokenizerService) -> None:
    result = chat(fake, stdin="ab\n\ncd")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "ba\ndc\n", "")
    assert [contents(request) for request in fake.chats] == [["ab"], ["ab", "ba", "cd"]]
    assert chat(fake, stdin=b"a\xff\n").stdout == "\ufffda\n"


def test_a_dash_reads_one_question(fake: FakeTokenizerService) -> None:
    assert chat(fake, "-", stdin="ab\n\ncd\n").stdout == "dc\n\nba\n"
    assert [contents(request) for request in fake.chats] == [["ab\n\ncd"]]


@pytest.mark.parametrize("last", ["/exit", "/quit", "/bye"])
def test_a_command_that_leaves(fake: FakeTokenizerService, last: str) -> None:
    """What would leave at a terminal without a slash is a question like any in a pipe."""
    assert chat(fake, stdin=f"exit\nquit\n{last}\nab").stdout == "tixe\ntiuq\n"


def test_json_has_a_line_for_each_turn(fake: FakeTokenizerService, tools: str) -> None:
    result = chat(fake, "--json", "--stats", "--tools", tools, stdin="ab\n!UNAVAILABLE\nIn Oslo?")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["answers"][0]["content"] == "ba"
    assert first["answers"][0]["finish"]["reason"] == "stop"
    assert second["answers"][0]["content"] == '{"city": "Oslo", "degrees": 21}'[::-1]
    figures, error, call, _ = result.stderr.splitlines()
    assert figures.startswith("3 tokens · first after 250 ms")
    assert error == "error: no engine is ready"
    assert call.startswith("get_weather")


def test_an_error_drops_the_turn_and_the_chat_goes_on(fake: FakeTokenizerService) -> None:
    result = chat(fake, stdin="ab\n!!UNAVAILABLE\n!INVALID_ARGUMENT\ncd\n")
    assert (result.exit_code, result.stdout) == (1, "ba\na\ndc\n")
    assert result.stderr == "error: no engine is ready\nerror: --top-p is wrong\n"
    assert contents(fake.chats[-1]) == ["ab", "ba", "cd"]


def test_commands_shape_the_conversation(fake: FakeTokenizerService) -> None:
    lines = (
        "ab",
        "/system Be kind.",
        "cd",
        "/undo",
        "ef",
        "/think on",
        "/retry",
        "/reset",
        "/think off",
        "gh",
        "/system",
        "ij",
        "/exit",
        "kl",
    )
    result = chat(fake, stdin="\n".join(lines))
    assert result.exit_code == 0, result.stderr
    assert [contents(request) for request in fake.chats] == [
        ["ab"],
        ["Be kind.", "ab", "ba", "cd"],
        ["Be kind.", "ab", "ba", "ef"],
        ["Be kind.", "ab", "ba", "ef"],
        ["Be kind.", "gh"],
        ["gh", "hg", "ij"],
    ]
    assert "took back: cd" in result.stderr
    thinking = [request.HasField("enable_thinking") for request in fake.chats]
    assert thinking == [False, False, False, True, True, True]
    assert fake.chats[3].enable_thinking and not fake.chats[4].enable_thinking


def test_a_conversation_is_saved_and_loaded(
    fake: FakeTokenizerService, tools: str, tmp_path: Path
) -> None:
    path = tmp_path / "chat.json"
    lines = ["/system é", "Weather in Oslo?", f"/save {path}", "/reset", f"/load {path}", "ab"]
    result = chat(fake, "--tools", tools, stdin="\n".join(lines))
    assert result.exit_code == 0, result.stderr
    assert "saved 5 messages\n" in result.stderr and "loaded 5 messages\n" in result.stderr
    saved = json.loads(path.read_text())
    assert saved[0] == {"role": "system", "content": "é"}
    assert saved[2]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert saved[3]["tool_call_id"] == saved[2]["tool_calls"][0]["id"]
    sent = fake.chats[-1].messages
    assert [len(saved), sent[3].content] == [len(sent) - 1, saved[3]["content"]]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/nonsense", "there is no /nonsense; /help lists the commands"),
        ("/undo", "there is no turn to take back"),
        ("/think maybe", "say /think on or /think off"),
        ("/save", "say /save FILE"),
        ("/save /nowhere/chat.json", "cannot save /nowhere/chat.json: "),
        ("/load /nowhere/chat.json", "cannot load /nowhere/chat.json: "),
        ("/load {folder}/a.json", "messages[0].role: role must be one of "),
        ("/load {folder}/b.json", "Expecting value"),
    ],
)
def test_a_command_that_fails_is_one_line(
    fake: FakeTokenizerService, tmp_path: Path, line: str, error: str
) -> None:
    (tmp_path / "a.json").write_text('[{"role": "dog"}]')
    (tmp_path / "b.json").write_text("")
    result = chat(fake, stdin=line.format(folder=tmp_path))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert error in result.stderr


def test_a_file_without_tools_is_an_error_at_once(
    fake: FakeTokenizerService, tmp_path: Path
) -> None:
    (tmp_path / "tools.py").write_text("x = 1")
    result = chat(fake, "a", "--tools", str(tmp_path / "tools.py"))
    assert (result.exit_code, fake.chats) == (1, [])
    assert "it defines no public function" in result.stderr


def at_terminal(fake: FakeTokenizerService, home: Path, *arguments: str) -> Terminal:
    environment = {"FOLOVLLM_SERVER": fake.address, "XDG_STATE_HOME": str(home)}
    return Terminal(["chat", *arguments], environment)


def test_a_chat_at_a_terminal(fake: FakeTokenizerService, tools: str, tmp_path: Path) -> None:
    with closing(at_terminal(fake, tmp_path, "--tools", tools)) as terminal:
        assert "fake · /help" in terminal.until("\n> ")
        terminal.type("/help\n")
        assert "/retry" in terminal.until("\n> ")
        terminal.type("/tools\n")
        assert "get_weather  Gets the weather in a city." in terminal.until("\n> ")
        terminal.type("/think on\n")
        terminal.until("\n> ")
        terminal.type("hello\n")
        assert "> hello\n5 letters\n" in terminal.until("olleh\n")
        assert "\x1b[2m5 letters\x1b[0m" in terminal.raw
        assert "7 tokens · first after" in terminal.until(" · stop\n> ")
        terminal.type("!UNAVAILABLE\n")
        assert "error: no engine is ready\n" in terminal.until("\n> ")
        terminal.type("abc\n")
        terminal.until("cba\n")
        terminal.until("\n> ")
        assert contents(fake.chats[-1]) == ["hello", "olleh", "abc"]
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    history = tmp_path / "folovllm" / "chat_history"
    assert [line for line in history.read_text().splitlines() if line[:1] == "+"][-2:] == [
        "+!UNAVAILABLE",
        "+abc",
    ]
    assert history.stat().st_mode & 0o077 == 0
    with closing(at_terminal(fake, tmp_path)) as terminal:
        terminal.until("\n> ")
        terminal.type(CTRL_P + "d\n")
        assert "dcba\n" in terminal.until("\n> ")
        terminal.type("quit\n")
        assert terminal.exit_code() == 0
    assert contents(fake.chats[-1]) == ["abcd"]


def test_ctrl_c_ends_the_answer_and_not_the_chat(
    fake: FakeTokenizerService, tmp_path: Path
) -> None:
    (tmp_path / "folovllm").write_text("where the folder of the history would be")
    with closing(at_terminal(fake, tmp_path)) as terminal:
        terminal.until("> ")
        terminal.type("forever\n")
        terminal.until("\na")
        terminal.type(CTRL_C)
        assert "stopped\n" in terminal.until("\n> ")
        assert fake.cancelled.wait(10)
        fake.cancelled.clear()
        terminal.type("ponder\n")
        terminal.until("\na")
        terminal.type(CTRL_C)
        terminal.until("\n> ")
        assert fake.cancelled.wait(10)
        terminal.type("abc\n")
        terminal.until("cba")
        terminal.until("\n> ")
        # What arrived before the first Ctrl-C is kept; nothing had in the second turn.
        assert contents(fake.chats[-1]) == ["forever", "a", "abc"]
        terminal.type("not sent")
        terminal.until("not sent")
        terminal.type(CTRL_C)
        terminal.until("\n> ")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 0
    assert len(fake.chats) == 3


def test_ctrl_c_while_a_tool_runs_drops_the_turn(
    fake: FakeTokenizerService, tmp_path: Path
) -> None:
    pipe, tools = tmp_path / "pipe", tmp_path / "tools.py"
    os.mkfifo(pipe)
    tools.write_text(f"def wait() -> str:\n    return open({str(pipe)!r}).read()\n")
    with closing(at_terminal(fake, tmp_path, "--tools", str(tools))) as terminal:
        terminal.until("> ")
        terminal.type("How long?\n")
        terminal.until("wait {}")
        terminal.type(CTRL_C)
        assert "stopped\n" in terminal.until("\n> ")
        terminal.type("abc\n")
        terminal.until("cba\n")
        terminal.until("\n> ")
        assert contents(fake.chats[-1]) == ["abc"]
        pipe.write_text("the tool ends at last")
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0


def test_a_server_that_is_not_there_ends_the_chat_at_once(tmp_path: Path) -> None:
    with running_fake() as fake:
        address = fake.address
    with closing(at_terminal(fake, tmp_path)) as terminal:
        assert f"error: nothing answers at {address}" in terminal.until("with --server\n")
        assert terminal.exit_code() == 1
