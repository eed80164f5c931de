"""All incidents by name, in the order of their run; those of THOROUGH take long or much memory."""

from chaos.incidents.engine_death import (
    error,
    panic,
    stuck_and_stopped,
    stuck_step,
    stuck_step_by_default,
    stuck_step_with_lock,
)
from chaos.incidents.files import cached_code_of_others, weights_truncated
from chaos.incidents.identity import other_weights_pooled
from chaos.incidents.incident import Incident
from chaos.incidents.logs import broken_logs, supervisor_killed
from chaos.incidents.malformed import malformed_messages
from chaos.incidents.memory import two_engines_plan
from chaos.incidents.nan import everything_nan, one_nan_token
from chaos.incidents.session_tasks import session_reader_fails, session_writer_fails
from chaos.incidents.silence import (
    dropped_while_idle,
    dropped_while_streaming,
    long_step,
    short_stall,
    stopped_while_idle,
    stopped_worker,
)

INCIDENTS: dict[str, Incident] = {
    each.__name__.replace("_", "-"): each
    for each in (
        broken_logs,
        supervisor_killed,
        one_nan_token,
        everything_nan,
        panic,
        error,
        stuck_step,
        stuck_step_with_lock,
        stuck_and_stopped,
        stopped_while_idle,
        dropped_while_idle,
        dropped_while_streaming,
        long_step,
        short_stall,
        stopped_worker,
        other_weights_pooled,
        weights_truncated,
        cached_code_of_others,
        malformed_messages,
        session_reader_fails,
        session_writer_fails,
    )
}
THOROUGH: dict[str, Incident] = {
    "stuck-step-by-default": stuck_step_by_default,
    "two-engines-plan": two_engines_plan,
}
