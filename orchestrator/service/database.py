"""The database: what must survive the orchestrator, in one SQLite file in WAL mode.

Every write is one transaction, so a kill at any moment loses nothing that a method has returned from. (After a power
cut the last writes may be missing; epochs are safe even then, because a start also goes above the retained plan.)

A write that fails, on a full disk for example, does not stop the service: ``failure`` says so until one succeeds again.
What was not written, the next start does not know; readers bring along what they have.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec

from broker.database_copy import keep_copy
from orchestrator.effects import SaveTokens
from orchestrator.errors import StateUnreadable, unusable
from orchestrator.events import SavedRequest
from orchestrator.planning.profile import Profile
from orchestrator.service.database_schema import SCHEMA_VERSION, SCHEMAS
from schemas import contract
from schemas.closing import Closing
from schemas.errors import ContractError
from schemas.messages import (
    CommittedPlan,
    Epoch,
    NodeProfile,
    Plan,
    PlanConstraints,
    PlanView,
    SubmitRequest,
    decode,
    encode,
)

_Arguments = ParamSpec("_Arguments")

_BUSY_TIMEOUT_S = 5.0
_KEPT_PLANS = 1000
_OF_NO_PLAN = Epoch(generation=0, counter=0)
_OF_SERVICE = "pipeline = ?1 OR pipeline GLOB ?1 || '-[0-9]*'"


def _write(
    method: Callable[Concatenate[Database, _Arguments], None],
) -> Callable[Concatenate[Database, _Arguments], None]:
    """A method whose failure is kept in ``failure``, and raised to nobody."""

    @functools.wraps(method)
    def write(self: Database, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except sqlite3.Error as error:
            self._failed(error)
        else:
            self.failure = "" if self.path.exists() else f"{self.path} was removed: a restart will know of no request"

    return write


class Database(Closing):
    """The database. Times are seconds since 1970. Owned by one thread; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the database, or create it.

        Raises:
            StateUnreadable: the file is damaged, not writable, locked, or of a newer version.
        """
        self.path = path
        self.failure = ""
        """Why the last write came to nothing; empty if it did not."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StateUnreadable(f"{path} cannot be opened: {error}; choose another folder with --home") from error
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            self._db.close()
            raise unusable(path, error, "move it away to start afresh") from error
        except StateUnreadable:
            self._db.close()
            raise

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return  # nothing is to be written, for which there may be no room
        # IMMEDIATE: two processes that start on a new file must not both create the tables.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise StateUnreadable(
                    f"{self.path} was written by a newer version (schema {version}, this one reads {SCHEMA_VERSION}):"
                    " upgrade linguabus"
                )
            if version:
                keep_copy(self.path, version)
            for schema in SCHEMAS[version:]:
                for statement in schema.split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    def _failed(self, error: sqlite3.Error) -> None:
        self._undo()
        self.failure = f"{self.path} can't be written: {error}"

    def _undo(self) -> None:
        """Leave no transaction open behind a write that failed."""
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    # --- epochs and plans -------------------------------------------------------------------------------------

    def next_generation(self, pipeline: str) -> int:
        """A generation that no start of this database has had; remembered before it is returned, if that can be."""
        sql = """
            INSERT INTO epochs VALUES (?, 1, 0)
            ON CONFLICT (pipeline) DO UPDATE SET generation = generation + 1, counter = 0
            RETURNING generation
        """
        try:
            with closing(self._db.execute(sql, (pipeline,))) as cursor:
                return int(cursor.fetchone()[0])
        except sqlite3.Error as error:
            self._failed(error)
            newest = self.epoch(pipeline)
            return newest.generation + 1 if newest else 1

    @_write
    def save_epoch(self, pipeline: str, epoch: Epoch) -> None:
        """Remember that an epoch was used; an older one changes nothing."""
        self._db.execute(
            """
            INSERT INTO epochs VALUES (?1, ?2, ?3) ON CONFLICT (pipeline) DO UPDATE
            SET generation = ?2, counter = ?3 WHERE (generation, counter) < (?2, ?3)
            """,
            (pipeline, epoch.generation, epoch.counter),
        )

    def epoch(self, pipeline: str) -> Epoch | None:
        """The newest epoch used."""
        row = self._db.execute("SELECT generation, counter FROM epochs WHERE pipeline = ?", (pipeline,)).fetchone()
        return Epoch(generation=row[0], counter=row[1]) if row else None

    @_write
    def begin_tenure(self, pipeline: str, orchestrator: str, last: str) -> None:
        """Remember who serves from this database. ``last``: who did last, as the broker says; empty if it does not.

        Somebody else has ended what was open here, or is asked for it again: see `SavedRequest.epoch`.
        """
        row = self._db.execute("SELECT orchestrator FROM tenures WHERE pipeline = ?", (pipeline,)).fetchone()
        if row and last not in ("", row[0]):
            left = (str(_OF_NO_PLAN), pipeline)
            self._db.execute("UPDATE requests SET epoch = ? WHERE pipeline = ? AND epoch IS NOT NULL", left)
        self._db.execute("INSERT OR REPLACE INTO tenures VALUES (?, ?)", (pipeline, orchestrator))

    @_write
    def save_plan(self, epoch: Epoch, plan: PlanView) -> None:
        """Add a committed plan to the history, which keeps the newest 1000."""
        row = (plan.pipeline, epoch.generation, epoch.counter, plan.model, time.time(), json.dumps(contract.dump(plan)))
        self._db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?, ?, ?, ?, ?)", row)
        self._db.execute(
            """
            DELETE FROM plans WHERE pipeline = ?1 AND rowid NOT IN (
                SELECT rowid FROM plans WHERE pipeline = ?1 ORDER BY generation DESC, counter DESC LIMIT ?2)
            """,
            (plan.pipeline, _KEPT_PLANS),
        )

    def plans(self, pipeline: str, *, limit: int = 20) -> tuple[CommittedPlan, ...]:
        """Committed plans of a service, newest first. What this version can't read is left out."""
        rows = self._db.execute(
            f"""
            SELECT committed_at, details FROM plans WHERE {_OF_SERVICE}
            ORDER BY generation DESC, counter DESC LIMIT ?2
            """,
            (pipeline, limit),
        )
        found = []
        for committed_at, details in rows:
            with suppress(ContractError):
                found.append(contract.load(CommittedPlan, {"committed_at": committed_at, **json.loads(details)}))
        return tuple(found)

    @_write
    def save_running(self, plan: Plan) -> None:
        """Remember the plan that a pipeline has in force; one without a ring: that it has none."""
        if plan.ring:
            self._db.execute("INSERT OR REPLACE INTO running VALUES (?, ?)", (plan.pipeline, encode(plan)))
        else:
            self._db.execute("DELETE FROM running WHERE pipeline = ?", (plan.pipeline,))

    def running(self, pipeline: str) -> tuple[Plan, ...]:
        """The plans of a service that were in force at the last. What this version can't read is left out."""
        rows = self._db.execute(f"SELECT plan FROM running WHERE {_OF_SERVICE} ORDER BY pipeline", (pipeline,))
        found = []
        for (plan,) in rows:
            with suppress(ContractError):
                found.append(decode(bytes(plan), Plan))
        return tuple(found)

    # --- nodes ------------------------------------------------------------------------------------------------

    @_write
    def save_drained(self, node: str, drained: bool) -> None:
        """Remember that an operator wants a node to be empty, or no longer."""
        if drained:
            self._db.execute("INSERT OR IGNORE INTO drained VALUES (?, ?)", (node, time.time()))
        else:
            self._db.execute("DELETE FROM drained WHERE node = ?", (node,))

    def drained(self) -> frozenset[str]:
        """Nodes that an operator wants to be empty."""
        return frozenset(node for (node,) in self._db.execute("SELECT node FROM drained"))

    @_write
    def save_label(self, node: str, label: str) -> None:
        """Remember what people call a node; empty: its name."""
        if label:
            self._db.execute("INSERT OR REPLACE INTO labels VALUES (?, ?)", (node, label))
        else:
            self._db.execute("DELETE FROM labels WHERE node = ?", (node,))

    def labels(self) -> dict[str, str]:
        """What people call nodes, by name."""
        return dict(self._db.execute("SELECT node, label FROM labels ORDER BY node"))

    # --- what nodes measured ----------------------------------------------------------------------------------

    @_write
    def save_profile(self, profile: Profile, measured_at: float) -> None:
        """Remember a node's figures for a model, with the time at which they were measured."""
        row = (
            profile.node, profile.fingerprint, profile.threads, profile.emulated_speed, measured_at, profile.drift,
            encode(profile.measured),
        )  # fmt: skip
        self._db.execute("INSERT OR REPLACE INTO profiles VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def profiles(self, now_s: float) -> list[Profile]:
        """All that is known; ``now_s`` is the present on the clock that the profiles' times are to be given in.

        What an older version wrote and this one can't read is left out: it will be measured again.
        """
        found = []
        rows = self._db.execute(
            "SELECT node, fingerprint, threads, emulated_speed, measured_at, drift, measured FROM profiles"
        )
        for node, fingerprint, threads, emulated_speed, measured_at, drift, measured in rows:
            with suppress(ContractError):
                figures = decode(bytes(measured), NodeProfile)
                age_s = max(0.0, time.time() - measured_at)
                found.append(
                    Profile(
                        node=node,
                        fingerprint=fingerprint,
                        threads=threads,
                        emulated_speed=emulated_speed,
                        measured=figures,
                        measured_s=now_s - age_s,
                        drift=drift,
                    )
                )
        return found

    # --- what an operator wants of plans ----------------------------------------------------------------------

    @_write
    def save_constraints(self, pipeline: str, constraints: PlanConstraints) -> None:
        """Remember the constraints that plans of a pipeline are to respect."""
        row = (pipeline, time.time(), json.dumps(contract.dump(constraints)))
        self._db.execute("INSERT OR REPLACE INTO constraints VALUES (?, ?, ?)", row)

    def constraints(self, pipeline: str) -> PlanConstraints:
        """The constraints that were last saved; none when nothing was.

        Raises:
            MemberError: another version wrote what this one can't read.
        """
        row = self._db.execute("SELECT constraints FROM constraints WHERE pipeline = ?", (pipeline,)).fetchone()
        found: PlanConstraints = contract.load(PlanConstraints, json.loads(row[0]) if row else {})
        return found

    # --- requests ---------------------------------------------------------------------------------------------

    @_write
    def begin_request(self, pipeline: str, submit: SubmitRequest) -> None:
        """Remember a request, with the tokens that its client has of the answer."""
        row = (submit.request, pipeline, time.time(), encode(submit), submit.ttft_s)
        self._db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, NULL, NULL, NULL, ?)", row)

    @_write
    def open_request(self, request: str, *, model: str, prompt_ids: Sequence[int], epoch: str) -> None:
        """Remember what a request was opened with; unknown ones are ignored."""
        row = (model, _packed(prompt_ids), epoch, request)
        self._db.execute("UPDATE requests SET model = ?, prompt = ?, epoch = ? WHERE request = ?", row)

    @_write
    def add_tokens(self, added: Iterable[SaveTokens]) -> None:
        """Remember tokens of answers, and when the first ones came, in one transaction."""
        tokens, times = [], []
        for one in added:
            tokens.append((one.request, one.first, _packed(one.ids)))
            times.append((one.ttft_s, one.request))
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", tokens)
        self._db.executemany("UPDATE requests SET ttft_s = ? WHERE request = ? AND ttft_s IS NULL", times)
        self._db.execute("COMMIT")

    @_write
    def end_request(self, request: str) -> None:
        """A request ended; unknown ones are ignored."""
        self._db.execute("DELETE FROM requests WHERE request = ?", (request,))
        self._db.execute("DELETE FROM tokens WHERE request = ?", (request,))

    def requests(self, pipeline: str) -> tuple[SavedRequest, ...]:
        """What had not ended when the orchestrator last ended, in order of submission.

        What another version wrote and this one can't read is forgotten: its reader will ask again.
        """
        found = []
        rows = self._db.execute(
            """
            SELECT request, begun_at, submit, model, prompt, epoch, ttft_s FROM requests
            WHERE pipeline = ? ORDER BY begun_at
            """,
            (pipeline,),
        )
        for request, begun_at, submit, model, prompt, epoch, ttft_s in rows.fetchall():
            try:
                asked = decode(bytes(submit), SubmitRequest)
            except ContractError:
                self.end_request(request)
                continue
            found.append(
                SavedRequest(
                    submit=asked,
                    age_s=max(0.0, time.time() - begun_at) + asked.age_s,
                    model=model or "",
                    prompt_ids=_unpacked(prompt) if prompt else (),
                    epoch=epoch or "",
                    tokens=self._tokens(request, asked.answer_ids),
                    ttft_s=ttft_s,
                )
            )
        return tuple(found)

    def _tokens(self, request: str, known: Sequence[int]) -> tuple[int, ...]:
        """The tokens of an answer up to the first that is missing, behind those that its client had."""
        ids = list(known)
        rows = self._db.execute("SELECT first, ids FROM tokens WHERE request = ? ORDER BY first", (request,))
        for first, packed in rows.fetchall():
            if first > len(ids):
                break
            ids[first:] = _unpacked(packed)
        self._db.execute("DELETE FROM tokens WHERE request = ? AND first > ?", (request, len(ids)))
        return tuple(ids)


def _packed(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}i", *ids)


def _unpacked(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}i", packed)
