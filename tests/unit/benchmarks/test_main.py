"""The one entry point of all benchmarks."""

import pytest

from benchmarks.__main__ import BENCHMARKS, main


def test_without_a_name_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    main([])

    listed = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in listed] == list(BENCHMARKS)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SystemExit, match="there is no benchmark 'nonsense'"):
        main(["nonsense"])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_name_has_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([name, "--help"])

    assert not error.value.code
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks {name} ")
