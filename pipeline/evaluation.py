"""What a registered model is worth: the only reader of the test split, and it counts its readings.

A model chosen by its test score has no test score any more; so each version carries the number of
times it was scored, and nothing else in the pipeline can see these images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.artifacts
import numpy as np
import numpy.typing as npt
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pydantic import TypeAdapter
from torch import nn

from pipeline import exported_model
from pipeline.datasets import DataSettings, DataSettingsUnion, ImageSet, load_splits, load_test
from pipeline.errors import UserError
from pipeline.exported_model import LoadedModel, ModelInfo
from pipeline.statistics import wilson_interval
from pipeline.tracking import DatasetInfo, connect, dataset_input
