"""The page in a real browser, in front of a fleet with real nodes."""

from __future__ import annotations

import io
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zxingcpp
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from broker.member_key import hash_of, new_key
from orchestrator.commands.demo_model import GGUF
from orchestrator.gateway.access import Guard, key_access
from orchestrator.gateway.access_key import key_text
from orchestrator.model.store import ModelStore
from schemas.invitation import Invitation
from schemas.roles import BY_HTTP, Role
from schemas.units_text import describe_units
from tests.support.browser import page_at, running_browser
from tests.support.fleet_world import invitation_line
from tests.support.gguf_files import write_gguf
from tests.support.page_world import ENDS, NODES, TWIN, PageWorld, page_world
from tests.support.polling import DEADLINE_S
from tests.support.services import apply
from tests.support.tiny_models import make_checkpoint

VIEWS = ("chat", "fleet", "plans", "models", "devices", "requests")
PHONE = {"width": 360, "height": 740}
QUESTION = "one two three"
expect.set_options(timeout=DEADLINE_S * 1e3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[PageWorld]:
    with page_world(tmp_path_factory.mktemp("page"), tiny_store) as world:
        yield world


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


def go(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view.capitalize()).click()


def ask(page: Page, *, tokens: int) -> Locator:
    """Ask a question that is answered with that many tokens; the answer's words.

    By chance the tiny model may end sooner; without, it does not.
    """
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill(str(tokens))
    page.get_by_text("Settings").click()
    page.get_by_label("Your question").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    return page.locator("li.assistant .words").last


def serious(page: Page) -> list[tuple[str, str]]:
    """What axe finds on the page as it is, and where."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


def until_it_grows(page: Page, words: Locator) -> None:
    """Wait until an answer has text, and then more."""
    expect(words.locator(".wait")).to_have_count(0)
    before = words.inner_text()
    expect(words).not_to_have_text(before)


def until_nothing_is_open(world: PageWorld) -> None:
    """Wait until no node works on anything."""
    while any(
        pipeline.open_requests or any(stage.open_requests for stage in pipeline.stages)
        for pipeline in world.operator.overview().pipelines
    ):
        world.operator.events(0.05)


def test_an_answer_streams_and_stop_stops_it_on_the_nodes(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root) as page:
        words = ask(page, tokens=200)
        until_it_grows(page, words)
        assert world.operator.status().open_requests == 1
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("li.assistant .foot")).to_contain_text("stopped")
        until_nothing_is_open(world)
        page.get_by_role("button", name="Regenerate").click()
        until_it_grows(page, words)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("li.assistant")).to_have_count(1)
        until_nothing_is_open(world)
        page.reload()
        expect(page.locator("li.user .words")).to_have_text(QUESTION)


def test_settings_that_are_not_good_are_neither_sent_nor_kept(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root) as page:
        temperature, most = page.get_by_label("Temperature"), page.get_by_label("Most tokens")
        page.get_by_text("Settings").click()
        most.fill("7")
        for field, value, said in ((most, "-5", "1"), (temperature, "9", "2")):
            good = field.input_value()
            field.fill(value)
            page.get_by_label("Your question").fill(QUESTION)
            page.get_by_role("button", name="Send").click()
            expect(field).to_be_focused()
            expect(field).to_have_accessible_description(re.compile(said))
            assert field.get_attribute("aria-invalid") == "true"
            assert serious(page) == []
            field.fill(good)
        temperature.fill("-1")
        most.fill("")
        most.blur()
        expect(page.locator("#wrong-max_tokens")).to_be_empty()
        expect(page.locator("li.user")).to_have_count(0)
        page.reload()
        page.get_by_text("Settings").click()
        expect(temperature).to_have_value("0.3")
        expect(most).to_have_value("512")


def test_what_a_model_writes_is_text(world: PageWorld, browser: Browser) -> None:
    written = """**bold** <script>boom()</script> <img src=x onerror=boom()> ![out](https://evil.example/x.png)
<style>body{display:none}</style> <form action=https://evil.example><input></form>

[go](javascript:boom())

<a href="https://example.org" onclick="boom()" style="position:fixed" id=main>there</a>
<svg><script>boom()</script></svg>"""
    with page_at(browser, world.root, quiet=False) as page:  # its policy complains of what is cleaned away
        shown = page.evaluate(
            """async (text) => {
                const { markdown } = await import("/page/markdown.js");
                const into = document.createElement("div");
                into.append(markdown(text));
                return into.innerHTML;
            }""",
            written,
        )
    assert "<strong>bold</strong>" in shown
    assert 'rel="noopener noreferrer nofollow"' in shown
    for wrong in ("boom", "<img", "<style", "<form", "<input", "<script", "<svg", "style=", "id=", "javascript:"):
        assert wrong not in shown, shown


def test_what_became_of_an_answer_is_a_waterfall(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root) as page:
        ask(page, tokens=4)
        expect(page.locator("li.assistant .foot")).to_contain_text("4 tokens")
        page.get_by_role("link", name="how it went").click()
        expect(page.locator(".waterfall > li").first).to_contain_text("at most 4 tokens")
        expect(page.locator(".bar.tokens")).to_have_count(1)
        assert (
            page.locator("#requests h2").inner_text().partition(":")[0]
            == page.get_by_role("textbox", name="Request").input_value()
        )


def test_the_fleet_is_drawn_with_what_each_device_holds(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root, "fleet") as page:
        cards = page.locator(".ring .card")
        expect(cards).to_have_count(len(NODES))
        for stage in world.operator.plan().stages:
            units = stage.units.replace("-", "\u2013")
            expect(page.get_by_role("button", name=f"{stage.node}: {units}")).to_be_visible()
        expect(page.locator(".ring .slowest")).to_have_count(1)
        expect(page.locator(".ring .links path")).to_have_count(len(NODES))
        page.get_by_text("As a table").click()
        expect(page.locator("#fleet tbody tr")).to_have_count(len(NODES))


def test_a_device_is_drained_and_restored_by_keyboard(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root, "fleet") as page:
        page.get_by_role("button", name="old-tablet: ").press("Enter")
        page.get_by_role("dialog").get_by_role("button", name="Drain").press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("old-tablet gets no layers any more")
        page.keyboard.press("Escape")
        expect(page.locator(".chip", has_text="old-tablet")).to_be_visible()
        world.operator.drain("old-tablet", undo=True)
        world.use_all()
        expect(page.locator(".ring .card")).to_have_count(len(NODES))


def test_a_drained_device_that_no_other_can_stand_in_for_keeps_its_layers(world: PageWorld, browser: Browser) -> None:
    apply(world.operator, objective="throughput", pins=(*ENDS, ("0-3", "old-tablet")))
    with page_at(browser, world.root, "devices") as page:
        page.get_by_role("button", name="Drain old-tablet").click()
        state = page.get_by_role("row", name="old-tablet").locator(".state")
        expect(state).to_contain_text("keeps its layers until others can hold them: ")
        page.get_by_role("navigation").get_by_role("link", name="Fleet").click()
        page.get_by_role("button", name="old-tablet: ").click()
        expect(page.get_by_role("dialog")).to_contain_text("an operator drains it; keeps its layers")
        page.keyboard.press("Escape")
        world.operator.drain("old-tablet", undo=True)
        world.use_all()
        world.operator.drain("old-tablet")
        go(page, "devices")
        expect(state).to_have_text("no layers")
    world.operator.drain("old-tablet", undo=True)
    world.use_all()


def test_units_and_shares_are_written_as_elsewhere(world: PageWorld, browser: Browser) -> None:
    count = 6
    ranges = [(start, stop) for start in range(count) for stop in range(start + 1, count + 1)]
    with page_at(browser, world.root) as page:
        units, shares = page.evaluate(
            """async ([ranges, count]) => {
                const { percent, unitsText } = await import("/page/text.js");
                const units = ranges.map(([start, stop]) => unitsText(start, stop, count));
                return [units, [-0.004, 0, 0.004, -0.016, 0.5].map(percent)];
            }""",
            [ranges, count],
        )
    assert [one.replace("\u2013", "-") for one in units] == [describe_units(*one, count) for one in ranges]
    assert shares == ["0 %", "0 %", "0 %", "\u22122 %", "+50 %"]


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_fleet_that_would_be_divided_has_one_figure_and_every_ring(
    world: PageWorld, browser: Browser, objective: str
) -> None:
    apply(world.operator, objective="latency")
    try:
        with page_at(browser, world.root, "plans") as page:
            page.get_by_label("The plan is to be best for").select_option(objective)
            with page.expect_response("**/preview") as answered:
                page.get_by_role("button", name="Compare").click()
            said = answered.value.json()
            assert "explanation" in said, said
            division = said["explanation"].get("division")
            pipelines = division["pipelines"] if division else [None]
            assert (len(pipelines) > 1) is (objective == "throughput")
            expect(page.locator(".result .strip")).to_have_count(len(pipelines))
            many = page.locator(".compared tr", has_text="tokens/s for many").locator("td").nth(1)
            expect(page.locator(".result")).to_contain_text(many.inner_text())
            if division:
                # Not to the digit: the page rounds halves up.
                assert abs(float(many.inner_text().replace(",", "")) - division["tokens_per_s_many"]) < 0.06
                for one, ring in zip(pipelines, page.locator(".result .strip").all(), strict=True):
                    expect(ring).to_contain_text("embed")
                    expect(ring).to_contain_text("head")
                    expect(ring.locator("li strong")).to_have_text([stage["node"] for stage in one["stages"]])
    finally:
        world.use_all()


def test_a_device_is_renamed_by_keyboard(world: PageWorld, browser: Browser) -> None:
    label = "Anna's <img src=x> phone"
    with page_at(browser, world.root, "fleet", viewport=PHONE) as page:
        page.get_by_role("button", name="pi: ").press("Enter")
        page.get_by_role("dialog").get_by_role("button", name="Rename").press("Enter")
        expect(page.get_by_label("What it is called here")).to_be_focused()
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        page.keyboard.type(label)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name=f"{label}: ")).to_be_visible()
        assert {node.node: node.label for node in world.operator.nodes().nodes}["pi"] == label
        go(page, "plans")
        expect(page.get_by_role("checkbox", name=label)).to_be_visible()
        go(page, "devices")
        page.get_by_role("button", name=f"Rename {label}").click()
        page.get_by_label("What it is called here").fill("")
        page.get_by_role("dialog").get_by_role("button", name="Rename").click()
        expect(page.get_by_role("button", name="Rename pi")).to_be_visible()


def test_a_long_name_stays_in_its_card(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root, "fleet") as page:
        for label in ("W" * 64, "i" * 64, ""):
            world.operator.rename("pi", label)
            card = page.get_by_role("button", name=re.compile(f"^{label or 'pi'}:"))
            box, title = card.locator(".box").bounding_box(), card.locator(".name").bounding_box()
            assert box
            assert title
            assert title["x"] + title["width"] <= box["x"] + box["width"] - 10
            assert title["width"] > box["width"] / 2 or not label


def test_a_name_that_is_taken_is_said_to_be(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root, "devices", quiet=False) as page:
        page.get_by_role("button", name="Rename pi").click()
        page.get_by_label("What it is called here").fill("old-tablet")
        page.get_by_role("dialog").get_by_role("button", name="Rename").click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("old-tablet already")


def test_what_if_a_device_were_not_there(world: PageWorld, browser: Browser) -> None:
    before = world.operator.plan().epoch
    with page_at(browser, world.root, "plans/old-tablet") as page:
        expect(page.get_by_role("checkbox", name="old-tablet")).to_be_checked()
        page.get_by_role("button", name="Compare").click()
        compared = page.locator(".compared tbody tr").first
        expect(compared).to_contain_text("%")
        expect(page.locator(".result .strip")).not_to_contain_text("old-tablet")
        expect(page.get_by_role("button", name="Put it in force")).to_be_visible()
        expect(page.locator("#plans table").last).to_contain_text(str(before))
    assert world.operator.plan().epoch == before


def test_what_is_in_force_is_what_a_what_if_begins_with(world: PageWorld, browser: Browser) -> None:
    limits = (("pi", 100_000), ("old-tablet", 90_000))
    wanted = {"objective": "throughput", "pins": ENDS, "max_memory_mb": limits, "context_tokens": 64}
    apply(world.operator, min_battery_percent=5, **wanted)
    with page_at(browser, world.root, "plans") as page:
        kept = page.locator(".kept")
        expect(kept).to_contain_text(
            "kept: pi at most 100,000 MB; old-tablet at most 90,000 MB; embed on kitchen-phone"
        )
        expect(kept).to_contain_text("head on pi; 64 tokens of context")
        expect(page.get_by_label("The plan is to be best for")).to_have_value("throughput")
        expect(page.get_by_label("Least battery")).to_have_value("5")
        page.get_by_role("button", name="Compare").click()
        page.get_by_role("button", name="Put it in force").click()
        expect(page.locator(".result .notice.good")).to_be_visible()
        kept_ones = world.operator.plan().constraints
        assert (kept_ones.pins, kept_ones.max_memory_mb, kept_ones.context_tokens) == (ENDS, limits, 64)
        assert (kept_ones.objective, kept_ones.min_battery_percent) == ("throughput", 5)
        page.get_by_role("checkbox", name="let go of them").check()
        page.get_by_role("button", name="Compare").click()
        page.get_by_role("button", name="Put it in force").click()
        expect(kept).to_be_hidden()
        left = world.operator.plan().constraints
        assert (left.pins, left.max_memory_mb, left.context_tokens) == ((), (), None)
        assert serious(page) == []
    world.use_all()


def test_another_model_is_chosen(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root, "models") as page:
        page.get_by_role("button", name=f"Use {TWIN}").click()
        expect(page.locator(".model.served")).to_contain_text(TWIN)
        assert world.operator.status().model == TWIN
        expect(page.locator("#state")).to_contain_text(TWIN)
        page.get_by_role("button", name="Use tiny").click()
        expect(page.locator(".model.served")).to_contain_text("tiny")
    world.use_all()


def test_a_model_that_is_not_to_be_had_is_said_to_be_none(
    world: PageWorld, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with page_at(browser, world.root, "models") as page:
        page.get_by_label("Name on Hugging Face").fill("nobody/nothing")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_role("alert")).to_contain_text("nobody/nothing was not added")
        expect(page.locator("#models pre")).not_to_contain_text("nobody/nothing")  # why is said once


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(make_checkpoint("llama", folder / "checkpoint"), folder / "small one.gguf")
    return folder / "small one.gguf"


@pytest.mark.long  # it converts
def test_a_model_is_added_by_name_and_chosen(
    world: PageWorld, browser: Browser, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the demo's package holds has been fetched already, and is smaller than usual."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetched = tmp_path / "linguabus" / "downloads" / GGUF
    fetched.parent.mkdir(parents=True)
    shutil.copy(gguf, fetched)
    with page_at(browser, world.root, "models") as page:
        page.get_by_label("Name on Hugging Face").fill("demo")
        page.get_by_label("Name on Hugging Face").press("Enter")
        expect(page.get_by_text("adding demo")).to_be_visible()
        expect(page.locator("#models pre")).to_contain_text("converting to ONNX")
        assert serious(page) == []
        expect(page.get_by_text("demo was added")).to_be_visible()
        for name in ("smollm2-135m", "tiny"):
            page.get_by_role("button", name=f"Use {name}").press("Enter")
            expect(page.locator(".notice", has_text=name)).to_contain_text("is served")
            expect(page.locator(".model.served")).to_contain_text(name)
        page.get_by_label("Name on Hugging Face").fill("demo")
        page.get_by_role("button", name="Add").click()
        expect(page.locator("#models pre")).to_contain_text("is here already")
        expect(page.get_by_text("demo is here already")).to_be_visible()
    world.use_all()


def test_a_file_from_the_browser_becomes_a_model(
    world: PageWorld, browser: Browser, tiny_store: ModelStore, tmp_path: Path
) -> None:
    store = ModelStore(shutil.copytree(tiny_store.home, tmp_path / "models"))
    store.add(str(tiny_store.home.parent / "checkpoint"), name="newcomer", precision="fp32", profile="exact")
    store.export("newcomer", tmp_path / "ours (1).tar")
    with page_at(browser, world.root, "models", viewport=PHONE) as page:
        page.get_by_label("A file from here").set_input_files(tmp_path / "ours (1).tar")
        page.get_by_role("button", name="Upload").press("Enter")
        expect(page.get_by_text("ours-1-.tar was added")).to_be_visible()
        expect(page.get_by_role("button", name="Use newcomer")).to_be_visible()
        page.get_by_label("A file from here").set_input_files(tmp_path / "ours (1).tar")
        page.get_by_role("button", name="Upload").press("Enter")
        expect(page.get_by_text("ours-1-.tar is here already")).to_be_visible()
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    ModelStore(world.home / "models").rm("newcomer")


def test_a_file_that_is_no_model_is_said_to_be_none(world: PageWorld, browser: Browser, gguf: Path) -> None:
    (gguf.parent / "cut.gguf").write_bytes(gguf.read_bytes()[:5000])
    (gguf.parent / "other.gguf").write_bytes(b"PK" + bytes(5000))
    with page_at(browser, world.root, "models", quiet=False) as page:
        expect(page.get_by_text("68.7 GB at most")).to_be_visible()
        told = {"cut.gguf": "cut.gguf was not added: cut.gguf", "other.gguf": "other.gguf is no GGUF file"}
        for name, words in told.items():
            page.get_by_label("A file from here").set_input_files(gguf.parent / name)
            page.get_by_role("button", name="Upload").click()
            alert = page.get_by_role("alert").filter(has_text=words)
            expect(alert).to_be_visible()
            assert "\n" not in alert.inner_text()
            expect(page.get_by_role("alert")).to_have_count(1)  # nothing of the one before
            why = alert.inner_text().removeprefix("cut.gguf was not added: ")
            expect(page.locator("#models pre", has_text=why)).to_have_count(0)
        assert serious(page) == []


def test_who_may_be_invited_is_said_before_and_after(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root, "devices", quiet=False) as page:
        name = page.get_by_label("Its name")
        expect(name).to_have_accessible_description(re.compile("letters, digits, .*64 at most"))
        for wanted, said in (("guest", "until"), ("guest", "by before is not good any more"), ("pi", "lost its key")):
            name.fill(wanted)
            page.get_by_role("button", name="Invite").click()
            expect(page.locator(".invited")).to_contain_text(said)
        expect(page.locator(".invited")).not_to_contain_text("--")
    with world.fleet.fleet.register() as register:
        register.revoke("guest")


def test_an_invitation_is_the_line_of_the_command_and_its_code(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root, "devices") as page:
        page.get_by_label("Its name").fill("new-phone")
        page.get_by_role("button", name="Invite").click()
        shown = page.locator(".ticket code").inner_text()
        picture = Image.open(io.BytesIO(page.locator(".qr").screenshot()))
        (code,) = zxingcpp.read_barcodes(picture, formats=zxingcpp.BarcodeFormat.QRCode)
        assert code.text == shown
        printed = invitation_line(world.fleet.fleet, "new-phone", "--phone")
        told = [Invitation.parse(line.rpartition(" ")[2]) for line in (shown, printed)]
        assert shown.rpartition(" ")[0] == printed.rpartition(" ")[0]
        assert replace(told[0], token=b"") == replace(told[1], token=b"")
        page.get_by_role("button", name="Withdraw new-phone").click()
        expect(page.get_by_role("dialog")).to_contain_text("Withdraw the invitation of new-phone?")
        page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()
        expect(page.get_by_text("new-phone is not invited any more")).to_be_visible()
    with world.fleet.fleet.register() as register:
        assert register.invited() == []


@contextmanager
def guarded(world: PageWorld) -> Iterator[tuple[str, dict[Role, str]]]:
    """The root of a gateway that asks for keys, and a key of each kind."""
    keys: dict[Role, str] = {}
    with world.fleet.fleet.register() as register:
        for role in BY_HTTP:
            key = new_key()
            register.add_key(f"browser-{role}", hash_of(key), role=role, again=True)
            keys[role] = key_text(f"browser-{role}", key)
        guard = Guard(
            key_access(lambda name, key: register.admits(name, key, BY_HTTP)),
            lambda name: register.role(name) == "api-operator",
        )
        with world.gateway(guard) as root:
            yield root, keys


def test_who_has_no_key_is_asked_for_one(world: PageWorld, browser: Browser) -> None:
    with guarded(world) as (root, keys):
        for role, button in (("api", 0), ("api-operator", 1)):
            with page_at(browser, root, "devices", quiet=False) as page:
                page.get_by_label("API key").fill("lb-nobody.nothing")
                page.get_by_role("button", name="Log in").click()
                expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("linguabus key NAME")
                page.get_by_label("API key").fill(keys[role])  # type: ignore[index]
                page.get_by_role("button", name="Log in").click()
                expect(page.locator("#state")).to_contain_text("tiny")
                expect(page.get_by_role("button", name="Drain pi")).to_have_count(button)
                expect(page.get_by_role("button", name="Invite")).to_have_count(button)
                page.get_by_role("button", name="Log out").click()
                expect(page.get_by_label("API key")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(world: PageWorld, browser: Browser, scheme: str) -> None:
    with page_at(browser, world.root, color_scheme=scheme) as page:
        for view in VIEWS:
            go(page, view)
            expect(page.locator(f"#{view} h1")).to_be_attached()
            assert serious(page) == []


@pytest.mark.parametrize("width", [320, PHONE["width"]])
def test_a_phone_shows_all_of_it(world: PageWorld, browser: Browser, width: int) -> None:
    with page_at(browser, world.root, viewport=PHONE | {"width": width}) as page:
        page.evaluate("document.documentElement.style.fontFamily = 'DejaVu Sans'")  # wider than most
        for view in VIEWS:
            go(page, view)
            expect(page.locator(f"#{view} h1")).to_be_attached()
            assert page.evaluate("document.scrollingElement.scrollWidth") == width, view
            assert page.evaluate("document.getElementById('main').scrollWidth") <= width, view
            for link in page.get_by_role("navigation").get_by_role("link").all():
                assert link.evaluate("(link) => link.scrollWidth <= link.clientWidth"), view
        go(page, "fleet")
        expect(page.locator(".ring .card").last).to_be_in_viewport()


def test_a_killed_node_is_shown_and_the_answer_goes_on(world: PageWorld, browser: Browser) -> None:
    with page_at(browser, world.root) as page:
        words = ask(page, tokens=40)
        until_it_grows(page, words)
        world.nodes["old-tablet"].end(signal.SIGKILL)
        go(page, "fleet")
        expect(page.locator(".card.lost, .chip.lost", has_text="old-tablet")).to_be_visible()
        go(page, "chat")
        expect(page.locator("li.assistant .foot")).to_contain_text("40 tokens")
    world.restart("old-tablet")
