"""The figures that the project has set itself, beside what a run measured."""

from __future__ import annotations

from typing import TypedDict


class Goal(TypedDict):
    """`bound` is a floor or a ceiling, as `goal` says; `holds`: whether `measured` is on its right side."""

    goal: str
    measured: float
    bound: float
    holds: bool


def at_least(goal: str, measured: float, bound: float) -> Goal:
    return Goal(goal=goal, measured=measured, bound=bound, holds=measured >= bound)


def at_most(goal: str, measured: float, bound: float) -> Goal:
    return Goal(goal=goal, measured=measured, bound=bound, holds=measured <= bound)


def told(goals: list[Goal]) -> str:
    """A line for each."""
    return "\n".join(
        f"{goal['goal']}: {goal['measured']:g}, wanted {goal['bound']:g}{'' if goal['holds'] else ': MISSED'}"
        for goal in goals
    )
