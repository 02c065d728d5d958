"""`regsearch report`: one HTML file with all that a study has to tell, and nothing to load."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from pipeline.errors import UserError
from pipeline.report.advice import advice_section
from pipeline.report.evidence import Evidence, gather
from pipeline.report.page import Section
from pipeline.report.sections.ablation import ablation_section
from pipeline.report.sections.champion import champion_section
from pipeline.report.sections.finalists import finalists_section, weights_section
from pipeline.report.sections.head import head_section
from pipeline.report.sections.search import search_section
from pipeline.report.sections.tradeoff import trade_off_section
from pipeline.report.sections.transfer import transfer_section
from pipeline.report.sections.trials import audit_section, trials_section
from pipeline.report.sections.work import readings_section, timeline_section
from pipeline.report.sources import log_report
from pipeline.status import open_ledgers

SECTIONS: tuple[Callable[[Evidence], Section | None], ...] = (
    head_section,
    advice_section,
    finalists_section,
    trade_off_section,
    champion_section,
    ablation_section,
    transfer_section,
    search_section,
    audit_section,
    trials_section,
    weights_section,
    timeline_section,
    readings_section,
)
"""In the order of what one wants to know. None: there is nothing to ask of such a study."""


@dataclass(frozen=True)
class Written:
    """A report that was written; `not_logged` says why MLflow doesn't have it, else it is empty."""

    path: Path
    not_logged: str


def write_report(storage: str, study: str, path: Path | None = None) -> Written:
    """Write a study's report, and log it on its run in MLflow.

    Args:
        path: where to; `STUDY.report.html` without it.

    Raises:
        UserError: there is no such store or study, or the file can't be written.
    """
    [ledger] = open_ledgers(storage, study)
    evidence = gather(ledger)
    html = render(evidence)
    path = path or Path(f"{study}.report.html")
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror}",
            where="--out",
            rule="a file in a folder that is there",
            cure="name another file",
        ) from None
    return Written(path, log_report(evidence.sources, html))


def render(evidence: Evidence) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = _with_code
    environment.filters["with_short_ids"] = _with_short_ids
    template = environment.get_template("report.html.j2")
    return template.render(
        study=evidence.ledger.config.study.name,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        sections=[section for make in SECTIONS if (section := make(evidence))],
        plotly_js=Markup(get_plotlyjs()),
        as_script=Markup,
    )


def _with_code(text: str) -> Markup:
    """What is in backquotes set as code, all of it escaped first."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _with_short_ids(text: str) -> Markup:
    """The ids of runs by their first eight digits; the rest shows under the mouse, by a click or a
    tap, and on paper."""
    return Markup(
        re.sub(
            r"\b([0-9a-f]{8})([0-9a-f]{24})\b",
            r'<span class="id" tabindex="-1" title="\1\2">\1<span>\2</span></span>',
            str(escape(text)),
        )
    )
