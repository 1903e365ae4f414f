"""Stateful emulators of the hosted serving APIs: every task and flow can be run without an account.

    modeldeploy sandbox start --providers scale --ready-file ready.json --speed 60

How to add an emulator: one file, `prefect_modeldeploy/sandbox/<vendor>.py`, found by its name. It holds

1. a module docstring; what it does where the vendor's behaviour is unknown goes into the table in docs/sandbox.md;
2. `class <Vendor>Emulator(Emulator)` with
   - `name`, and `timelines`: the vendor's words with realistic durations in seconds (speed 1), e.g.
     `{"create": Timeline((("UPDATE_PENDING", 5), ("UPDATE_IN_PROGRESS", 60)), "READY", failed="UPDATE_FAILED")}`;
   - `seed()`: fills `self.world` (tables of JSON records) and `self.world.facts` (credentials, ids of the seed);
   - `describe(url)`: this provider's object in the ready file;
   - `routes()`: Starlette routes whose handlers are methods;
   - `envelope(refusal)`: the vendor's error answer; `invalid(problems)` when a bad body is not a 422;
   - `authenticate(request)`: raises a Refusal without the right credentials;
3. `EMULATOR = <Vendor>Emulator`.

What it gets (see `emulator.py`; `tests/sandbox/toy.py` is the smallest example):

- `await self.body(request, Model)`, `self.query(request, Model)`: validated by a pydantic model, refused in the
  vendor's words;
- `raise Refusal(404, "...", code="...")` anywhere: never answer an error by hand. Never raise anything else: an
  unexpected exception is a 500 in the vendor's envelope and fails the test that caused it (`control.crashes()`);
- `self.begin(record, "create")` starts a life cycle, `self.word(record)` is the vendor's word for it *now* (None:
  gone). States follow from elapsed time alone: no background tasks, no sleeps. Faults of life cycles (failed, stuck,
  slow, found late: call `self.unseen(record)` where records are looked up and listed) come with it;
- `self.pool(record)`: replicas with a `Scaling`: `settle()` says how many there are, `request()` counts load, `woken()`
  holds a request while one starts, `restart(n)`; idle scale to zero and autoscaling come with it;
- `await self.shared.behaviours.answer(self.name, [id, name], payload)`: the model's answer; `ModelFailed` is yours to
  translate;
- `self.clock.now()`, `.stamp()`, `.sleep()`: never `time.time()`; `self.world.new_id("deployment")`, `.new_uuid()`.

Faults of requests (status, Retry-After, lost answers, resets, delays), the journal of requests and the state file need
nothing from you. Everything in `self.world` must be JSON. Keep large uploads out of it (keep length and digest).

Tests: `tests/sandbox/kit.py` (`running_sandbox("scale")`; one a session and `control.reset()` for each test is fast),
`storm.py` (chaos), `fuzz.py` (never a 5xx), `tests/contract/venvs.py` (the vendor's own client) and `recordings.py`;
`tests/providers/*scale*` and `tests/contract/test_scale.py` use them all. No product module imports this package.
"""

from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.sandbox.registry import PROVIDERS
from prefect_modeldeploy.sandbox.server import run

__all__ = ["PROVIDERS", "SandboxControl", "run"]
