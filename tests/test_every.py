"""`--every N` and `slow_but_every(N)`: of each test's cases the first of every N."""

from types import SimpleNamespace

from tests import conftest


def collected(every, *names):
    items = [SimpleNamespace(nodeid=name, get_closest_marker=lambda _: None) for name in names]
    told = []
    hook = SimpleNamespace(pytest_deselected=lambda items: told.extend(items))
    config = SimpleNamespace(getoption={"every": every}.get, hook=hook)
    conftest.pytest_collection_modifyitems(config, items)
    return [item.nodeid for item in items], [item.nodeid for item in told]


def test_each_test_keeps_its_first_case_and_every_nth():
    cases = [f"a.py::many[{number}]" for number in range(5)]
    kept, left_out = collected(3, "a.py::one", *cases, "b.py::many[x]")
    assert kept == ["a.py::one", cases[0], cases[3], "b.py::many[x]"]
    assert left_out == [cases[1], cases[2], cases[4]]


def test_all_cases_but_every_nth_may_be_slow():
    marks = {}
    items = []
    for number in range(5):
        item = SimpleNamespace(nodeid=f"a.py::many[{number}]")
        item.get_closest_marker = {"slow_but_every": SimpleNamespace(args=(2,))}.get
        item.add_marker = lambda mark, number=number: marks.update({number: mark})
        items.append(item)
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda _: 1), items)
    assert marks == {1: "slow", 3: "slow"}


def test_by_default_all_stay():
    assert collected(1, "a.py::many[0]", "a.py::many[1]")[1] == []
