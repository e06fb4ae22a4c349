"""The verdict's operating curve: `python -m tests.faults.curve FOLDER...` judges every artifact with a receipt there.

Faults are planted into each, the verdict says how much of what is allowed each is off, and docs/verdict.json keeps it.
`python -m docs.verdict` makes the page of that.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import sys
import tempfile
from pathlib import Path

import msgspec

from docs.verdict import DECISION, FIGURES, Artifact, Fault, read_figures
from hub.spec import Receipt
from tests.faults.alarms import feeds_of, receipts_in
from tests.faults.score import Bench, sites_of

SAMPLES = 32


def score(artifact: Path, receipt: Receipt) -> Artifact:
    """Plant faults into one artifact."""
    state = receipt.result.state
    receipt = msgspec.structs.replace(receipt, result=msgspec.structs.replace(receipt.result, path=str(artifact)))
    with tempfile.TemporaryDirectory() as folder:
        opened = Bench(receipt, feeds_of(receipt, SAMPLES), Path(folder))
        every = opened.score(sites_of(state.format, artifact), 1)
    layers = max(opened.sound.excess, 1.001 if opened.sound.failed else 0.0)
    return Artifact(
        model=artifact.parent.name,
        backend=artifact.name.partition(".")[0],
        precision=state.numerics.value,
        outputs=round(opened.sound_excess, 3),
        layers=round(layers, 3),
        compared=f"{opened.sound.layers}/{opened.sound.of}",
        equivalents=sum(bool(item.equivalence) for item in every),
        faults=tuple(
            Fault(kind=item.mutant.kind, outputs=round(item.outputs, 3), layers=round(item.layers, 3), told=item.told)
            for item in every
            if not item.equivalence
        ),
        decision=DECISION,
    )


def main() -> None:
    """Score, and keep what is known of other artifacts."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(score, *item): item[0] for item in receipts_in(sys.argv[1:])}
        for done in concurrent.futures.as_completed(waiting):
            try:
                found = done.result()
            except Exception as error:  # noqa: BLE001 said, and the others go on
                print(f"ERROR {waiting[done]}: {error!r}", flush=True)  # noqa: T201 a program for people
                continue
            kept = {item.key: item for item in read_figures()} | {found.key: found}
            content = msgspec.json.encode([kept[key] for key in sorted(kept)])
            FIGURES.write_bytes(msgspec.json.format(content, indent=0) + b"\n")
            missed = [item.kind for item in found.faults if not item.caught()]
            print(waiting[done], len(found.faults), "missed:", ", ".join(missed) or "none", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
