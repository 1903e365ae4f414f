"""What an accident must come to, by how and where it happens: what docs/when-something-dies.md promises."""

from collections.abc import Collection

from prefect_modeldeploy.rollout import Effect

PROMOTED, ROLLED_BACK = frozenset({"promoted"}), frozenset({"rolled_back"})

UNHEARD = ("kill", "stop", "lost answer")
"""Nobody says anything: the plans of all stories go on (`on_lost="resume"`)."""

TOLD = ("sigterm", "ui cancel")
"""Somebody says stop."""


def outcomes(
    places: Collection[str], ends: str, point: str, how: str, *, by_provider: bool, last_hope: Collection[str] = ()
) -> frozenset[str]:
    """Outcomes of a rollout that are right after an accident.

    Args:
        places: Where its story may have accidents.
        ends: The outcome without any: what a process that dies, and an answer that is lost, must not change.
        point: Where it happens.
        how: What happens.
        by_provider: Whether the provider alone moves the traffic.
        last_hope: Points at which nobody can go on but the process that dies there.
    """
    place, when = point.split(":")
    if how == "kill" and point in last_hope:
        return ROLLED_BACK
    if ends != "promoted" or how in UNHEARD or place not in set(Effect):
        return frozenset({ends})
    settled = _settled(places)
    if place in settled:
        return PROMOTED
    if place == Effect.PROMOTE and how == "exception" and not by_provider:
        return PROMOTED  # the canary, which is proven and has all requests, is not taken away from them
    if place in (Effect.PROMOTE, Effect.CLEAR) and when == "saved":
        return PROMOTED | ROLLED_BACK  # written down a moment ago, and whoever is told to stop may know it or not
    return ROLLED_BACK


def _settled(places: Collection[str]) -> frozenset[str]:
    """Effects from whose beginning on there is no way back but a new rollout."""
    after = {Effect.RETIRE_FORMER, Effect.END}
    return frozenset(after | {Effect.HAND_OVER, Effect.PROMOTE} if Effect.HAND_OVER in places else after)
