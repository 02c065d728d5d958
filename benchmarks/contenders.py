"""The programs that `benchmarks.study` compares: `python -m benchmarks.contenders NAME SETTING`.

Each prints its outcome as JSON in its last line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.study import Setting, images_of

SEARCH = {
    "regularization.dropout": {"type": "float", "low": 0.0, "high": 0.7},
    "training.optimizer.weight_decay": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "training.optimizer.learning_rate": {"type": "float", "low": 3e-4, "high": 1e-2, "log": True},
}
STARTUP_TRIALS, WARMUP_EPOCHS = 3, 1
BATCH_SIZE = 128


def regsearch(setting: Setting) -> tuple[int, float]:
    """The command, on a space file."""
    import subprocess

    import optuna
    import yaml

    space = {
        "study": {
            "name": "bench",
            "trials": setting.trials,
            "seed": setting.seed,
            "sampler": {"kind": "tpe", "startup_trials": 5},
            "pruner": {
                "kind": "median",
                "startup_trials": STARTUP_TRIALS,
                "warmup_epochs": WARMUP_EPOCHS,
            },
        },
        "data": images_of(setting, os.environ["BENCH_CACHE"]).model_dump(exclude_unset=True)
        | {"kind": "image_folder"},
        "model": {"kind": "vgg", "width": setting.width},
        "training": {"epochs": setting.epochs, "batch_size": BATCH_SIZE},
        "lr_schedule": {"kind": "constant"},
        "augmentation": {"strength": 1.0},
        "finalists": {"count": 0},  # nobody else trains any again
        "search": SEARCH,
    }
    Path("space.yaml").write_text(yaml.safe_dump(space, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "run", "space.yaml", "--device", "cpu"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    study = optuna.load_study(study_name="bench", storage="sqlite:///mlruns/optuna.db")
    epochs = sum(len(trial.intermediate_values) for trial in study.get_trials())
    return epochs, float(study.best_value)


def optuna_mlflow(setting: Setting) -> tuple[int, float]:
    """Optuna's PyTorch example with MLflow's nested runs."""
    import mlflow
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_experiment("bench")
    train = _training(setting, num_workers=2)
    num_epochs = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal num_epochs
        drawn = {
            "dropout": trial.suggest_float("dropout", 0.0, 0.7),
            "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        }
        best = 0.0
        with mlflow.start_run(nested=True):
            mlflow.log_params(drawn)
            for epoch, metrics in enumerate(train(drawn, trial.number), start=1):
                num_epochs += 1
                mlflow.log_metrics(metrics, step=epoch)
                trial.report(metrics["accuracy"], epoch)
                best = max(best, metrics["accuracy"])
                if trial.should_prune():
                    raise optuna.TrialPruned
        return best

    study = optuna.create_study(
        direction="maximize",
        storage="sqlite:///optuna.db",
        sampler=optuna.samplers.TPESampler(seed=setting.seed, n_startup_trials=5),
        pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_EPOCHS),
    )
    with mlflow.start_run():
        study.optimize(objective, n_trials=setting.trials)
    return num_epochs, float(study.best_value)


def ray_tune(setting: Setting) -> tuple[int, float]:
    """Ray Tune with Optuna's sampler and its own median rule, a trial a core."""
    from ray import tune
    from ray.tune.schedulers import MedianStoppingRule
    from ray.tune.search.optuna import OptunaSearch

    def trainable(drawn: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        best = 0.0
        train = _training(setting, num_workers=1)
        for metrics in train({k: v for k, v in drawn.items() if k != "seed"}, setting.seed):
            best = max(best, metrics["accuracy"])
            tune.report({**metrics, "best": best})

    space = {
        "dropout": tune.uniform(0.0, 0.7),
        "weight_decay": tune.loguniform(1e-5, 1e-1),
        "learning_rate": tune.loguniform(3e-4, 1e-2),
    }
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=setting.trials,
            search_alg=OptunaSearch(seed=setting.seed),
            scheduler=MedianStoppingRule(
                grace_period=WARMUP_EPOCHS, min_samples_required=STARTUP_TRIALS
            ),
        ),
        run_config=tune.RunConfig(storage_path=str(Path.cwd()), verbose=0),
    )
    fitted = tuner.fit()
    results: list[Any] = [fitted[index] for index in range(len(fitted))]
    metrics = [result.metrics or {} for result in results]
    epochs = sum(int(told["training_iteration"]) for told in metrics)
    return epochs, max(float(told["best"]) for told in metrics)


Train = Callable[[dict[str, float], int], Iterator[dict[str, float]]]


def _training(setting: Setting, num_workers: int) -> Train:
    """The tutorials' loop on the images that the others see: metrics, epoch by epoch."""
    import torch

    from benchmarks.cases import AUGMENTATIONS, Case
    from benchmarks.loops import net_of, pil_loader, tutorial_epochs
    from pipeline.datasets import load_splits

    splits = load_splits(images_of(setting, os.environ["BENCH_CACHE"]), setting.seed)
    case = Case(setting.width, list(AUGMENTATIONS)[-1], BATCH_SIZE)

    def train(drawn: dict[str, float], trial: int) -> Iterator[dict[str, float]]:
        net = net_of(case, splits, seed=trial, dropout=drawn["dropout"])
        optimizer = torch.optim.AdamW(
            net.parameters(), drawn["learning_rate"], weight_decay=drawn["weight_decay"]
        )
        loader = pil_loader(case, splits, num_workers=num_workers)
        for seconds, accuracy in tutorial_epochs(net, loader, splits, optimizer, setting.epochs):
            yield {"accuracy": accuracy, "epoch_sec": seconds}

    return train


PROGRAMS: dict[str, Callable[[Setting], tuple[int, float]]] = {
    "regsearch": regsearch,
    "optuna_mlflow": optuna_mlflow,
    "ray_tune": ray_tune,
}

if __name__ == "__main__":
    epochs, best = PROGRAMS[sys.argv[1]](Setting(**json.loads(sys.argv[2])))
    print(json.dumps({"epochs": epochs, "best": best}), flush=True)
