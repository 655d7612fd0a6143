"""What one that stands by knows of operators' wishes when it begins to serve."""

from __future__ import annotations

from pathlib import Path

from orchestrator.model.store import ModelStore
from orchestrator.service.database import Database
from orchestrator.service.wishes import take_over, wishes_of
from schemas.messages import OperatorWishes, PlanConstraints, decode, encode


def test_it_knows_what_the_other_one_knew_and_nothing_else(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with Database(tmp_path / "one") as served, Database(tmp_path / "two") as stands_by:
        served.save_constraints("main", PlanConstraints(exclude=("c",)))
        served.save_drained("b", True)
        served.save_label("a", "Anna's phone")
        stands_by.save_drained("c", True)
        stands_by.save_label("a", "Bob's")
        stands_by.save_label("c", "the old one")
        said = decode(encode(wishes_of(served, store, "main")), OperatorWishes)
        assert take_over(said, stands_by, store) is None
        assert stands_by.constraints("main") == PlanConstraints(exclude=("c",))
        assert stands_by.drained() == {"b"}
        assert stands_by.labels() == {"a": "Anna's phone"}
