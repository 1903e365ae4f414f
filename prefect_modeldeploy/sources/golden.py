"""A golden set: labelled requests that are sent to both versions, once each.

Once, since a model that answers the same question twice alike gives no new evidence the second time.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefect_modeldeploy.errors import InvalidInput, ProviderError
from prefect_modeldeploy.measurements import Arm, Histogram, Quality, Window
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.traffic.answers import Example, is_right, likeness

CHUNK = 50
"""Examples of one window."""

AT_ONCE = 8
"""Examples that are under way at the same time, each at both versions."""

_EXCLUDED = frozenset({401, 403, 429})


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came of one request. `failed` and `counts` by the one table of `traffic/outcomes.py`."""

    answer: Any = None
    answered: bool = False
    failed: bool = False
    counts: bool = True
    seconds: float = 0.0


@dataclass(frozen=True)
class GoldenSet:
    """Examples, and their digest by which a rollout knows them again."""

    examples: Sequence[Example]

    @classmethod
    def read(cls, given: Sequence[Example] | Path) -> "GoldenSet":
        """The examples themselves, or those of a JSON Lines file.

        Raises:
            InvalidInput: There is no such file, or a line of it is no example; says which, and not what it holds.
        """
        if not isinstance(given, Path):
            return cls(tuple(given))
        try:
            text = given.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput("plan.golden_set", str(given), f"cannot be read: {error}") from error
        examples = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    examples.append(Example.model_validate_json(line))
                except ValidationError:
                    hint = f'line {number} is not {{"input": ..., "expected": ...}}'
                    raise InvalidInput("plan.golden_set", str(given), hint) from None
        return cls(tuple(examples))

    @cached_property
    def digest(self) -> str:
        """`400 examples, sha256 1f2e...`: tells golden sets apart, and nothing of what they hold."""
        lines = (json.dumps([e.input, e.expected], sort_keys=True) for e in self.examples)
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return f"{len(self.examples)} examples, sha256 {digest[:16]}"

    async def ask(self, client: ServingClient, stable: str, canary: str, tolerance: float) -> AsyncIterator[Window]:
        """Send each example to both deployments, and yield what came of it, 50 examples at a time.

        The first example is sent once before, uncounted: what was just started is slow at first.
        """
        await _pair(client, stable, canary, self.examples[0])
        slots, rest, number = asyncio.Semaphore(AT_ONCE), iter(self.examples), 0

        async def one(example: Example) -> tuple[_Reply, _Reply]:
            async with slots:
                return await _pair(client, stable, canary, example)

        while chunk := list(islice(rest, CHUNK)):
            began = time.monotonic()
            replies = await asyncio.gather(*(one(example) for example in chunk))
            number += 1
            agreed = [
                likeness(ours.answer, theirs.answer, tolerance=tolerance) != "different"
                for theirs, ours in replies
                if ours.answered and theirs.answered
            ]
            yield Window(
                f"golden:{number:06d}",
                canary=_arm([ours for _, ours in replies], chunk, tolerance, agreed),
                baseline=_arm([theirs for theirs, _ in replies], chunk, tolerance, []),
                seconds=time.monotonic() - began,
            )


async def _pair(client: ServingClient, stable: str, canary: str, example: Example) -> tuple[_Reply, _Reply]:
    return await asyncio.gather(_reply(client, stable, example.input), _reply(client, canary, example.input))


async def _reply(client: ServingClient, deployment: str, payload: Any) -> _Reply:
    began = time.perf_counter()
    try:
        answer = await client.predict(deployment, payload)
    except ProviderError as error:
        seconds, status = time.perf_counter() - began, error.problem.status_code
        if status in _EXCLUDED:
            return _Reply(counts=False)
        return _Reply(failed=status is None or status >= 500 or status == 408, seconds=seconds)
    return _Reply(answer, answered=True, seconds=time.perf_counter() - began)


def _arm(replies: Sequence[_Reply], examples: Sequence[Example], tolerance: float, agreed: Sequence[bool]) -> Arm:
    """A refusal (a 4xx) is an answer, and a wrong one; a failure is none."""
    counted = [reply for reply in replies if reply.counts]
    labelled = [(reply, e) for reply, e in zip(replies, examples, strict=True) if reply.counts and not reply.failed]
    right = [reply.answered and is_right(reply.answer, e.expected, tolerance=tolerance) for reply, e in labelled]
    return Arm(
        requests=len(counted),
        failures=sum(reply.failed for reply in counted),
        latency=Histogram.from_seconds(reply.seconds for reply in counted),
        quality=Quality(len(labelled), sum(right), len(agreed), sum(agreed)),
    )
