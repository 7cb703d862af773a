"""A trained ranker as MLflow loads it: `mlflow.pyfunc.load_model`, `mlflow models serve`.

MLflow keeps this file beside the ranker's own and runs it at loading; nothing is pickled.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel


class RankerModel(PythonModel):
    """A line of the input is a query's embedding and its candidates'; one of the output their order and scores."""

    def load_context(self, context: Any) -> None:
        """Load the ranker from the folder that its files were kept in."""
        from rank_xmodal.use.reranker import Reranker

        self.reranker = Reranker.from_pretrained(Path(context.artifacts["config.json"]).parent)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return each line's candidates by their places, best first, and the scores of these.

        Parameters
        ----------
        context : PythonModelContext
        model_input : DataFrame of query (dim,) and candidates (L, dim)
        params : None

        Returns
        -------
        DataFrame of order (L,) and scores (L,)

        Raises
        ------
        MlflowException
            As `Reranker.rank`, with the number of the line: MLflow's server shows the messages of no other.
        """
        found = []
        for place, (query, candidates) in enumerate(
            zip(model_input["query"], model_input["candidates"], strict=True), 1
        ):
            try:
                asked, offered = np.asarray(query, np.float32), np.stack([np.asarray(one) for one in candidates])
                hits = self.reranker.rank(asked, offered.astype(np.float32))
            except (TypeError, ValueError) as error:
                message = f"line {place} of the input: {error}"
                raise mlflow.MlflowException(message, INVALID_PARAMETER_VALUE) from error
            found.append({"order": hits.rows.tolist(), "scores": hits.scores.tolist()})
        return pd.DataFrame(found, columns=["order", "scores"])


mlflow.models.set_model(RankerModel())
