"""What a benchmark found: rows that carry the check they passed, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.rounds import Spread


@dataclass(frozen=True)
class Row:
    """One kind of work.

    Attributes:
        section: of the page.
        name: what was done, with its sizes.
        unit: of ``value``, for example pictures/s.
        value: over the rounds.
        check: which outputs were equal, and how nearly, before anything was timed. Without one there is no row.
        ratios: how many times as fast as others, round by round: by their names.
        share: of the machine's matrix rate in the same precision, round by round; None where it says nothing.
        peak_mib: largest resident set; None where it was not measured.
        note: what takes the time, or what else has to be known.

    Raises:
        ValueError: there is no check.
    """

    section: str
    name: str
    unit: str
    value: Spread
    check: str
    ratios: Mapping[str, Spread] = field(default_factory=dict)
    share: Spread | None = None
    peak_mib: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.check:
            raise ValueError(f"{self.section}, {self.name}: a result without a check is not shown.")

    @property
    def key(self) -> str:
        """What the row is called in comparisons."""
        return f"{self.section}: {self.name}"


@dataclass(frozen=True)
class Results:
    """All rows of a run.

    Attributes:
        machine: what it ran on: hardware, versions, threads.
        settings: sizes and rounds; only results with equal ones can be compared.
        rows: in the order of the page.
        minutes: that it took.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    minutes: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "minutes": round(self.minutes, 1),
            "rows": [_rounded(asdict(row)) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Results:
        """What :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError: something is missing.
        """
        rows = []
        for each in content["rows"]:
            ratios = {name: Spread(**spread) for name, spread in each["ratios"].items()}
            share = None if each["share"] is None else Spread(**each["share"])
            rows.append(Row(**(each | {"value": Spread(**each["value"]), "ratios": ratios, "share": share})))
        return cls(content["machine"], content["settings"], tuple(rows), content["minutes"])

    def page(self, title: str, how: str) -> str:
        """As Markdown: one table a section, with the checks below it."""
        parts = [f"# {title}\n", f"{how}\n", _facts("Machine", self.machine), _facts("Settings", self.settings)]
        for section in dict.fromkeys(row.section for row in self.rows):
            rows = [row for row in self.rows if row.section == section]
            parts.append(f"## {section}\n\n{_table(rows)}\n{_checks(rows)}")
        return "\n".join(parts)


@dataclass(frozen=True)
class Regression:
    """A ratio that fell: median before and now."""

    key: str
    beside: str
    before: float
    now: float

    def __str__(self) -> str:
        change = 100 * (self.now / self.before - 1)
        return f"{self.key}, times {self.beside}: {self.before:.2f} before, {self.now:.2f} now ({change:+.0f} %)"


def regressions(before: Results, now: Results, most: float = 0.15) -> list[Regression]:
    """The ratios of rows that both have which fell by more than a share of ``most``; times themselves do not count."""
    known = {row.key: row for row in before.rows}
    found = []
    for row in now.rows:
        earlier = known[row.key].ratios if row.key in known else {}
        for beside, ratio in row.ratios.items():
            if beside in earlier and ratio.median < (1 - most) * earlier[beside].median:
                found.append(Regression(row.key, beside, earlier[beside].median, ratio.median))
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _facts(name: str, facts: Mapping[str, Any]) -> str:
    return f"{name}: {', '.join(f'{key} {value}' for key, value in facts.items())}.\n"


def _table(rows: Sequence[Row]) -> str:
    peers = list(dict.fromkeys(beside for row in rows for beside in row.ratios))
    header = ["what", "median (lowest to highest)", *(f"times {peer}" for peer in peers)]
    shared, remembered = any(row.share for row in rows), any(row.peak_mib for row in rows)
    header += ["share of the matrix rate"] * shared + ["peak MiB"] * remembered + ["note"] * any(r.note for r in rows)
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [row.name, f"{_short(row.value)} {row.unit}"]
        cells += [_short(row.ratios[peer]) if peer in row.ratios else "" for peer in peers]
        cells += ["" if row.share is None else f"{100 * row.share.median:.0f} %"] * shared
        cells += ["" if row.peak_mib is None else f"{row.peak_mib:,}"] * remembered
        lines.append(cells + [row.note] * ("note" in header))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _short(spread: Spread) -> str:
    return f"{spread.median:.3g} ({spread.low:.3g} to {spread.high:.3g})"


def _checks(rows: Iterable[Row]) -> str:
    return "".join(f"- {check}\n" for check in dict.fromkeys(f"Checked first: {row.check}" for row in rows))
