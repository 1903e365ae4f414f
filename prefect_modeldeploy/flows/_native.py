"""Promotion and roll-back in the provider's own way, for targets that have no router of ours in front."""

from collections.abc import Awaitable, Callable
from typing import Literal

from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentSpec
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.flows._driver import drive
from prefect_modeldeploy.flows._native_effects import NativeSettled, native_effects
from prefect_modeldeploy.flows._start import begin, demand, driven, final, new_record, take_over, turned_by_hand
from prefect_modeldeploy.rollout import Approval, CanaryPlan, Phase, RolloutRecord
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks.deployments import alist_deployments

# A promotion whose end is not known may have made the candidate production: nothing is ever deleted for it.
PLAN = CanaryPlan(steps=(), former="keep", failed_canary="keep", promote="native")

SWAP = "use mode='swap', which needs a gateway in front"


async def promote_natively(
    target: DeploymentTarget,
    candidate: str | DeploymentSpec,
    approval: Approval | None = None,
    note: str = "",
    *,
    kind: Literal["promotion", "roll_back"] = "promotion",
) -> RolloutRecord:
    """Let the provider promote the candidate, and wait until what serves then is ready."""
    demand(target, Capability.PROMOTE, SWAP)

    async def make() -> RolloutRecord:
        stable = await _holder(target)
        plan, named = PLAN.model_copy(update={"promote": promotion_by(target, stable)}), kind == "roll_back"
        return await new_record(
            target, candidate, plan, stable, kind=kind, mode="native", named=named, approval=approval, note=note
        )

    return await _driven(target, candidate if isinstance(candidate, str) else candidate.name, make)


async def roll_back_natively(target: DeploymentTarget, to: str | None, note: str) -> RolloutRecord:
    """Let the provider undo its last promotion, or promote the version that is named, and wait until it is ready."""
    demand(target, Capability.PROMOTE if to else Capability.ROLL_BACK, SWAP)
    turned = await _turned_back(target, to, note)
    if turned is not None and turned.outcome != "promoted" and to in (None, turned.stable):
        return final(turned)
    if to is not None:
        return await promote_natively(target, to, note=note, kind="roll_back")
    serving = await _to_be_told(target)

    async def make() -> RolloutRecord:
        return await new_record(target, serving, PLAN, None, kind="roll_back", mode="native", note=note)

    return await _driven(target, serving, make)


async def _driven(
    target: DeploymentTarget, candidate: str, make: Callable[[], Awaitable[RolloutRecord]]
) -> RolloutRecord:
    record = await begin(target, candidate, make)
    return await driven(record, native_effects(target, record))


async def _turned_back(target: DeploymentTarget, to: str | None, note: str) -> RolloutRecord | None:
    """The end of a rollout that was in flight, if that was not the way to what is wanted."""
    async with _ownership.only_one(target.endpoint):
        last = await _ownership.latest(target)
        if last is None or last.kind == "roll_back" or last.phase is Phase.ENDED or last.canary == to:
            return None
        taken = await take_over(target, last)
    # One that the provider may have done is brought to its end first: then it is known what there is to undo.
    return await drive(await turned_by_hand(taken, note), NativeSettled(target))


def promotion_by(target: DeploymentTarget, stable: Deployment | None) -> Literal["swap", "native"]:
    """A plan's `promote` where no gateway is involved, which decides whether there is a hand-over.

    A provider that can call its promotion off needs none (`swap`): there is a way back until it has ended. At any other
    (`native`), what it was once asked for is brought to its end.
    """
    return "swap" if stable is not None and target.credentials.client_class.rolls_back == "to" else "native"


async def _to_be_told(target: DeploymentTarget) -> str:
    """The deployment that the provider's roll-back wants to be told."""
    last = await _ownership.latest(target)
    if last and last.kind == "roll_back" and last.phase is not Phase.ENDED:
        return last.canary
    promoted = last if last and last.outcome == "promoted" else None
    if target.credentials.client_class.rolls_back == "to":
        if promoted is None or promoted.stable is None:
            raise InvalidInput("to", None, f"no record of what {target.endpoint} served before; name the deployment")
        return promoted.stable
    holder = await _holder(target)
    serving = promoted.serving if promoted else holder.id if holder else None
    if serving is None:
        raise InvalidInput("target.environment", target.environment, f"nothing of {target.model} serves there")
    return serving


async def _holder(target: DeploymentTarget) -> Deployment | None:
    """What serves the environment now, if the provider says so."""
    found = [d for d in await alist_deployments(target) if d.environment == target.environment]
    return next((d for d in found if d.ready), found[0] if found else None)
