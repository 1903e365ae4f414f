"""What Fiddler does not keep about a deployment, kept where every process finds it: behind the model's description.

Fiddler has no list of jobs, no name, no environment and no history for a deployment. So the end of the description of
a model version holds one line of ours; the words before it are the user's and stay.

    Churn model of the retail bank.

    [modeldeploy: {"job": "539f...", "doing": "start", "environment": "production", "since": "2026-01-01T00:00:00Z"}]
"""

import json
import math
import re
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

Doing = Literal["deploy", "start", "stop", "change"]

_LINE = re.compile(r"\s*\[modeldeploy: (\{.*\})\]\s*\Z", re.DOTALL)


class Notes(BaseModel):
    """Our notes about one model version.

    Attributes:
        job, doing, at: Id of the last job that this package started, what for, and when (ISO 8601).
        name, spec: Name and digest of the spec that was deployed here.
        made: True when the model version itself was created for that spec: only then is it ever deleted.
        environment, since: The role that it was promoted to, and when (ISO 8601).
        former: Id of the deployment that had the role before.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str | None = None
    doing: Doing | None = None
    at: str | None = None
    name: str | None = None
    spec: str | None = None
    made: bool | None = None
    environment: str | None = None
    since: str | None = None
    former: str | None = None

    def started(self, job: str | None, doing: Doing) -> Self:
        """The notes after a change: its job, or none when Fiddler named none."""
        news = {"job": job, "doing": doing, "at": stamp()} if job else {"job": None, "doing": None, "at": None}
        return self.model_copy(update=news)

    def age_seconds(self) -> float:
        """Seconds since `at`; infinity when it is not known."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.at or "")).total_seconds()
        except (ValueError, TypeError):
            return math.inf


def stamp() -> str:
    """Now, in ISO 8601."""
    return datetime.now(UTC).isoformat()


def read_notes(description: str | None) -> Notes:
    """The notes in a description; empty ones when there are none, or when somebody has broken them."""
    found = _LINE.search(description or "")
    try:
        return Notes.model_validate_json(found[1]) if found else Notes()
    except ValidationError:
        return Notes()


def user_text(description: str | None) -> str:
    """The description without our notes."""
    return _LINE.sub("", description or "")


def with_notes(description: str | None, notes: Notes) -> str:
    """The description with these notes instead of the former ones."""
    kept = {name: value for name, value in notes.model_dump().items() if value is not None}
    text = user_text(description)
    if not kept:
        return text
    return f"{text}\n\n[modeldeploy: {json.dumps(kept)}]".lstrip()
