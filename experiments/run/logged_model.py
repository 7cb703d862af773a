"""A run's ranker as an MLflow model: listed, registered and served as any other."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.scorers import Scorer
from rank_xmodal.scorers.folder import FILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pandas import DataFrame

_CODE = Path(__file__).with_name("pyfunc.py")
_PROGRESS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


def can_be_logged(scorer: Scorer) -> bool:
    """Return whether embeddings are all that a scorer looks at, for they are all that the model is given."""
    return not (scorer.needs.tokens or scorer.needs.content)


def example(data: EmbeddingSet, direction: Direction) -> DataFrame:
    """Return an input of a line: the set's first query, and its first three candidates."""
    import pandas as pd

    query, candidates = data.queries(direction)[0], data.candidates(direction)[:3]
    told = (np.asarray(part, np.float64).round(5).tolist() for part in (query, candidates))
    return pd.DataFrame([dict(zip(("query", "candidates"), told, strict=True))])


def log_model(client: Any, run_id: str, folder: Path, given: DataFrame) -> None:
    """Log the ranker in a run's folder as the model of its MLflow run; one that was begun is completed.

    Parameters
    ----------
    client : MlflowClient
    run_id : str
    folder : Path
    given : DataFrame
        An example of its input.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    known = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    model = next(iter(known), None)
    if model is None:
        name = re.sub(r"[^\w-]+", "-", run.info.run_name)  # what MLflow allows
        model = client.create_logged_model(experiment, name=name, source_run_id=run_id, model_type="ranker")
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as place:
            saved = Path(place) / "model"
            _save(saved, folder, given, run_id, model.model_id)
            with _quiet():
                client.log_model_artifacts(model.model_id, str(saved))
        client.finalize_logged_model(model.model_id, "READY")
    if not (run.outputs and run.outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])


def _save(place: Path, folder: Path, given: DataFrame, run_id: str, model_id: str) -> None:
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    numbers = Array(DataType.double)
    takes = Schema([ColSpec(numbers, "query"), ColSpec(Array(numbers), "candidates")])
    gives = Schema([ColSpec(Array(DataType.long), "order"), ColSpec(numbers, "scores")])
    with _quiet():
        mlflow.pyfunc.save_model(
            str(place),
            python_model=str(_CODE),
            artifacts={name: str(folder / name) for name in FILES},
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=ModelSignature(takes, gives),
            input_example=given,
            # Named, or MLflow starts another Python that loads the model to see what it imports.
            pip_requirements=[
                f"{name}=={version(name).partition('+')[0]}" for name in ("rank-xmodal", "torch", "mlflow")
            ],
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back MLflow's progress bars, and its advice to annotate predict by types that JSON can't hold arrays of."""
    before = os.environ.get(_PROGRESS)
    os.environ[_PROGRESS] = "false"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[_PROGRESS]
        else:
            os.environ[_PROGRESS] = before
