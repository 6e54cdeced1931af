"""The tables and curves of `prompt-das reproduce` as Markdown."""

from __future__ import annotations

from typing import Any

from prompt_das.evaluation.clicks import USERS

from tabulate import tabulate

METRICS = ("Dice", "AJI", "PQ")
EFFECTS_SHOWN = ("missed", "appeared %", "others appeared %", "wrong", "gone %", "changed elsewhere %")


def click_tables(clicks: dict[str, dict[str, Any]]) -> str:
    """Markdown of the curves against clicks and of the effects of single clicks, by model."""
    rows = [
        [number, *(f"{one['curves'][user][number][score]:.1f}" for one in clicks.values() for score in ("Dice", "PQ"))]
        for user in USERS
        for number in next(iter(clicks.values()))["curves"][user]
    ]
    heads = ["clicks a slice", *(f"{model}: {score}" for model in clicks for score in ("Dice", "PQ"))]
    length = len(rows) // len(USERS)
    parts = [
        f"### Clicks of a {user} user\n\n" + tabulate(rows[i * length : (i + 1) * length], heads, tablefmt="github")
        for i, user in enumerate(USERS)
    ]
    effects = [[name, *(one["effects"][name] for one in clicks.values())] for name in EFFECTS_SHOWN]
    head = ["", *clicks]
    return "\n\n".join(
        [*parts, "### One click\n\n" + tabulate(effects, head, tablefmt="github", floatfmt=".1f", missingval="-")]
    )


def to_markdown(title: str, table: list[dict[str, Any]]) -> str:
    def spread(row: dict[str, Any], metric: str) -> str:
        values = row[f"{metric} per seed"]
        half = (max(values) - min(values)) / 2
        return f"{row[metric]:.1f}" + (f" ± {half:.1f}" if len(values) > 1 else "")

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.0f} %"

    body = [
        [
            row["row"],
            *(spread(row, metric) for metric in METRICS),
            percent(row["gap closed"]),
            percent(row["prompt response"]),
            " / ".join(f"{m:.0f}" for m in row["minutes per seed"]),
        ]
        for row in table
    ]
    head = ["", *METRICS, "gap closed", "prompt response", "minutes"]
    return f"### {title}\n\n" + tabulate(body, head, tablefmt="github", disable_numparse=True)
