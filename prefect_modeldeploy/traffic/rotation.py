"""Keeps the access logs small, without losing a line.

HAProxy writes one of two files. When it has grown large a reload makes it write the other; when the last worker that
wrote the first has ended, and every line in it has been counted, it is emptied, ready for the next change. One file alone
cannot be emptied while it is written: a line could arrive between the last read and that.
"""

import asyncio

from prefect_modeldeploy.traffic.gateway import Gateway
from prefect_modeldeploy.traffic.windows import WindowStore

MAX_BYTES = 256 * 1024 * 1024
"""About two million requests."""


async def rotate(gateway: Gateway, store: WindowStore, *, max_bytes: int = MAX_BYTES) -> None:
    """Do what is due now. Call it now and then; most calls only look at two file sizes.

    Raises:
        GatewayError: The proxy is not running, or refused to change its log.
    """
    sizes = {log: log.stat().st_size if log.exists() else 0 for log in gateway.logs}
    if not any(size > max_bytes for size in sizes.values()) and not all(sizes.values()):
        return
    finished = await gateway.finished_log()
    if finished is None:
        return
    if sizes[finished] or store.offset(finished):
        while store.ingest([finished]):
            await asyncio.sleep(0)
        store.restart(finished)
    if any(sizes[log] > max_bytes for log in gateway.logs if log != finished):
        await gateway.switch_log()
