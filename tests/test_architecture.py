"""The house keeps its order: imports run downward only, and heavy ones only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline"

LAYERS = [
    {"errors", "interrupts", "places", "memory", "kernels"},
    {"settings", "seeding", "statistics", "secrecy", "study/trial_seeded", "study/owner"},
    {"words", "events", "state_file", "update_rules"},
    {"standing"},
    {"datasets", "lr_schedules", "augmentation", "regularizers", "optimizers"},
    {"models", "journal", "state_store"},
    {"answers", "finalist_settings", "training", "presence", "checkpoints", "weights", "diagnosis"},
    {"study/samplers", "study/pruners", "study/patience", "study/audit", "study/carried"},
    {"study/patient_storage"},
    {"study/book_store"},
    {"study/store"},
    {"study"},
    {"config"},
    {"tracking", "study/storage", "study/spec", "study/baselines", "study/constraints", "progress"},
    {"study/claim"},
    {"study/trials"},
    {"study/ledger"},
    {"study/followup"},
    {"calibration", "exported_model", "study/record", "judging"},
    {"study/warm_start", "diagnosed", "trainers"},
    {"analysis"},
    {"registry", "finalists", "readings"},
    {"decision"},
    {"ablation_design"},
    {"ablation", "transfer", "tradeoff", "retold", "report/curves"},
    {"report/figures"},
    {"trial", "mirroring", "refit", "nets"},
    {"champion"},
    {"scoring", "champion_record"},
    {"evaluation", "workers", "registration"},
    {"coordinator", "recorded_trial"},
    {"workforce"},
    {"followups"},
    {"final"},
    {"outcome"},
    {"status", "search", "revisit"},
    {"sync", "doctor", "reproduction"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def place(module: str) -> str:
    """`pipeline.study.ledger` -> `study/ledger`; `pipeline.models.vgg` -> `models`."""
    parts = module.split(".")[1:]
    nested = "/".join(parts[:2])
    return nested if nested in RANK else parts[0]


def imports(path: Path) -> set[str]:
    """The project's modules that a file imports, wherever in the file."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
            names = {alias.name for alias in node.names} - {"__version__"}
            found |= {f"pipeline.{name}" for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("pipeline.")}
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    own = place(module_name(path))
    for imported in imports(path):
        other = place(imported)
        assert own == other or RANK[own] > RANK[other], f"{own} imports {other}"


def test_training_knows_neither_optuna_nor_mlflow() -> None:
    for path in [*(PACKAGE / "training").glob("*.py"), PACKAGE / "state_file.py"]:
        assert "optuna" not in path.read_text()
        assert "mlflow" not in path.read_text()


def test_a_worker_does_not_wait_for_mlflow() -> None:
    """It takes seconds to import, and workers have nothing to say to it."""
    names = "worker", "trial", "journal", "study.ledger", "study.storage", "checkpoints", "weights"
    modules = ", ".join(
        f"pipeline.{n}" if n != "worker" else "pipeline.workers.worker" for n in names
    )
    code = f"import sys, {modules}; print('mlflow' in sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "False"


def imported(statement: str, modules: set[str]) -> str:
    """Which of the modules a fresh process has loaded after a statement."""
    code = f"import sys; {statement}; print(sorted({modules} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    return done.stdout.strip()


def test_the_help_page_needs_no_settings() -> None:
    assert imported("import pipeline.cli", {"pydantic", "numpy", "yaml", "torch"}) == "[]"


def test_the_status_of_studies_needs_neither_torch_nor_mlflow() -> None:
    """They take three seconds to import; the status is in the study's store and on the disk."""
    statement = "import pipeline.status, pipeline.report.status"
    assert imported(statement, {"torch", "torchvision", "mlflow", "plotly"}) == "[]"


@pytest.mark.parametrize(
    "statement",
    [
        "import pipeline.cli",
        "from pathlib import Path; from pipeline.config.space_file import load_space; "
        "load_space(Path('search_spaces/digits.yaml'))",
    ],
)
def test_reading_a_space_file_imports_nothing_heavy(statement: str) -> None:
    assert (
        imported(
            statement, {"torch", "torchvision", "mlflow", "optuna", "sklearn", "plotly", "jinja2"}
        )
        == "[]"
    )
