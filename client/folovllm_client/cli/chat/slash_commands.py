"""SlashCommands: the lines of a chat that begin with "/"."""

from collections.abc import Callable
from pathlib import Path

from folovllm.errors import InvalidRequestError
from folovllm_client.cli.chat.session import ChatSession
from folovllm_client.cli.console import note


class SlashCommands:
    """The commands of a chat, by their first word; `ask` asks a question in it."""

    def __init__(self, session: ChatSession, ask: Callable[[str], None]) -> None:
        self._session = session
        self._ask = ask
        commands = (
            ("/help", "show this", self._help),
            ("/reset", "forget all but the instructions", self._reset),
            ("/system [TEXT]", "give instructions; without TEXT none", self._system),
            ("/think on|off", "let the model reason first, or not", self._think),
            ("/tools", "list the tools", self._tools),
            ("/save FILE", "write the conversation as JSON", self._save),
            ("/load FILE", "go on with a saved conversation", self._load),
            ("/retry", "ask the last question again", self._retry),
            ("/undo", "take the last turn back", self._undo),
            ("/exit", "end; so do exit, quit, Ctrl-D, and Ctrl-C on an empty line", self._exit),
        )
        self._commands = {command[0].split()[0]: command for command in commands}
        self._other_names = dict.fromkeys(("/quit", "/bye"), "/exit")
        self.ended = False

    def run(self, line: str) -> None:
        """Runs a line; `ended` is set when it was the last. Raises FolovError."""
        name, _, argument = line.partition(" ")
        name = self._other_names.get(name, name)
        if name not in self._commands:
            raise InvalidRequestError("", f"there is no {name}; /help lists the commands")
        _usage, _summary, run = self._commands[name]
        run(argument.strip())

    def _help(self, _: str) -> None:
        width = max(len(usage) for usage, _summary, _run in self._commands.values())
        for usage, summary, _run in self._commands.values():
            note(f"{usage:<{width}}  {summary}")
        note("Ctrl-C stops an answer; what it has said stays, else the turn is taken back")

    def _reset(self, _: str) -> None:
        self._session.reset()
        note("a new conversation")

    def _system(self, text: str) -> None:
        self._session.set_system(text)
        note("instructions are set" if text else "no instructions")

    def _think(self, word: str) -> None:
        if word not in ("on", "off"):
            raise InvalidRequestError("", "say /think on or /think off")
        self._session.options["enable_thinking"] = word == "on"
        note(f"thinking is {word}")

    def _tools(self, _: str) -> None:
        for tool in self._session.toolbox:
            note(f"{tool.name}  {tool.description}".rstrip())
        if not self._session.toolbox:
            note("no tools; give some with --tools FILE.py")

    def _save(self, name: str) -> None:
        self._session.save(_path("/save", name))
        note(f"saved {len(self._session.messages)} messages")

    def _load(self, name: str) -> None:
        self._session.load(_path("/load", name))
        note(f"loaded {len(self._session.messages)} messages")

    def _retry(self, _: str) -> None:
        self._ask(self._session.undo())

    def _undo(self, _: str) -> None:
        note(f"took back: {self._session.undo()}")

    def _exit(self, _: str) -> None:
        self.ended = True


def _path(command: str, name: str) -> Path:
    if not name:
        raise InvalidRequestError("", f"say {command} FILE")
    return Path(name).expanduser()
