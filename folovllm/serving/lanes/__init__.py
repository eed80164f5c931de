"""Work that a caller can make as costly as it likes, in processes that may be lost.

    Lanes ─▶ Lane ─▶ FairQueue
      └────▶ ServerProcess ══ socket ══ fork_server ─▶ worker, a process for each job

Others use `lanes`, `limits`, `errors` and `work`. `fork_server` and `worker` run over there and
import little, no gRPC. Nothing here knows what the work is.
"""
