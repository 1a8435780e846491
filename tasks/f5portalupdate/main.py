"""Entry point: extract, transform, load for one customer."""

import os
from pathlib import Path

from .report import emit, progress
from .steps.extract import SAMPLES, extract
from .steps.load import load
from .steps.transform import transform

DEFAULT_PORTAL_DB = Path("data") / "f5_portal.db"
STEPS = 3


def run(customer_id: int, full_rebuild: bool = False) -> dict[str, int]:
    """Update the portal's devices of one customer from its export, in one transaction.

    Only devices that are new, changed or gone are written; with `full_rebuild` every device of the customer is
    written anew. Returns `{"updated_rows", "customer_id"}`: a second run on the same export updates 0 rows.
    """
    if customer_id < 1:
        raise ValueError(f"customer_id must be 1 or more, not {customer_id}")
    source = os.environ.get("F5_SOURCE") or str(SAMPLES)
    database = Path(os.environ.get("F5_PORTAL_DB") or DEFAULT_PORTAL_DB)

    progress(0, STEPS)
    text = extract(source, customer_id)
    progress(1, STEPS)
    export = transform(text, f"the export of customer {customer_id}")
    for rejected in export.rejected:
        print(f"line {rejected.line}: {rejected.reason}")
    print(f"customer {customer_id}: {len(export.devices)} devices read, {len(export.rejected)} rows rejected")
    emit("rows_rejected", count=len(export.rejected))
    progress(2, STEPS)
    changes = load(database, customer_id, export, full_rebuild=full_rebuild)
    print(f"customer {customer_id}: {changes.written} devices written, {changes.removed} marked as removed")
    emit("devices_updated", written=changes.written, removed=changes.removed)
    progress(3, STEPS)
    return {"updated_rows": changes.total, "customer_id": customer_id}
