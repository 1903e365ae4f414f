"""The stories in which accidents happen: where in which flow, and how each of them may end."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prefect_modeldeploy import canary_rollout, promote_to_production, roll_back, scale_to_zero, wake_up
from prefect_modeldeploy.rollout import Effect
from tests.chaos import expected, scenes
from tests.chaos.scenes import Scene
from tests.flows.hosted import MAKERS


@dataclass(frozen=True)
class Story:
    """Where its accidents may happen, and its stage: given a directory and a number, a fresh scene."""

    places: tuple[str, ...]
    stage: Callable[[Path, int], AbstractAsyncContextManager[Scene]]
    ends: str = "promoted"
    """Its outcome without an accident; empty where nothing is rolled out."""
    by_provider: bool = False
    """Whether the provider alone moves the traffic."""
    last_hope: tuple[str, ...] = ()
    """Points at which nobody can go on but the process that dies there."""

    def outcomes(self, point: str, how: str) -> frozenset[str]:
        """Those that are right; none where nothing is rolled out."""
        if not self.ends:
            return frozenset()
        return expected.outcomes(
            self.places, self.ends, point, how, by_provider=self.by_provider, last_hope=self.last_hope
        )


def _of(*effects: Effect) -> tuple[str, ...]:
    return tuple(effect.value for effect in effects)


def _across_at(provider: str) -> tuple[str, ...]:
    """What differs by provider; and of the rest each effect at two of them."""
    rest = (Effect.WAIT_READY, Effect.OBSERVE, Effect.FILL, Effect.END)
    turn = list(MAKERS).index(provider)
    return _of(*_ACROSS, *(effect for number, effect in enumerate(rest) if turn in (number, number + 1)))


def _by_provider(provider: str) -> tuple[Effect, ...]:
    """Baseten calls its promotion off when it is asked; at the others it is handed over."""
    return (Effect.PROMOTE,) if provider == "baseten" else (Effect.CLEAR, Effect.HAND_OVER, Effect.PROMOTE)


_BACK_ONLY = (Effect.RESTORE, Effect.DETACH, Effect.RETIRE_CANARY)
_ACROSS = (Effect.CLAIM, Effect.DEPLOY, Effect.ATTACH, Effect.SHIFT, Effect.PROMOTE, Effect.RETIRE_FORMER)
_ELSEWHERE = (Effect.ASK, Effect.CLEAR, Effect.HAND_OVER, *_BACK_ONLY)

STORIES = {
    "canary": Story(
        (*_of(*(effect for effect in Effect if effect not in _ELSEWHERE)), "write the end"),
        partial(scenes.rollout, canary_rollout, {"plan": scenes.PLAN}),
    ),
    "broken canary": Story(
        _of(*_BACK_ONLY, Effect.END),
        partial(scenes.rollout, canary_rollout, {"plan": scenes.PLAN, "broken": True}),
        ends="rolled_back",
    ),
    **{
        f"canary {provider}": Story(_across_at(provider), partial(scenes.across, provider, False))
        for provider in MAKERS
    },
    **{
        f"broken canary {provider}": Story(
            _of(*_BACK_ONLY, *((Effect.END,) if provider in ("baseten", "scale") else ())),
            partial(scenes.across, provider, True),
            ends="rolled_back",
        )
        for provider in MAKERS
    },
    "golden set": Story(
        _of(Effect.OBSERVE, Effect.PROMOTE),
        partial(scenes.rollout, canary_rollout, {"plan": scenes.GOLDEN}),
        last_hope=("observe:before", "observe:after"),
    ),
    "lost": Story(
        (
            *_of(Effect.SHIFT, Effect.OBSERVE, Effect.FILL, Effect.PROMOTE, Effect.RETIRE_FORMER, Effect.END),
            "take over",
        ),
        partial(scenes.lost, "shift:after", False),
    ),
    "broken lost": Story(
        _of(*_BACK_ONLY, Effect.END), partial(scenes.lost, "restore:before", True), ends="rolled_back"
    ),
    "asked": Story(
        _of(Effect.ASK, Effect.APPROVE),
        partial(scenes.rollout, canary_rollout, {"plan": scenes.PLAN, "approval": scenes.SILENCE}),
    ),
    "baked": Story(_of(Effect.FILL, Effect.BAKE, Effect.PROMOTE, Effect.RETIRE_FORMER), scenes.baked),
    "clean-up": Story(("let go for good", "forget"), scenes.cleaning, ends=""),
    "promotion": Story(
        _of(Effect.DEPLOY, Effect.ATTACH, Effect.FILL, Effect.PROMOTE, Effect.RETIRE_FORMER),
        partial(scenes.rollout, promote_to_production, {}),
    ),
    "way back": Story(
        _of(Effect.CLAIM, Effect.WAIT_READY, Effect.ATTACH, Effect.FILL, Effect.PROMOTE, Effect.RETIRE_FORMER),
        scenes.way_back,
    ),
    "way back to": Story(_of(Effect.CLAIM, Effect.PROMOTE), scenes.way_back_to),
    "way back in flight": Story(
        (*_of(Effect.RESTORE, Effect.RETIRE_CANARY), "take over"), scenes.way_back_in_flight, ends="rolled_back"
    ),
    **{
        f"native {provider}": Story(
            _of(Effect.CLAIM, Effect.DEPLOY, Effect.WAIT_READY, *_by_provider(provider)),
            partial(scenes.native, provider, promote_to_production),
            by_provider=True,
        )
        for provider in MAKERS
    },
    **{
        f"native refused {provider}": Story(
            _of(Effect.HAND_OVER, *((Effect.RESTORE,) if provider in ("fiddler", "scale") else ())),
            partial(scenes.refused, provider),
            ends="rolled_back",
            by_provider=True,
        )
        for provider in MAKERS
        if provider != "baseten"
    },
    "native called off": Story(
        _of(Effect.RESTORE, Effect.RETIRE_CANARY), scenes.called_off, ends="rolled_back", by_provider=True
    ),
    "rolling": Story(
        _of(Effect.FILL, Effect.PROMOTE),
        partial(scenes.native, "baseten", promote_to_production, speed=200.0, mode="swap"),
    ),
    "hand over": Story(
        _of(Effect.CLEAR, Effect.HAND_OVER, Effect.PROMOTE, Effect.RETIRE_FORMER),
        partial(scenes.native, "baseten", scenes.hand_over, speed=200.0),
    ),
    **{
        f"native way back {provider}": Story(
            _of(Effect.CLAIM, Effect.CLEAR, Effect.HAND_OVER, Effect.PROMOTE),
            partial(scenes.native, provider, roll_back),
            by_provider=True,
        )
        for provider in MAKERS
    },
    **{
        f"evening {provider}": Story(("remember", "let go"), partial(scenes.night, provider, scale_to_zero), ends="")
        for provider in ("local", *MAKERS)
    },
    # Where zero is a setting, that is put back; elsewhere the deployment is woken, or started, with those it had.
    **{
        f"morning {provider}": Story((back, "forget"), partial(scenes.night, provider, wake_up), ends="")
        for back, providers in (
            ("put back", ("baseten", "foundry", "scale")),
            ("wake", ("local", "fiddler", "gradient")),
        )
        for provider in providers
    },
}
"""All of them. A native one runs on the emulator of a hosted provider, so does a night that names one."""

STOPPED = {"canary": ("deploy:before", "shift:before", "fill:after", "promote:before", "retire_former:before")}
"""Points at which a process hangs until another one has ended its rollout, by story."""
