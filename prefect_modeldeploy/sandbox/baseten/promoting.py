"""Environments and promotions: states follow from elapsed time, and are settled whenever somebody looks."""

import math
from typing import Any

from prefect_modeldeploy.sandbox.baseten.bodies import Promote
from prefect_modeldeploy.sandbox.baseten.core import AUTOSCALING, FAILED, INSTANCE_TYPES, OFF, PROMOTION, Core, merged
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.world import Record

STEP_SECONDS = 20.0
"""How long one step of a rolling promotion takes, besides stabilization."""


class Promoting(Core):
    """Environments with their promotions."""

    def make_environment(self, model: Record, name: str) -> Record:
        """A new environment, empty."""
        record: Record = {
            "id": f"{model['id']}/{name}",
            "name": name,
            "model_id": model["id"],
            "created_at": self.clock.stamp(),
            "current": None,
            "autoscaling": dict(AUTOSCALING),
            "promotion_settings": merged({}, dict(PROMOTION)),
            "instance_type": None,
            "backpressure": None,
            "schedules": [],
            "timezone": None,
            "rules": [],
            "promotion": None,
            "last_promotion": None,
        }
        self.world["environments"][record["id"]] = record
        return record

    def find_environment(self, model: Record, name: str) -> Record:
        """An environment with its promotion settled, or a 404."""
        record = self.world["environments"].get(f"{model['id']}/{name}")
        if record is None:
            raise Refusal(404, "No OracleEnvironment matches the given query.")
        self.settle_promotion(record)
        return record

    def environment_view(self, env: Record) -> Record:
        """An environment as the vendor shows it."""
        self.settle_promotion(env)
        current = self.world["deployments"].get(env["current"] or "")
        promotion = self.world["promotions"].get(env["promotion"] or "")
        candidate = self.world["deployments"].get(promotion["candidate"]) if promotion else None
        kind = INSTANCE_TYPES[env["instance_type"] or "1x4"]
        shown: Record = {
            "name": env["name"],
            "created_at": env["created_at"],
            "model_id": env["model_id"],
            "current_deployment": self.view(current) if current else None,
            "candidate_deployment": self.view(candidate) if candidate else None,
            "in_progress_promotion": self._progress(promotion) if promotion else None,
            "autoscaling_settings": {**AUTOSCALING, **env["autoscaling"]},
            "promotion_settings": env["promotion_settings"],
            "instance_type": {name: value for name, value in kind.items() if name != "price"},
            "request_backpressure_settings": {"policy": env["backpressure"]},
        }
        if env["schedules"]:
            state = {"schedule_id": None, "autoscaling_settings": shown["autoscaling_settings"]}
            shown["autoscaling_schedules"] = {
                "timezone": env["timezone"],
                "schedules": env["schedules"],
                "applied_state": state if current else None,
            }
        return shown

    def settle_all(self, model: Record) -> None:
        """Bring all promotions of a model up to now."""
        for env in self.environments_of(model):
            self.settle_promotion(env)

    # --- starting --------------------------------------------------------------------------------------------------

    def promote(self, env: Record, source: Record, asked: Promote) -> Record:
        """Start a promotion; returns the candidate, which may be a copy."""
        self.settle_promotion(env)
        if env["promotion"]:
            raise Refusal(400, f"Environment {env['name']} already has an in progress promotion.", "VALIDATION_ERROR")
        status = self.status(source)
        if status in FAILED | OFF:
            raise Refusal(400, f"Deployment {source['id']} is {status} and cannot be promoted.", "VALIDATION_ERROR")
        if env["current"] == source["id"]:
            raise Refusal(400, f"Deployment {source['id']} already serves {env['name']}.", "VALIDATION_ERROR")
        update = asked.environment_settings_update
        override = asked.promotion_settings_override
        settings = merged(env["promotion_settings"], override.model_dump() if override else {})
        wanted = (update and update.instance_type_id) or (
            env["instance_type"] if asked.preserve_env_instance_type else None
        )
        if wanted is not None and wanted not in INSTANCE_TYPES:
            raise Refusal(400, f"Unknown instance type {wanted}.", "VALIDATION_ERROR")
        serves_elsewhere = self.environment_name(source) is not None
        other_type = wanted is not None and wanted != source["instance_type"]
        copy = serves_elsewhere or other_type or settings["redeploy_on_promotion"] or source["is_development"]
        candidate = self._copy(source, str(wanted or source["instance_type"])) if copy else source
        changes = update.model_dump(exclude_none=True) if update else {}
        self.release_to(env, candidate, settings, changes, scale_down=asked.scale_down)
        return candidate

    def release_to(
        self, env: Record, candidate: Record, settings: Record, changes: dict[str, Any], *, scale_down: bool
    ) -> None:
        """Let a promotion begin. The environment's autoscaling is put on the candidate at once."""
        record: Record = {
            "id": self.world.new_id("promotion"),
            "name": f"{env['name']}/{candidate['id']}",
            "environment": env["id"],
            "candidate": candidate["id"],
            "former": env["current"],
            "settings": settings,
            "changes": changes,
            "scale_down": scale_down,
            "phase": "RELEASING",
            "since": self.clock.now(),
            "ramped": 0.0,
        }
        self.begin(record, "promotion", [env["name"], env["model_id"], candidate["id"], candidate["name"]])
        record.pop("unseen", None)
        self.world["promotions"][record["id"]] = record
        env["promotion"] = record["id"]
        candidate["autoscaling"] = merged(
            merged(candidate["autoscaling"], env["autoscaling"]), changes.get("autoscaling_settings") or {}
        )
        candidate["pending"] = None

    def _copy(self, source: Record, instance_type: str) -> Record:
        stamp = int(self.clock.now())
        kept = ("model_id", "labels", "config", "raw_config", "backpressure", "s3_key")
        record: Record = {
            **{name: source[name] for name in kept},
            "id": self.world.new_id("deployment"),
            "name": f"{source['name']}.{stamp}",
            "created_at": self.clock.stamp(),
            "is_development": False,
            "instance_type": instance_type,
            "autoscaling": dict(source["autoscaling"]),
            "pending": None,
        }
        self.world["deployments"][record["id"]] = record
        self.enter(record, "push")
        record.pop("unseen", None)
        return record

    # --- what happens by itself ------------------------------------------------------------------------------------

    def settle_promotion(self, env: Record) -> None:
        """Bring an environment's promotion up to now."""
        promotion = self.world["promotions"].get(env["promotion"] or "")
        if promotion is None:
            return
        candidate = self.world["deployments"].get(promotion["candidate"])
        if candidate is None:
            self._end(env, promotion, "CANCELED")
            return
        status = self.status(candidate)
        if status in FAILED | {"INACTIVE", "UNHEALTHY"}:
            self._end(env, promotion, "FAILED")
            return
        if promotion["phase"] == "RELEASING":
            self._settle_release(env, promotion, candidate, status)
        if promotion["phase"] == "RAMPING_UP" and self._ramped(promotion) >= self._ramp_seconds(promotion):
            self._succeed(env, promotion, candidate)
        elif promotion["phase"] == "RAMPING_DOWN" and self._ramped(promotion) <= 0:
            self._end(env, promotion, "CANCELED")

    def _settle_release(self, env: Record, promotion: Record, candidate: Record, status: str) -> None:
        word = self.word(promotion)
        if word == "FAILED":
            self._end(env, promotion, "FAILED")
        elif word == "RELEASED" and self.word(candidate) == "ACTIVE":
            if status != "ACTIVE":
                self.pool(candidate).start_first()
            elif promotion["settings"]["rolling_deploy"] and promotion["former"]:
                promotion.update(phase="RAMPING_UP", since=self.clock.now(), ramped=0.0)
            else:
                self._succeed(env, promotion, candidate)

    def _succeed(self, env: Record, promotion: Record, candidate: Record) -> None:
        changes = promotion["changes"]
        env["current"] = candidate["id"]
        env["instance_type"] = candidate["instance_type"]
        env["autoscaling"] = merged(env["autoscaling"], changes.get("autoscaling_settings") or {})
        env["promotion_settings"] = merged(env["promotion_settings"], changes.get("promotion_settings") or {})
        former = self.world["deployments"].get(promotion["former"] or "")
        self._end(env, promotion, "SUCCEEDED")
        if former is None or not promotion["scale_down"]:
            return
        match promotion["settings"]["promotion_cleanup_strategy"]:
            case "SCALE_TO_ZERO":
                former["autoscaling"]["min_replica"] = 0
                self.pool(former).restart(0)
            case "DEACTIVATE":
                self.enter(former, "deactivate")

    def _end(self, env: Record, promotion: Record, phase: str) -> None:
        promotion["phase"] = phase
        env.update(promotion=None, last_promotion=promotion["id"])

    # --- controls --------------------------------------------------------------------------------------------------

    def running(self, env: Record) -> Record:
        """The promotion that runs, or the vendor's refusal."""
        self.settle_promotion(env)
        promotion = self.world["promotions"].get(env["promotion"] or "")
        if promotion is None:
            raise Refusal(400, f"Environment {env['name']} has no in progress promotion.", "VALIDATION_ERROR")
        return promotion

    def cancel(self, env: Record) -> str:
        """Cancel gracefully; says how."""
        promotion = self.running(env)
        if promotion["phase"] == "RELEASING":
            self._end(env, promotion, "CANCELED")
            return "CANCELED"
        self._turn(promotion, "RAMPING_DOWN")
        self.settle_promotion(env)
        return "RAMPING_DOWN"

    def control(self, env: Record, action: str) -> None:
        """Pause, resume, force: rolling promotions only, in the phases where it makes sense."""
        promotion = self.running(env)
        allowed = {
            "pause": ("RAMPING_UP",),
            "resume": ("PAUSED",),
            "force_cancel": ("RAMPING_UP", "PAUSED", "RAMPING_DOWN"),
            "force_roll_forward": ("RAMPING_UP", "PAUSED", "RAMPING_DOWN"),
        }[action]
        if promotion["phase"] not in allowed:
            text = f"A promotion that is {promotion['phase']} takes no {action}."
            raise Refusal(400, text, "VALIDATION_ERROR")
        match action:
            case "pause":
                self._turn(promotion, "PAUSED")
            case "resume":
                self._turn(promotion, "RAMPING_UP")
            case "force_cancel":
                self._end(env, promotion, "CANCELED")
            case "force_roll_forward":
                self._succeed(env, promotion, self.world["deployments"][promotion["candidate"]])

    def _turn(self, promotion: Record, phase: str) -> None:
        ramped = min(max(self._ramped(promotion), 0.0), self._ramp_seconds(promotion))
        promotion.update(ramped=ramped, since=self.clock.now(), phase=phase)

    def _ramped(self, promotion: Record) -> float:
        """Seconds of the way that are done; at speed 0 a way is done at once."""
        done = float(promotion["ramped"])
        match promotion["phase"]:
            case "RAMPING_UP":
                return done + self.clock.elapsed(promotion["since"])
            case "RAMPING_DOWN":
                return done - self.clock.elapsed(promotion["since"])
            case _:
                return done

    def _steps(self, promotion: Record) -> int:
        config = promotion["settings"]["rolling_deploy_config"]
        step = config["max_surge_percent"] or config["max_unavailable_percent"] or 25
        return max(1, math.ceil(100 / step))

    def _ramp_seconds(self, promotion: Record) -> float:
        stable = promotion["settings"]["rolling_deploy_config"]["stabilization_time_seconds"] or 0
        return self._steps(promotion) * (STEP_SECONDS + stable)

    def percent(self, promotion: Record) -> int:
        """Share of the traffic that the candidate gets: whole steps."""
        if promotion["phase"] == "RELEASING":
            return 0
        steps, way = self._steps(promotion), self._ramp_seconds(promotion)
        done = min(max(self._ramped(promotion), 0.0), way)
        return min(100, math.floor(done / way * steps) * math.ceil(100 / steps))

    def _progress(self, promotion: Record) -> Record:
        return {
            "status": promotion["phase"],
            "percent_traffic_to_new_version": self.percent(promotion),
            "error_message": None,
            "rolling_deploy": bool(promotion["settings"]["rolling_deploy"]),
        }
