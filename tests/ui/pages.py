"""Prefect's UI as a person uses it: fields are found by what is written above them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page


class Pages:
    """One window. Screenshots of it go to `pictures`."""

    def __init__(self, page: "Page", url: str, pictures: Path) -> None:
        self.page, self.url, self._pictures = page, url, pictures
        self._chosen: str | None = None

    async def open(self, path: str) -> None:
        """Go to a page of the UI that a browser gets which has chosen none of the two."""
        from playwright.async_api import TimeoutError as Late  # here: other sets are collected without it

        if self._chosen is None:
            await self.page.goto(self.url)
            await self.page.wait_for_url(f"{self.url}/*/**")
            self._chosen = f"{self.url}/v2" if self.page.url.startswith(f"{self.url}/v2/") else self.url
        await self.page.goto(f"{self._chosen}/{path}")
        try:
            await self.page.locator("main").first.wait_for(timeout=30_000)
        except Late:  # a part of the UI that a busy server did not send leaves the page blank
            await self.page.reload()

    async def picture(self, name: str) -> None:
        await self.page.screenshot(path=self._pictures / f"{name}.png", full_page=True)

    def field(self, title: str, within: "Locator | None" = None) -> "Locator":
        """The field under a title, with its description; titles of optional fields say so."""
        titled = f"normalize-space(.)='{title}' or normalize-space(.)='{title} (Optional)'"
        return (within or self.page.locator("main")).locator(f"xpath=.//label[{titled}]/ancestor::div[./fieldset][1]")

    async def fill(self, title: str, value: Any, within: "Locator | None" = None) -> None:
        """Type a text or a number, or anything else as JSON, into the field under a title."""
        text = value if isinstance(value, str) else json.dumps(value)
        field = self.field(title, within)
        await field.locator("fieldset").first.locator("input, textarea, [contenteditable]").first.fill(text)

    async def choose(self, title: str, tab: str, within: "Locator | None" = None) -> "Locator":
        """Choose one of a field's kinds of values; returns the field."""
        field = self.field(title, within)
        await field.get_by_role("tab", name=tab, exact=True).first.click()
        return field

    async def pick_block(self, title: str, name: str) -> None:
        """Pick a saved block."""
        await self.field(title).get_by_role("button", name="Select a block").click()
        await self.page.get_by_role("option", name=name, exact=True).click()
