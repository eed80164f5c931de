"""The faults that are known and not mended: by a pattern of names of checks, why they fail.

Whoever mends one takes its line out; the harness fails until then.
"""

KNOWN_FAILING: dict[str, str] = {}
