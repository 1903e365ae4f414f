"""What the parts of the emulator share: identity fields, pages, usage, answers of models."""

import json
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from prefect_modeldeploy.sandbox.behaviours import ModelFailed
from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.pool import Scaling
from prefect_modeldeploy.sandbox.scale.bodies import Paging, UsagePeriod
from prefect_modeldeploy.sandbox.world import Record

POD_START_SECONDS = 30.0
IDLE_SECONDS = 300.0
HELD_SECONDS = 30.0
"""Of our time: the gateway in front of deployments gives up after that (scaleapi-python-client issue 68)."""

HOUR = 3600.0

FIELDS = (
    "id",
    "name",
    "status",
    "created_at",
    "account_id",
    "created_by_user_id",
    "created_by_identity_type",
    "model_instance_id",
    "model_endpoint_id",
    "model_creation_parameters",
    "vendor_configuration",
    "deployment_metadata",
)
"""Of a deployment; lists can be sorted by each of them."""


def owned(emulator: Emulator, account_id: str | None = None) -> Record:
    """The fields that every entity has."""
    own = emulator.world.facts["account_id"]
    if account_id not in (None, own):
        raise Refusal(403, "Forbidden")
    return {
        "account_id": own,
        "created_at": emulator.clock.stamp(),
        "created_by_user_id": emulator.world.facts["user_id"],
        "created_by_identity_type": "user",
    }


def page(items: list[Record], asked: Paging) -> Response:
    """One page of a list: empty beyond the end."""
    for term in reversed((asked.sort_by or "").split(",") if asked.sort_by else []):
        name, _, order = term.partition(":")
        if name not in FIELDS or order not in ("", "asc", "desc"):
            problem = {"loc": ["query", "sort_by"], "msg": "must be <field>:asc or <field>:desc", "type": "value_error"}
            raise Refusal(422, "Validation Error", problems=[problem])
        items = sorted(items, key=lambda item: str(item.get(name) or ""), reverse=order == "desc")
    start = (asked.page - 1) * asked.limit
    shown = items[start : start + asked.limit]
    body = {
        "items": shown,
        "current_page": asked.page,
        "items_per_page": asked.limit,
        "total_item_count": len(items),
    }
    return JSONResponse(body)


def only_own(emulator: Emulator, items: list[Record], asked: Paging) -> list[Record]:
    """Those of the account that was asked for."""
    return items if asked.account_id in (None, emulator.world.facts["account_id"]) else []


def count_tokens(value: Any) -> int:
    """Tokens of a text or a body, roughly: its words."""
    return len((value if isinstance(value, str) else json.dumps(value)).split())


def note_usage(emulator: Emulator, record: Record, request: Any, answer: Any) -> None:
    """Count the tokens of a request, by the hour."""
    hour = str(int(emulator.clock.now() // HOUR))
    used = record.setdefault("usage", {}).setdefault(hour, [0, 0])
    used[0] += count_tokens(request)
    used[1] += count_tokens(answer)


def usage(records: list[Record], period: UsagePeriod) -> Response:
    """Token usage in equal chunks of the period."""
    start, end = _moment(period.start_date, "start_date"), _moment(period.end_date, "end_date")
    if end <= start:
        raise _bad_query("end_date", "must be after start_date")
    width = (end - start) / period.chunks
    sums = [[0, 0] for _ in range(period.chunks)]
    for record in records:
        for hour, (prompt, response) in record.get("usage", {}).items():
            at = int(hour) * HOUR
            if start - HOUR < at < end:
                chunk = sums[min(period.chunks - 1, max(0, int((at - start) / width)))]
                chunk[0], chunk[1] = chunk[0] + prompt, chunk[1] + response
    data = [
        {
            "date": _iso(start + number * width),
            "prompt_tokens": prompt,
            "response_tokens": response,
            "summary_tokens": prompt + response,
        }
        for number, (prompt, response) in enumerate(sums)
    ]
    return JSONResponse({"data": data, "start_date": data[0]["date"], "end_date": data[-1]["date"]})


def _moment(text: str, field: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _bad_query(field, "must be a date and time in ISO 8601") from None


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _bad_query(field: str, message: str) -> Refusal:
    return Refusal(422, message, problems=[{"loc": ["query", field], "msg": message, "type": "value_error"}])


def scaling_of(configuration: Record) -> Scaling:
    """How the workers of a configuration scale."""
    return Scaling(
        int(configuration["min_workers"]),
        int(configuration["max_workers"]),
        target=int(configuration["per_worker"]),
        start_seconds=POD_START_SECONDS,
        scale_down_seconds=IDLE_SECONDS,
    )


def check_workers(configuration: Record) -> None:
    """The Launch backend's bounds."""
    if configuration["min_workers"] < 0:
        raise Refusal(400, f"Requested min workers {configuration['min_workers']} too low")
    if not 0 <= configuration["max_workers"] <= 250:
        raise Refusal(400, f"Requested max workers {configuration['max_workers']} out of bounds: 0 to 250")
    if configuration["per_worker"] <= 0:
        raise Refusal(400, f"Requested per worker {configuration['per_worker']} too low")


async def call_model(emulator: Emulator, record: Record, scaling: Scaling, payload: Any, names: list[str]) -> Any:
    """Let the deployment's workers answer, after one has woken up."""
    if scaling.max_replicas < 1:
        raise Refusal(400, "The deployment has no workers: max_workers is 0")
    pool = emulator.pool(record)
    async with pool.request(scaling):
        if not await pool.woken(scaling, HELD_SECONDS):
            raise Refusal(504, "Gateway Timeout")
        try:
            answer = await emulator.shared.behaviours.answer(emulator.name, names, payload)
        except ModelFailed as error:
            raise Refusal(500, str(error)) from error
    note_usage(emulator, record, payload, answer)
    return answer
