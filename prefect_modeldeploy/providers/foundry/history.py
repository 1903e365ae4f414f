"""What a branch's versions say about promotions: pure, with the versions as an argument.

A promoted version is a copy with an id of its own, so two versions are *the same content* when they are copies of one.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from prefect_modeldeploy.providers.foundry.types import ModelVersion

_BEGINNING = datetime.min.replace(tzinfo=UTC)


def by_age(versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """The oldest first. The order in which the API lists them is not documented."""
    return sorted(versions, key=_created)


def newest(versions: Iterable[ModelVersion]) -> ModelVersion | None:
    """The version that a deployment tracking the branch shall serve."""
    return max(versions, key=_created, default=None)


def origin(rid: str, versions: Iterable[ModelVersion]) -> str:
    """RID of the version that this one is, in the end, a copy of, as far as these versions know."""
    sources = {version.rid: version.promoted_from for version in versions}
    seen = {rid}
    while (source := sources.get(rid)) and source not in seen:
        seen.add(source)
        rid = source
    return rid


def former(versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """The version to return to: the one that served before the newest content came to the branch.

    A promotion of what was there before takes everything after it back, so that rolling back twice goes back by two,
    and never forward again: after A, B, A' there is nothing before A.
    """
    stack: list[tuple[str, ModelVersion]] = []
    for version in by_age(versions):
        content = origin(version.rid, versions)
        known = [at for at, (earlier, _) in enumerate(stack) if earlier == content]
        if known:
            del stack[known[0] + 1 :]
        else:
            stack.append((content, version))
    return stack[-2][1] if len(stack) > 1 else None


def _created(version: ModelVersion) -> datetime:
    created = version.created_time or _BEGINNING
    return created if created.tzinfo else created.replace(tzinfo=UTC)
