"""Why a Ray worker has no results, as a cause and in words. Needs the package ray."""

from __future__ import annotations

from typing import Literal

from ray.exceptions import ActorUnavailableError, RayActorError

from fit3d import __version__

Cause = Literal["died", "overdue", "machine", "memory", "ray"]
"""Its process died, or was ended as its items took too long; its machine was lost, or ran out of memory, which others
may have used; or Ray failed. The items may be to blame for the first two alone."""
LOST_MACHINE = "the machine that fitted it was lost"


def cause_of(error: RayActorError) -> Cause:
    """Why an actor cannot answer."""
    if _is_loss_of_machine(error):
        return "machine"
    return "memory" if _is_short_of_memory(error) else "died"


def how_it_ended(error: RayActorError) -> str:
    """The same as a sentence without full stop."""
    if _is_loss_of_machine(error):
        return LOST_MACHINE
    if error.actor_init_failed:
        return told_start(error)
    if _is_short_of_memory(error):
        return "the process that fitted it was ended: its machine ran out of memory"
    return "the process that fitted it died: perhaps out of memory"


def told_start(error: Exception) -> str:
    """One line of why a worker could not be made, or given something to do; the exception that matters stands at the
    end of Ray's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return f"{reason}; every machine needs the same Python and fit3d {__version__} with the same extras"


def _is_loss_of_machine(error: RayActorError) -> bool:
    # a process that died is told of by its machine; where nobody can tell, that is gone
    return isinstance(error, ActorUnavailableError) or error.preempted or "node has died" in str(error)


def _is_short_of_memory(error: RayActorError) -> bool:
    return "running low on memory" in str(error)
