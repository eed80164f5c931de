"""Addition and subtraction up to three digits, in chats and as lines of plain sums.

With thinking on, the working goes digit by digit from the right, with carries and borrows.
"""

from __future__ import annotations

from dataclasses import replace

from tools.demo_model.sample import Draw, Sample, Segment, chat, plain

_COLUMNS = ("Ones", "Tens", "Hundreds")
_ADD = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "{a} + {b}",
    "{a} + {b} = ?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "Calculate {a} + {b}.",
)
_SUBTRACT = (
    "What is {a} - {b}?",
    "What is {a} - {b}?",
    "{a} - {b}",
    "{a} - {b} = ?",
    "What is {a} minus {b}?",
    "How much is {a} - {b}?",
    "Subtract {b} from {a}.",
    "Calculate {a} - {b}.",
)
Sum = tuple[int, str, int]


def arithmetic(draw: Draw) -> Sample:
    """A chat about one sum of up to three digits."""
    return sum_chat(draw, draw_sum(draw))


def sum_chat(draw: Draw, problem: Sum) -> Sample:
    """A chat about this sum; with thinking off, the working is part of the answer."""
    sample = chat(draw, "arithmetic", _question(draw, problem), "", working(problem))
    answer = _statement(problem) if sample.thinking else _worked_answer(problem)
    return replace(sample, answer=answer, expected=value(problem))


def plain_sums(draw: Draw) -> Sample:
    """A plain text: a question and its answer, or several short sums, one a line."""
    if draw.chance(0.3):
        problem = draw_sum(draw)
        return plain("arithmetic", _question(draw, problem), " " + _worked_answer(problem))
    segments: list[Segment] = []
    for _ in range(draw.rng.randint(1, 10)):
        a, sign, b = problem = draw_sum(draw, draw.pick((1, 2, 2, 2)))
        segments += [(f"{a} {sign} {b} =", False), (f" {value(problem)}", True), ("\n", False)]
    segments[-1] = ("<|endoftext|>", True)
    return Sample(skill="arithmetic", plain=tuple(segments))


def _question(draw: Draw, problem: Sum) -> str:
    a, sign, b = problem
    return draw.pick(_ADD if sign == "+" else _SUBTRACT).format(a=a, b=b)


def _statement(problem: Sum) -> str:
    a, sign, b = problem
    return f"{a} {sign} {b} = {value(problem)}."


def _worked_answer(problem: Sum) -> str:
    if max(problem[0], problem[2]) < 10:
        return _statement(problem)
    return working(problem).replace("\n", " ") + " So " + _statement(problem)


def draw_sum(draw: Draw, digits: int = 0) -> Sum:
    """A sum on this side of the split; with `digits`, both numbers have that many."""
    return draw.until(_key, lambda: _draw_any(draw, digits))


def value(problem: Sum) -> int:
    """What the sum comes to."""
    a, sign, b = problem
    return a + b if sign == "+" else a - b


def working(problem: Sum) -> str:
    """The written working, one column a line from the right."""
    a, sign, b = problem
    if sign == "+":
        return "\n".join(_add_columns(a, b))
    if a >= b:
        return "\n".join(_subtract_columns(a, b))
    flipped = f"{a} is less than {b}, so I take {b} - {a} and put a minus sign."
    return "\n".join([flipped, *_subtract_columns(b, a)])


def _key(problem: Sum) -> str:
    a, sign, b = problem
    return f"sum:{min(a, b)}+{max(a, b)}" if sign == "+" else f"sum:{a}-{b}"


def _draw_any(draw: Draw, digits: int) -> Sum:
    width_a = digits or draw.pick((1, 2, 2, 2, 3, 3, 3, 3, 3))
    width_b = digits or (width_a if draw.chance(0.8) else draw.rng.randint(1, 3))
    a, b = _number(draw, width_a), _number(draw, width_b)
    if draw.chance(0.5):
        return a, "+", b
    keep_order = digits == 0 and draw.chance(0.15)
    return (a, "-", b) if keep_order else (max(a, b), "-", min(a, b))


def _number(draw: Draw, width: int) -> int:
    return draw.rng.randint(10 ** (width - 1) if width > 1 else 0, 10**width - 1)


def _width(a: int, b: int) -> int:
    return max(len(str(a)), len(str(b)))


def _add_columns(a: int, b: int) -> list[str]:
    lines, carry = [], 0
    for index in range(_width(a, b)):
        x, y = a // 10**index % 10, b // 10**index % 10
        total = x + y + carry
        carried = f" + {carry}" if carry else ""
        carry = total // 10
        note = f", carry {carry}" if carry else ""
        lines.append(f"{_COLUMNS[index]}: {x} + {y}{carried} = {total}, write {total % 10}{note}.")
    return lines


def _subtract_columns(a: int, b: int) -> list[str]:
    lines, borrow = [], 0
    for index in range(_width(a, b)):
        x, y = a // 10**index % 10, b // 10**index % 10
        taken = f" - {borrow}" if borrow else ""
        lent = 10 if x - borrow < y else 0
        top = f"{x}{taken}{' + 10' if lent else ''}"
        note = ", borrow 1" if lent else ""
        lines.append(f"{_COLUMNS[index]}: {top} - {y} = {x - borrow + lent - y}{note}.")
        borrow = lent // 10
    return lines
