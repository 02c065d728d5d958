"""A folder that was renamed, moved or copied: MLflow's own paths follow.

MLflow keeps the absolute path of every artifact in its database, also where database and artifacts
lie in one folder. In a folder that has been moved it finds none of them, and in a copy it reads and
writes the original's.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sql

_COLUMNS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
_FILE = "file://"


def follow(file: Path) -> None:
    """Have the paths of a SQLite database lead to the artifacts beside it.

    That is done for the folder of an experiment that is there, beside the database, while it is not
    where the database says, or is there with the database that this one is a copy of.

    Args:
        file: the database; that of another program, or none yet, stays as it is.
    """
    engine = sql.create_engine(sql.URL.create("sqlite", database=str(file)))
    try:
        with engine.begin() as connection:
            tables = {*sql.inspect(connection).get_table_names()}
            if not tables >= _COLUMNS.keys():
                return
            rows = connection.execute(sql.text("SELECT artifact_location FROM experiments"))
            found = {old for (location,) in rows if (old := _moved_from(str(location), file))}
            for old in found:
                _rewrite(connection, old / "mlruns", file.resolve().parent / "mlruns")
    finally:
        engine.dispose()


def _moved_from(location: str, file: Path) -> Path | None:
    """The folder of which an experiment's artifacts were moved, or copied, with the database."""
    path, new = Path(location.removeprefix(_FILE)), file.resolve().parent
    old = path.parent.parent
    if path.parent.name != "mlruns" or not path.is_absolute() or old == new:
        return None
    here = new / "mlruns" / path.name
    is_copy = path.is_dir() and (old / file.name).exists()
    return old if here.is_dir() and (is_copy or not path.exists()) else None


def _rewrite(connection: sql.Connection, old: Path, new: Path) -> None:
    for table, column in _COLUMNS.items():
        for scheme in ("", _FILE):
            statement = sql.text(
                f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                f"WHERE substr({column}, 1, length(:old)) = :old"
            )
            connection.execute(statement, {"old": f"{scheme}{old}/", "new": f"{scheme}{new}/"})
