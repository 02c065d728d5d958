"""MLflow as a mirror of the study: live while it runs, and never in training's way."""

from pipeline.events import TrialState
from pipeline.tracking.dataset import DatasetInfo, dataset_input
from pipeline.tracking.delivery import Report
from pipeline.tracking.mirror import Mirror, StudyFacts
from pipeline.tracking.reconcile import Finding, Reconciled, TrialRecord, reconcile
from pipeline.tracking.store import connect, patiently

__all__ = [
    "DatasetInfo",
    "Finding",
    "Mirror",
    "Reconciled",
    "Report",
    "StudyFacts",
    "TrialRecord",
    "TrialState",
    "connect",
    "dataset_input",
    "patiently",
    "reconcile",
]
