"""Trackers that show a run while it lasts: TensorBoard, Trackio, Weights & Biases, MLflow. Each has one run for a stream.

transformers' callbacks for them begin and end a tracker's run with each trainer, and their steps begin anew; here the run is
opened once, under an id that a resumed run opens again. Nothing is sent anywhere but where the tracker itself was set up to.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}


def missing(name: str) -> str | None:
    """What to do where the tracker's package is not installed; None where it is."""
    package = PACKAGES[name]
    return None if find_spec(package) else f"{name} needs the package {package}: pip install {package}"


class Tracker:
    """A run of a tracker. Raises whatever the tracker's package raises."""

    id: str

    def __init__(self, folder: Path, project: str, name: str, id: str | None, config: dict[str, Any]):
        """Begin a run, or go on with the one of that `id`. Files of its own go to `folder`."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Numbers at a step, which never goes back."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """A table, which replaces the one of that name."""

    def artifact(self, file: Path) -> None:
        """A file, where the tracker has such."""

    def end(self) -> None:
        """Everything is written, or sent."""


class TensorBoard(Tracker):
    def __init__(self, folder, project, name, id, config):
        from torch.utils.tensorboard import SummaryWriter

        self.id = id or name
        self.writer = SummaryWriter(log_dir=os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder / "tensorboard"))
        if id is None:
            self.writer.add_text("recipe", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def log(self, values, step):
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def table(self, name, columns, rows, step):
        lines = [columns, ["---"] * len(columns), *rows]
        self.writer.add_text(name, "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines), step)
        self.writer.flush()

    def end(self):
        self.writer.close()


class Trackio(Tracker):
    """Local, unless TRACKIO_SPACE_ID names a Space."""

    def __init__(self, folder, project, name, id, config):
        import trackio

        self.id, self.trackio = id or name, trackio
        trackio.init(
            project=project,
            name=self.id,
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, values, step):
        self.trackio.log(values, step=step)

    def table(self, name, columns, rows, step):
        self.trackio.log({name: self.trackio.Table(columns=columns, data=rows)}, step=step)

    def artifact(self, file):
        self.trackio.log_artifact(file, name=f"{self.id}-report", type="report")

    def end(self):
        self.trackio.finish()


class Wandb(Tracker):
    """Offline (`wandb sync` sends it), unless WANDB_MODE says otherwise or wandb knows an API key."""

    def __init__(self, folder, project, name, id, config):
        import wandb

        self.id, self.wandb = id or uuid4().hex[:12], wandb
        known = bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or project,
            name=name,
            id=self.id,
            resume="allow",
            config=config,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if known else "offline"),
            settings=wandb.Settings(silent=True),
        )

    def log(self, values, step):
        self.run.log(values, step=step)

    def table(self, name, columns, rows, step):
        self.run.log({name: self.wandb.Table(columns=columns, data=rows)}, step=step)

    def artifact(self, file):
        self.run.log_artifact(str(file), name=f"{self.id}-report", type="report")

    def end(self):
        self.run.finish()


class MLflow(Tracker):
    """Where MLFLOW_TRACKING_URI says, else in the run's folder."""

    def __init__(self, folder, project, name, id, config):
        import mlflow

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            folder.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
        self.client = mlflow.MlflowClient()
        if id is None:
            id = self.client.create_run(self.experiment(folder, project), run_name=name).info.run_id
            for key, value in config.items():
                self.client.log_param(id, key, str(value)[:500])
        self.id = id

    def experiment(self, folder: Path, project: str) -> str:
        """The id of the experiment, which is made where it is missing."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
        known = self.client.get_experiment_by_name(name)
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder / "artifacts").absolute().as_uri()
        return known.experiment_id if known else self.client.create_experiment(name, artifact_location=local)

    def log(self, values, step):
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def table(self, name, columns, rows, step):
        data = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
        self.client.log_dict(self.id, {"columns": columns, "data": data}, f"{name}.json")

    def artifact(self, file):
        self.client.log_artifact(self.id, str(file))

    def end(self):
        self.client.set_terminated(self.id)


TRACKERS = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb, "mlflow": MLflow}
