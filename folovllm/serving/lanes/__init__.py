"""Work that a caller can make as costly as it likes, in spawned processes that can be killed.

    caller ─▶ Lanes ─▶ FairQueue ─▶ ChildProcess ═pipes═▶ job_server: the work itself

Others use `lanes` and, for what happens in a child, `work`. Nothing here knows what the work is.
"""
