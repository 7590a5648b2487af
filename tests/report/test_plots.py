"""Scales, and drawings that every reader of SVG can parse."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_tf_distill.report.plots import HEIGHT, SHAPES, WIDTH, Axis, Point, Series, lines, scatter
from gemma_tf_distill.report.scales import Scale
from gemma_tf_distill.report.training import thinned

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(1e-6, 1e12)


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), log_from=st.sampled_from([3.0, float("inf")]))
def test_everything_lies_between_the_ends_and_in_order(values, log_from):
    scale = Scale.of(values, 300, 20, log_from=log_from)
    places = [scale(value) for value in sorted(values)]
    assert all(20 <= place <= 300 for place in places)
    assert places == sorted(places, reverse=True)
    ticks = scale.ticks()
    assert ticks == sorted(set(ticks))
    assert all(20 - 1e-6 <= scale(tick) <= 300 + 1e-6 for tick in ticks)
    assert 1 <= len(ticks) <= 12


def test_ticks_are_round():
    assert Scale(0, 10, 0, 1).ticks() == [0, 2, 4, 6, 8, 10]
    assert Scale(2, 700, 0, 1, log=True).ticks() == [3, 10, 30, 100, 300]
    assert Scale(0.4, 4, 0, 1, log=True).ticks() == pytest.approx([0.5, 1, 2])


@given(points=st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from(sorted(SHAPES)), st.text(max_size=12)), min_size=1, max_size=12))
def test_a_scatter_plot_is_well_formed_and_says_what_it_shows(points):
    made = [Point(x=x, y=y, kind=kind, label=label, tip=f"tip {label}") for x, y, kind, label in points]
    axis = Axis(label="bytes & more", log_from=8)
    root = ElementTree.fromstring(scatter("key", "A <title>", "What is in it", made, axis, axis, made[:2]))
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text == "A <title>"
    assert root.find(f"{SVG}desc").text == "What is in it"
    assert (root.get("aria-labelledby"), root.get("aria-describedby")) == ("key-title", "key-desc")
    marks = [group for group in root.iter(f"{SVG}g") if group.get("class") == "point"]
    assert len(marks) == len(points)
    assert all(mark.get("tabindex") == "0" and mark.get("aria-label").startswith("tip ") for mark in marks)
    for circle in root.iter(f"{SVG}circle"):
        assert 0 <= float(circle.get("cx")) <= WIDTH
        assert 0 <= float(circle.get("cy")) <= HEIGHT


def test_every_kind_has_a_shape_of_its_own_in_its_plot():
    for kinds in (("this", "run", "rejected", "push", "bound"), ("student", "control", "quantized")):
        assert len({SHAPES[kind] for kind in kinds}) == len(kinds)


def test_lines_have_their_names_at_their_ends_apart():
    series = [Series(kind=kind, label=kind, xs=[1, 2], ys=[3.0, 1.0 + place / 1000]) for place, kind in enumerate(("student", "control"))]
    root = ElementTree.fromstring(lines("key", "Loss", "Falls", series, Axis(label="steps"), Axis(label="loss"), ("teacher", 0.9)))
    names = [text for text in root.iter(f"{SVG}text") if "name" in (text.get("class") or "")]
    assert {text.text for text in names} == {"student", "control"}
    heights = [float(text.get("y")) for text in names]
    assert abs(heights[0] - heights[1]) >= 14
    assert max(heights) < HEIGHT
    assert any(text.text == "teacher" for text in root.iter(f"{SVG}text"))


@pytest.mark.parametrize(("length", "most"), [(0, 5), (1, 5), (5, 5), (6, 5), (1000, 200)])
def test_thinned_keeps_both_ends(length, most):
    items = list(range(length))
    kept = thinned(items, most)
    assert len(kept) == min(length, most)
    assert kept == sorted(set(kept))
    if items:
        assert (kept[0], kept[-1]) == (items[0], items[-1])
