"""When no rollout may move traffic forward: a block, shared by all targets that it holds for."""

from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field

from prefect_modeldeploy.block_schemas import SchemaOnce
from prefect_modeldeploy.rollout.freeze import FreezeWindow


class FreezeCalendar(SchemaOnce, Block):
    """Times in which production stays as it is: weekends, nights, the last days of the year. Roll-backs are free.

    Attributes:
        windows: The times.
        when_frozen: What becomes of a rollout that is started in them.

    Example:
        ```python
        from prefect_modeldeploy import FreezeCalendar

        calendar = FreezeCalendar.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Freeze Calendar"
    _block_type_slug = "freeze-calendar"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy#blocks"  # type: ignore[assignment]
    _description = "Times in which rollouts do not move traffic forward; roll-backs always do."

    windows: tuple[FreezeWindow, ...] = Field((), description="The times in which production stays as it is.")
    when_frozen: Literal["refuse", "hold"] = Field(
        "refuse",
        description="What becomes of a rollout that is started in these times. refuse: it does not begin. hold: it "
        "prepares the canary, and waits before traffic moves. One that is under way waits between its steps anyway.",
    )
