"""A draft model beside a model: which can guess for it, and the segment that the last stage's node gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from orchestrator.commands.plan import describe
from orchestrator.effects import BuildSegments, OpenModel
from orchestrator.events import ModelOpened, SegmentsBuilt
from orchestrator.gateway.fleet_picture import picture
from orchestrator.model.errors import ModelInUse
from orchestrator.model.served import ServedModel
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.service.worker import Worker, build_segment
from schemas.messages import StageRef
from tests.support.bus_recorder import until
from tests.support.in_process import converting_here
from tests.support.nodes import running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.secured_broker import SecuredBroker
from tests.support.services import QUICK, apply, patient_client, running_service, wait_until_serving
from tests.support.tiny_models import make_checkpoint

RING = (StageRef(node="alfa", start=0, stop=3), StageRef(node="bravo", start=3, stop=6))
POSITIONS, OF_DRAFT = 64, 40


@pytest.fixture(scope="module")
def both(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a store that has the tiny model and a smaller one."""
    home = tmp_path_factory.mktemp("both") / "home"
    shutil.copytree(tiny_store.home, home, ignore=shutil.ignore_patterns("in-use"))
    checkpoint = make_checkpoint("llama", home.parent / "checkpoint", seed=1, num_hidden_layers=2, hidden_size=32)
    with converting_here():
        ModelStore(home).add(str(checkpoint), name="small", precision="fp32", profile="exact")
    return home


@pytest.fixture
def store(both: Path, tmp_path: Path) -> ModelStore:
    return ModelStore(Path(shutil.copytree(both, tmp_path / "home")))


@pytest.fixture
def worker(store: ModelStore) -> Iterator[Worker]:
    worker = Worker(store, wake=lambda: None)
    yield worker
    worker.close()


def opened(worker: Worker, draft: str) -> ServedModel:
    worker.submit(OpenModel("tiny", draft=draft))
    event = worker.results.get(timeout=DEADLINE_S)
    assert isinstance(event, ModelOpened)
    return event.model


def test_the_last_stage_gets_all_of_it(worker: Worker, store: ModelStore) -> None:
    model = opened(worker, "small")
    assert model.draft
    assert model.draft.manifest == store.show("small")
    worker.submit(BuildSegments(1, "tiny", RING, "fp32", POSITIONS, "small", OF_DRAFT))
    built = worker.results.get(timeout=DEADLINE_S)
    assert isinstance(built, SegmentsBuilt)
    first, last = built.segments
    assert first.draft is None
    whole = build_segment(store.open("small"), StageRef(node="bravo", start=0, stop=4), OF_DRAFT)
    assert last.draft == whole
    assert (len(whole.kv_layers), whole.width_in, whole.width_out, whole.answer) == (2, 0, 0, None)
    assert set(whole.files) < set(last.files)
    for blob in last.files:
        assert (store.blobs_folder / blob.sha256).stat().st_size == blob.size_bytes, "nodes can fetch it"


def test_it_can_not_be_removed_as_long_as_it_is_in_use(worker: Worker, store: ModelStore) -> None:
    opened(worker, "small")
    with pytest.raises(ModelInUse):
        store.rm("small")
    worker.keep({"tiny"})
    store.rm("small")


def another(store: ModelStore, name: str) -> Path:
    """A copy of the small model, which may be changed; returns its folder."""
    folder = store.home / "models" / name
    shutil.copytree(store.home / "models" / "small", folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"name": name}), "utf-8")
    return folder


def with_other_tokens(store: ModelStore) -> str:
    path = another(store, "other") / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken("<|another|>", special=True)])
    tokenizer.save(str(path))
    return "other"


def with_states(store: ModelStore) -> str:
    path = another(store, "folds") / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["layers"][0] |= {
        "kv_heads": 0,
        "key_dim": 0,
        "value_dim": 0,
        "states": [{"name": "recurrent_state", "shape": [4]}],
    }
    path.write_text(json.dumps(manifest), "utf-8")
    return "folds"


def without_tokenizer(store: ModelStore) -> str:
    (another(store, "broken") / "tokenizer" / "tokenizer.json").write_text("{", "utf-8")
    return "broken"


def test_a_service_with_and_without(mosquitto: SecuredBroker, store: ModelStore, tmp_path: Path) -> None:
    """The plan and the page's picture of it name it, its memory is counted, and the text is the same."""
    texts, planned_bytes = [], []
    with running_nodes(("alfa", "bravo"), mosquitto.url, tmp_path):
        for draft in (None, "small"):
            config = ServiceConfig(
                broker_url=mosquitto.url, data_dir=tmp_path, models_dir=store.home, timing=QUICK,
                context_tokens=200, slots=2, model="tiny", min_nodes=2, draft=draft,
            )  # fmt: skip
            with running_service(config), patient_client(mosquitto.url) as client:
                wait_until_serving(client)
                if draft is None:  # the other one adopts the plan, and has one with the draft model follow
                    apply(client, pins=[["embed", "alfa"], ["head", "bravo"]])
                until("the plan with the draft model", lambda: client.plan().draft == draft)  # noqa: B023
                texts.append("".join(client.ask(prompt="one two three", max_tokens=40)))
                plan = client.plan()
                assert ("small guesses" in describe(plan.pipelines[0])) is bool(draft)
                (shown,) = picture(client.status(), client.overview(), plan)["pipelines"].values()
                assert shown.get("draft") == draft
                planned_bytes.append(sum(stage.planned_bytes for stage in plan.stages))
    assert texts[0]
    assert texts[0] == texts[1]
    assert planned_bytes[0] < planned_bytes[1]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _store: "tiny", "it is that model itself; serve with another --draft"),
        (with_other_tokens, "its tokenizer is another one, so that its guesses are other tokens; serve with another"),
        (with_states, "it folds positions into a state"),
        (without_tokenizer, "cannot be read"),
        (lambda _store: "nowhere", "nowhere"),
    ],
)
def test_a_model_is_served_without_one_that_can_not_guess_for_it(
    worker: Worker, store: ModelStore, caplog: pytest.LogCaptureFixture, make: Callable[[ModelStore], str], why: str
) -> None:
    name = make(store)
    assert opened(worker, name).draft is None
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"model tiny is served without the draft model {name}: ")
    assert why in warning
