"""Moving averages of what models are measured to do, in whole numbers and within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentcom.core.measures import MS_MAX, WEIGHT, add_answer, averaged
from agentcom.model import ModelMeasure


def test_the_first_samples_are_a_plain_mean() -> None:
    value = 0
    for n, sample in enumerate((10, 20, 30, 40)):
        value = averaged(value, n, sample)
    assert value == 25


def test_later_samples_count_an_eighth() -> None:
    assert averaged(800, 100, 1600) == 900
    assert averaged(800, 100, 0) == 700


@given(st.integers(0, MS_MAX), st.integers(0, 100), st.integers(0, MS_MAX))
def test_an_average_lies_between_what_it_was_and_what_came(before: int, samples: int, value: int) -> None:
    assert min(before, value) <= averaged(before, samples, value) <= max(before, value)


@given(st.integers(0, 10**9))
def test_an_average_of_equal_samples_does_not_creep(value: int) -> None:
    found = 0
    for n in range(3 * WEIGHT):
        found = averaged(found, n, value)
    assert found == value


def test_an_answer_gives_rate_and_first_byte_and_a_load_only_where_one_was() -> None:
    measure = ModelMeasure()
    durations = {"generate": 2_000, "first_byte": 150, "load": 4_000}
    add_answer(measure, 100, durations, is_cold=False)
    assert (measure.tokens_per_ks, measure.first_byte_ms, measure.load_samples) == (50_000, 150, 0)
    add_answer(measure, 100, durations, is_cold=True)
    assert (measure.load_ms, measure.load_samples, measure.rate_samples) == (4_000, 1, 2)


def test_figures_that_make_no_sense_teach_nothing() -> None:
    measure = ModelMeasure()
    for durations in ({}, {"generate": -5, "first_byte": 0, "load": 2**62}, {"generate": 2**80, "load": -1}):
        add_answer(measure, 100, durations, is_cold=True)
    add_answer(measure, 2**62, {"generate": 100}, is_cold=True)
    add_answer(measure, 0, {"generate": 100}, is_cold=True)
    assert measure == ModelMeasure()
