"""`regsearch sync`: MLflow brought up to date from the journal and the store, and the champion."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field

import torch
from optuna.trial import TrialState

from pipeline.calibration import as_trained, measured_for
from pipeline.datasets import load_splits
from pipeline.final import crown
from pipeline.finalists import KIND
from pipeline.journal import JournalWriter, journal_folder
from pipeline.mirroring import agree, deliver, open_mirror
from pipeline.progress import View
from pipeline.registration import Registrar, Registration
from pipeline.retold import retell
from pipeline.status import open_ledgers
from pipeline.study.followup import REFIT, FollowUp, open_followups
from pipeline.study.ledger import Ledger
from pipeline.tracking import Finding, Mirror
from pipeline.tracking import Report as DeliveryReport
from pipeline.training.data import DeviceData

TIMEOUT_SEC = 600.0


@dataclass(frozen=True)
class Synced:
    """What came of one study.

    Attributes:
        delivery: what MLflow has not taken of the journal.
        findings: what was not as the store has it.
        registered: what is in the registry, of a study that nobody works on.
    """

    study: str
    delivery: DeliveryReport
    findings: list[Finding] = field(default_factory=list)
    registered: list[Registration] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether MLflow has it all."""
        mended = all(finding.fixed for finding in self.findings)
        return self.delivery.complete and mended and not any(r.problem for r in self.registered)


def sync_studies(storage: str, study: str | None, view: View) -> list[Synced]:
    """Deliver the journal of one study of a store, or of all, and mend what differs.

    Raises:
        UserError: there is no such store or study, or MLflow does not answer.
    """
    return [_sync(ledger, view) for ledger in open_ledgers(storage, study)]


def _sync(ledger: Ledger, view: View) -> Synced:
    name = ledger.config.study.name
    view.note(f"{name}: delivering its journal")
    mirror = open_mirror(ledger)
    try:
        with closing(JournalWriter(journal_folder(ledger.uuid))) as journal:
            retell(ledger, journal)
        deliver(mirror, TIMEOUT_SEC)
        findings = agree(ledger, mirror)
        followups = open_followups(ledger)
        for followup in followups:
            findings += _sync_followup(followup, mirror, view)
        registered: list[Registration] = []
        if ledger.trials(TrialState.COMPLETE) and not ledger.trials(TrialState.RUNNING):
            view.note(f"{name}: registering its champion and baselines")
            finalists, refit = (
                next((f for f in followups if f.kind == kind), None) for kind in (KIND, REFIT)
            )
            registered = crown(registrar(ledger, view), finalists, refit, mirror).registered
    finally:
        delivery = mirror.close()
    return Synced(name, delivery, findings, registered)


def _sync_followup(followup: FollowUp, parent: Mirror, view: View) -> list[Finding]:
    """A follow-up delivered, and made to agree; what was not so, or did not get through."""
    view.note(f"{followup.study_name}: delivering its journal")
    mirror = open_mirror(followup, parent)
    try:
        deliver(mirror, TIMEOUT_SEC)
        findings = agree(followup, mirror)
    finally:
        report = mirror.close()
    findings += [Finding(f"refused: {text}", False) for text in report.refused]
    if report.num_pending:
        reason = report.last_error or "it was too slow"
        findings.append(Finding(f"{report.num_pending} events still wait: {reason}", False))
    return [Finding(f"{followup.kind}: {found.text}", found.fixed) for found in findings]


def registrar(ledger: Ledger, view: View) -> Registrar:
    """What registers the finalists of a study that is read from its store."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = as_trained(ledger.config, measured_for(ledger.study.user_attrs, device.type))
    splits = load_splits(config.data, config.study.seed, view.loading)
    ledger.require_same_data(splits.digest)
    data = DeviceData.from_splits(splits, device, config.study.seed)
    return Registrar(config, ledger, data, splits)
