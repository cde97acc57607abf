"""What a benchmark found: timings in one table, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

OURS = "refgss"
MEMORY = f"{OURS}, reading memory"


@dataclass(frozen=True)
class Timing:
    """Seconds for one unit of work.  spread: from the lower to the upper quartile.

    error: largest |y - exact| over the largest |exact|, nan where nothing is compared.
    bytes: what a unit must read and write at least; 0 where that is not asked.
    """

    contender: str
    median: float
    minimum: float
    spread: float
    error: float
    bytes: float = 0

    @property
    def speed(self) -> float:
        """Bytes a second."""
        return self.bytes / self.median


@dataclass(frozen=True)
class Row:
    """One size of a work: who took how long."""

    sizes: dict[str, Any]
    timings: tuple[Timing, ...]

    def of(self, contender: str) -> Timing:
        return next(t for t in self.timings if t.contender == contender)

    @property
    def fastest_rival(self) -> Timing | None:
        rivals = [t for t in self.timings if not t.contender.startswith(OURS)]
        return min(rivals, key=lambda t: t.median, default=None)

    @property
    def memory_speed(self) -> float:
        """Bytes a second of the one that does nothing but read; 0 where there is none."""
        return max((t.speed for t in self.timings if t.contender == MEMORY), default=0.0)

    def ratio(self, contender: str) -> float:
        """How many times faster than the fastest rival, by medians."""
        rival = self.fastest_rival
        return float("nan") if rival is None else rival.median / self.of(contender).median


@dataclass(frozen=True)
class Report:
    """All sizes of one work, and where and with what they were timed."""

    work: str
    threads: int
    environment: dict[str, Any]
    rows: tuple[Row, ...]

    def json(self) -> str:
        rows = [
            asdict(row) | {"ratio": {t.contender: row.ratio(t.contender) for t in row.timings}}
            for row in self.rows
        ]
        head = {"work": self.work, "threads": self.threads, "environment": self.environment}
        return json.dumps(head | {"rows": rows}, indent=1)

    def table(self) -> str:
        """Plain text; milliseconds; × is the fastest rival's median over this one's.

        Where memory is the limit: bytes a second, and their share of what mere reading gets.
        """
        e = self.environment
        lines = [
            f"{self.work}, float32, {self.threads} thread{'s' * (self.threads > 1)}, "
            f"{e['processor']}, {e['simd']}; " + ", ".join(e["versions"].values())
        ]
        if e["variables"]:
            lines.append("  with " + " ".join(f"{k}={v}" for k, v in e["variables"].items()))
        lines.append(
            f"  {'':34} {'median':>10} {'minimum':>10} {'spread':>9} {'×':>6} {'error':>9}"
        )
        for row in self.rows:
            lines.append("  " + " ".join(f"{k}={v}" for k, v in row.sizes.items()))
            for t in sorted(row.timings, key=lambda t: t.median):
                line = (
                    f"    {t.contender:32} {t.median * 1e3:10.3f} {t.minimum * 1e3:10.3f} "
                    f"{t.spread * 1e3:9.3f} {row.ratio(t.contender):6.2f} {t.error:9.1e}"
                )
                if t.bytes:
                    line += f" {t.speed / 1e9:6.1f} GB/s {t.speed / row.memory_speed:5.0%}"
                lines.append(line)
        return "\n".join(lines)


def report_from(answer: dict[str, Any]) -> Report:
    """The inverse of the process's JSON."""
    rows = tuple(
        Row(row["sizes"], tuple(Timing(**t) for t in row["timings"])) for row in answer["rows"]
    )
    return Report(answer["work"], answer["threads"], answer["environment"], rows)
