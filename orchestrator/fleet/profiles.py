"""Profiles: what nodes measured of themselves with a model's units, and what their heartbeats say since (pure).

A profile belongs to a node, a model, a number of threads and an emulated speed. A node without one is asked for it
before it is first planned with; one that does not answer in time is planned with the speed it reported at its birth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from orchestrator.effects import Effect, Note, Publish, SaveProfile
from orchestrator.model.manifest import Manifest
from orchestrator.model.served import ServedModel
from orchestrator.planning.profile import Profile
from schemas.messages import NodeBirth, NodeProfile, ProbeNode, ProfileView
from schemas.topics import NODE_COMMAND
from schemas.units import BLOCK, EMBED, HEAD

PROBE_TIME_LIMIT_S = 1.5
"""Longest computing of a node that measures itself."""
MOST_UNANSWERED = 2
"""Starts of a node in a row that are asked and do not answer: measuring may be what ends them."""
PROBE_PATIENCE_S = 8.0
"""A plan waits this long for the figures of a node that says nothing; downloads are part of it."""
SAVED_DRIFT = 0.1
"""A change of the observed speed by this share is worth a write."""


def fingerprint_of(manifest: Manifest) -> str:
    """A text that is equal for models whose units cost the same."""
    kv = f"-kv-{manifest.kv_dtype}" if manifest.kv_rounding else ""
    kv += f"-{manifest.kv_halves}" if manifest.kv_halves else ""
    return f"{manifest.fingerprint[:100]}-{manifest.precision}-{manifest.profile}{kv}"


class Profiles:
    """Profiles by node and model, and whose answer is awaited."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Profile] = {}
        self._saved_drift: dict[tuple[str, str], float] = {}
        self._awaited: dict[tuple[str, str], float] = {}
        """Until when."""
        self._asked: set[tuple[str, int, str]] = set()
        """(node, incarnation, fingerprint): asked once, however it ended."""
        self._unanswered: Counter[tuple[str, str]] = Counter()
        """Starts that were asked, by node and model, since one answered."""

    def load(self, profiles: Iterable[Profile]) -> None:
        """Take in profiles that an earlier start has kept."""
        for profile in profiles:
            self._known[profile.node, profile.fingerprint] = profile
            self._saved_drift[profile.node, profile.fingerprint] = profile.drift

    def of(self, births: Iterable[NodeBirth], manifest: Manifest) -> dict[str, Profile]:
        """The profiles that hold for these nodes and this model, by node."""
        fingerprint = fingerprint_of(manifest)
        found = ((birth, self._known.get((birth.node, fingerprint))) for birth in births)
        return {birth.node: profile for birth, profile in found if profile and profile.fits(birth)}

    def view(self, births: Iterable[NodeBirth], manifest: Manifest, now_s: float) -> tuple[ProfileView, ...]:
        """The figures that plans of these nodes rest on: ages, spreads and what was observed since."""
        births = tuple(births)
        known = self.of(births, manifest)
        return tuple(_view(birth, known.get(birth.node), now_s) for birth in births)

    def ask(
        self, births: Iterable[NodeBirth], model: ServedModel, blob_urls: tuple[str, ...], wire: Any, now_s: float
    ) -> list[Effect]:
        """Ask every node to measure itself whose figures are not known."""
        fingerprint = fingerprint_of(model.manifest)
        known = self.of(births, model.manifest) if model.probe_parts else {}
        effects: list[Effect] = []
        for birth in births if model.probe_parts else ():
            asked = (birth.node, birth.incarnation, fingerprint)
            key = (birth.node, fingerprint)
            if birth.node in known or asked in self._asked or self._unanswered[key] >= MOST_UNANSWERED:
                continue
            self._asked.add(asked)
            self._unanswered[key] += 1
            self._awaited[key] = now_s + PROBE_PATIENCE_S
            probe = ProbeNode(
                model=model.name,
                fingerprint=fingerprint,
                parts=model.probe_parts,
                blob_urls=blob_urls,
                vocab_size=model.manifest.vocab_size,
                width=model.manifest.width,
                wire_dtype=wire,
                same_bits=model.manifest.numerics.same_bits,
                time_limit_s=PROBE_TIME_LIMIT_S,
            )
            effects.append(Publish(NODE_COMMAND.format(node=birth.node), probe))
        return effects

    def awaited_until_s(self, births: Iterable[NodeBirth], manifest: Manifest, now_s: float) -> float:
        """Until when a plan of these nodes should wait; in the past when all have answered."""
        fingerprint = fingerprint_of(manifest)
        due = (self._awaited.get((birth.node, fingerprint), -math.inf) for birth in births)
        return max((until_s for until_s in due if until_s > now_s), default=-math.inf)

    def answer(self, birth: NodeBirth, measured: NodeProfile, now_s: float) -> list[Effect]:
        """Take in a node's figures, or why it has none; one that can't run the model is asked again when it is to."""
        key = (birth.node, measured.fingerprint)
        self._awaited.pop(key, None)
        self._unanswered.pop(key, None)
        if cant_run(measured):
            self._asked.discard((birth.node, birth.incarnation, measured.fingerprint))
            text = f"{birth.node} can't run the model and is left out: {measured.failure}"
            return [Note(text, warning=True, kind="set_apart", node=birth.node)]
        problem = measured.failure or _incomplete(measured)
        if problem:
            return [Note(f"{birth.node} did not measure itself: {problem}; its reported speed is used", warning=True)]
        profile = Profile(
            node=birth.node, fingerprint=measured.fingerprint, threads=birth.threads,
            emulated_speed=birth.emulated_speed, measured=measured, measured_s=now_s,
        )  # fmt: skip
        self.load([profile])
        _, block_s, head_s = profile.decode_s
        return [
            SaveProfile(profile),
            Note(
                f"{birth.node} measured itself in {measured.took_s:.1f} s: {block_s * 1e3:.3f} ms per block,"
                f" {head_s * 1e3:.3f} ms for the head, {measured.hop_s * 1e3:.2f} ms per hop"
            ),
        ]

    def believe(self, profile: Profile, drift: float) -> list[Effect]:
        """Note how slow a node is believed to be: its times over those it measured."""
        key = (profile.node, profile.fingerprint)
        self._known[key] = changed = replace(profile, drift=drift)
        if abs(drift / self._saved_drift.get(key, 1.0) - 1) < SAVED_DRIFT:
            return []
        self._saved_drift[key] = drift
        return [SaveProfile(changed)]


def _view(birth: NodeBirth, profile: Profile | None, now_s: float) -> ProfileView:
    """The view of a node's profile; a node without one is planned with what it reported when it joined."""
    if profile is None:
        return ProfileView(node=birth.node, measured=False, hop_ms=birth.hop_s * 1e3)
    blocks = profile.parts(BLOCK)[-1]
    return ProfileView(
        node=birth.node,
        measured=True,
        age_s=max(0.0, now_s - profile.measured_s),
        block_ms=profile.decode_s[1] * 1e3,
        block_spread_ms=blocks.decode_spread_s / blocks.units * 1e3,
        hop_ms=profile.measured.hop_s * 1e3,
        hop_spread_ms=profile.measured.hop_spread_s * 1e3,
        drift=profile.drift,
    )


def cant_run(measured: NodeProfile) -> bool:
    """Did a node find, with some of its units, that its ONNX Runtime lacks what the model needs?"""
    return bool(measured.failure) and measured.code == "unusable"


def _incomplete(measured: NodeProfile) -> str:
    kinds: list[str] = [unit.kind for unit in measured.units]
    sizes = {unit.units for unit in measured.units if unit.kind == BLOCK}
    if kinds.count(EMBED) != 1 or kinds.count(HEAD) != 1 or len(sizes) < 2:
        return "its answer lacks parts of the model"
    return "" if measured.hop_s > 0 else "no echo came back through the broker"
