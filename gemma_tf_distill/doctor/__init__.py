"""What this machine has, and whether the default demo can run on it: `gemma-distill doctor`.

Nothing is downloaded and no host is asked.
"""

import dataclasses
import json
import sys

from gemma_tf_distill.doctor import machine, packages, probe, weights
from gemma_tf_distill.doctor.finding import NOTE, OK, PROBLEM, Finding

__all__ = ["NOTE", "OK", "PROBLEM", "Finding", "findings", "main", "table"]


def main(as_json: bool) -> int:
    """Looks at everything and prints it, as a table or as one JSON object `{"ok", "findings"}`.

    Returns:
      0 if the default demo can run here, 1 if not.
    """
    if not as_json:
        print("Looking at this machine; starting TensorFlow takes some seconds.", file=sys.stderr, flush=True)
    found = findings()
    problems = [finding for finding in found if finding.state == PROBLEM]
    if as_json:
        print(json.dumps({"ok": not problems, "findings": [dataclasses.asdict(finding) for finding in found]}, indent=2))
    else:
        print(table(found))
    return 1 if problems else 0


def findings() -> list[Finding]:
    """All rows, in the order of the table."""
    seen = probe.tensorflow_view()
    return [
        *machine.machine(),
        *packages.packages(),
        *machine.compiled_parts(),
        *machine.devices(seen),
        *weights.weights_package(),
        *weights.presets(seen),
        *machine.folders(seen),
    ]


def table(found: list[Finding]) -> str:
    """The findings as text for a person, with what stands in the way of the demo at the end."""
    rows = [(finding.section, (finding.state, finding.name, finding.found, _remark(finding))) for finding in found]
    # Only where a remark follows must its neighbour be padded, so that one long entry does not push all remarks off the screen.
    widths = [max((len(cells[i]) for _, cells in rows if cells[i + 1]), default=0) for i in range(3)]
    lines: list[str] = []
    section = ""
    for heading, cells in rows:
        if heading != section:
            section = heading
            lines += ["", section]
        padded = [text.ljust(width) for text, width in zip(cells[:3], widths, strict=True)]
        lines.append("  ".join(["", *padded, cells[3]]).rstrip())
    problems = [finding for finding in found if finding.state == PROBLEM]
    if problems:
        lines += ["", "The default demo cannot run here:"]
        lines += [f"  {p.name}: {p.found}" + (f" (wanted: {p.wanted})" if p.wanted else "") + f": {p.advice}" for p in problems]
    else:
        lines += ["", "The default demo can run here: gemma-distill run demo"]
    return "\n".join(lines[1:])


def _remark(finding: Finding) -> str:
    wanted = f"wanted: {finding.wanted}" if finding.wanted else ""
    # The advice for problems stands at the end of the table.
    return "; ".join(filter(None, (wanted, finding.advice if finding.state == NOTE else "")))
