"""Fiddler's objects as our `Deployment`."""

from prefect_modeldeploy.deployments import Autoscaling, Deployment, Replicas, Resources
from prefect_modeldeploy.providers.fiddler.conditions import condition
from prefect_modeldeploy.providers.fiddler.notes import Notes
from prefect_modeldeploy.providers.fiddler.wire import Job, Model, ModelDeployment, UserCompact


def view(
    id: str, url: str, model: Model, deployment: ModelDeployment | None, job: Job | None, notes: Notes
) -> Deployment:
    """One deployment in our words.

    Args:
        id: Its id in our words.
        url: Where predictions are asked for; the model is named in the body.
        model: The model version.
        deployment: Its deployment; None when there is none yet.
        job: The last job, if one is known.
        notes: Ours.
    """
    doing = notes.doing if job is not None and notes.job == job.id else None
    told = deployment is not None and "active" in deployment.model_fields_set
    active = deployment.active if deployment is not None and told else None
    found = condition(active, job, doing, there=deployment is not None)
    there = deployment or ModelDeployment()
    pods = there.replicas or 0
    raw = {"model": model, "deployment": deployment, "job": job}
    return Deployment(
        provider="fiddler",
        id=id,
        name=notes.name or (f"{model.name}:{model.version}" if model.version else model.name),
        model_id=model.name or there.model_name or id,
        version=model.version or (there.model.version if there.model else None),
        environment=notes.environment,
        status=found.status,
        provider_status=found.word,
        reason=found.reason,
        ready=found.ready,
        replicas=Replicas(
            ready=pods if found.ready else 0,
            running=pods if active else 0,
            desired=pods if active else 0,
        ),
        autoscaling=Autoscaling(min_replicas=pods, max_replicas=pods) if pods > 0 else None,
        resources=_resources(there),
        endpoint_url=url,
        created_at=there.created_at or model.created_at,
        updated_at=there.updated_at or model.updated_at,
        created_by=_who(there.created_by or model.created_by),
        raw={name: part.model_dump(mode="json", exclude_unset=True) for name, part in raw.items() if part is not None},
    )


def _resources(deployment: ModelDeployment) -> Resources | None:
    cpu, memory = deployment.cpu or 0, deployment.memory or 0
    if cpu <= 0 and memory <= 0:
        return None
    return Resources(cpu_millicores=cpu if cpu > 0 else None, memory_mib=memory if memory > 0 else None)


def _who(user: UserCompact | None) -> str | None:
    return (user.email or user.full_name or user.id) if user else None
