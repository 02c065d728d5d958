"""MLflow as a mirror of the study: live while it runs, and never in training's way."""

from pipeline.tracking.dataset import DatasetInfo, dataset_input
from pipeline.tracking.delivery import Report
from pipeline.tracking.mirror import Mirror, TrialState
from pipeline.tracking.store import connect

__all__ = [
    "DatasetInfo",
    "Mirror",
    "Report",
    "TrialState",
    "connect",
    "dataset_input",
]
