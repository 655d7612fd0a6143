"""The prompts and the arithmetic of `linguabus bench` (pure): from answers' figures to one line of the report."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.planning.percentile import median_and_p95
from schemas.messages import StreamEnd

TEXT = """\
The harbour wakes before the town does. Two boats come in with the tide, and gulls follow them as far as the wall. An
old man counts crates of herring and writes the number on a slate. Nobody asks him to do it any more, yet the figures
are always right. Beyond the market a narrow street climbs to the school. Its bell was cast in a year of good harvests,
when copper was cheap and iron was not. Children know it by its crack, which makes every hour sound a little surprised.
In winter the lamps stay lit until nine. Snow is rare here, but fog is a regular guest. It hides the lighthouse, then
the church, and at last the far side of the road. Drivers slow down and greet each other by their horns. The baker
opens a window so that people can find the shop by its smell. Rye bread takes a day and a half from flour to shelf.
Most of that time is spent waiting, which is the part that cannot be hurried. A sour dough from last week raises the
new one. Salt goes in late, because it makes the yeast slow. Across the square an engineer repairs clocks and radios.
She says that every machine has one part which was designed on a Friday. Her trick is to look for it first. On the
bench lie springs, resistors, and a bicycle lamp that has been there since March. Its owner moved to the mountains and
sends a card each summer. Water from those mountains reaches the town in six days. It passes three mills, a paper
works, and a meadow that floods in spring. Storks stand there and pretend to think. Farmers cut the hay in June if the
weather lets them. Otherwise they cut it in July and complain. The railway came late and left early. Its track is a
path for walkers now, level and straight, with plum trees on both sides. Every autumn the fruit is free for anyone who
brings a ladder. Visitors often ask what there is to see. People send them to the museum, where a whale's jaw hangs
over the stairs. A better answer would be the evening, when the wind drops and all the windows turn gold. Then even
the ferry seems to leave without wanting to. Its last passenger is usually a teacher with a bag of exercise books. She
corrects them on deck and loses one to the sea about once a year. The class believes that she does it on purpose.
"""
"""What prompts are made of."""


def make_prompt(words: int, seed: str) -> str:
    """English text of about this many words: three words by lot, then the sentences of `TEXT` in an order by lot.

    Nodes keep the KV rows of earlier prompts, and a new one that begins alike is computed from there on only. Another
    seed gives another first word nearly always, so that TTFT is that of a new prompt. Above some 400 words the
    sentences come again, in another order.
    """
    lot = random.Random(seed)
    heading = lot.choices(sorted(set(TEXT.split())), k=3)
    return " ".join(itertools.islice(itertools.chain(heading, _shuffled_words(lot)), max(words, 1)))


def _shuffled_words(lot: random.Random) -> Iterator[str]:
    sentences = [f"{sentence}." for sentence in " ".join(TEXT.split()).removesuffix(".").split(". ")]
    while True:
        lot.shuffle(sentences)
        for sentence in sentences:
            yield from sentence.split()


@dataclass(frozen=True, slots=True)
class Combination:
    """One point of a benchmark: every stream asks its answers one after another, all streams at the same time."""

    prompt_tokens: int
    output_tokens: int
    streams: int

    def __str__(self) -> str:
        streams = "stream" if self.streams == 1 else "streams"
        return f"{self.prompt_tokens} prompt tokens, {self.output_tokens} output tokens, {self.streams} {streams}"


@dataclass(frozen=True, slots=True)
class Load:
    """The parameters that all combinations of a benchmark have in common."""

    repeat: int
    """Answers per stream that count."""
    warm_up: int
    """Answers per stream before those."""
    seed: int
    same_prompt: bool

    def prompts(self, combination: Combination, words_per_token: float) -> list[list[str]]:
        """The prompts of each stream, those of the warm-up first."""
        words = round(combination.prompt_tokens * words_per_token)

        def prompt(stream: int, index: int) -> str:
            lot = f"{self.seed}" if self.same_prompt else f"{self.seed} {combination} {stream} {index}"
            return make_prompt(words, lot)

        answers = range(self.warm_up + self.repeat)
        return [[prompt(stream, index) for index in answers] for stream in range(combination.streams)]


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer by the client's clock (seconds of one monotonic clock).

    ``first_tokens`` are the tokens that came with the first piece of text, ``last_tokens`` all up to the last piece. An
    answer without text has ``first_s = last_s = ended_s`` and no tokens.
    """

    submitted_s: float
    first_s: float
    last_s: float
    ended_s: float
    first_tokens: int
    last_tokens: int
    end: StreamEnd

    @property
    def ttft_s(self) -> float:
        """Seconds from submission to the first text."""
        return self.first_s - self.submitted_s

    @property
    def tpot_s(self) -> float | None:
        """Time per token after the first one: (last - first) / (tokens - 1); None with no token after the first piece.

        Where several tokens come as one piece, those of the first piece are left out, as their time is.
        """
        tokens = self.last_tokens - self.first_tokens
        return (self.last_s - self.first_s) / tokens if tokens > 0 else None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 95th percentile."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class StageShare:
    """What one stage did in a benchmark's time.

    ``decode_ms`` is the compute time of a run that a decode step waited for, whatever the number of rows in it.

    ``utilisation`` is compute time by wall time; a stage tells of each request its share of the runs it had a row in.
    """

    stage: int
    node: str
    decode_ms: float
    utilisation: float
    prefill_ms: float
    """Compute time of one prompt."""
    bytes_per_token: float
    """Payload bytes that the stage sent on its hop, by decode tokens; the last stage sends tokens, not activations."""


@dataclass(frozen=True, slots=True)
class Result:
    """The report's line for one combination. Times are the client's, tokens are counted by the orchestrator."""

    combination: Combination
    answers: int
    wall_s: float
    prompt_tokens: float
    """Mean, as the tokenizer counted."""
    completion_tokens: float
    """Mean; less than asked for where the model ended by itself."""
    ended_early: int
    ttft_s: Spread
    tpot_s: Spread | None
    """None when no answer had a second piece."""
    tokens_per_s: float
    """All answers' tokens by wall time, prompts included in the time."""
    answer_tokens_per_s: float | None
    """Decode speed of one answer: 1 / median TPOT."""
    bubble_share: float | None
    """The part of the wall time in which even the busiest node did not compute."""
    stages: tuple[StageShare, ...]


def summarise(combination: Combination, answers: Sequence[Measured]) -> Result:
    """The figures of a combination.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("there are no answers to summarise")
    wall_s = max(one.ended_s for one in answers) - min(one.submitted_s for one in answers)
    tpot = [one.tpot_s for one in answers if one.tpot_s is not None]
    tpot_s = spread(tpot) if tpot else None
    ends = [one.end for one in answers]
    stages = _stages(ends, wall_s)
    return Result(
        combination=combination,
        answers=len(answers),
        wall_s=wall_s,
        prompt_tokens=statistics.fmean(end.prompt_tokens for end in ends),
        completion_tokens=statistics.fmean(end.completion_tokens for end in ends),
        ended_early=sum(end.completion_tokens < combination.output_tokens for end in ends),
        ttft_s=spread([one.ttft_s for one in answers]),
        tpot_s=tpot_s,
        tokens_per_s=_ratio(sum(end.completion_tokens for end in ends), wall_s),
        answer_tokens_per_s=1 / tpot_s.p50 if tpot_s and tpot_s.p50 > 0 else None,
        bubble_share=1 - _busiest(stages) if stages else None,
        stages=stages,
    )


def _stages(ends: Sequence[StreamEnd], wall_s: float) -> tuple[StageShare, ...]:
    by_place = {(timing.stage, timing.node) for end in ends for timing in end.stages}
    tokens = sum(max(end.completion_tokens - 1, 0) for end in ends)
    shares = []
    for stage, node in sorted(by_place):
        mine = [timing for end in ends for timing in end.stages if (timing.stage, timing.node) == (stage, node)]
        decode_s = sum(timing.decode_s for timing in mine)
        prefill_s = sum(timing.prefill_s for timing in mine)
        shares.append(
            StageShare(
                stage=stage,
                node=node,
                decode_ms=1e3 * _ratio(decode_s, sum(timing.decode_steps for timing in mine)),
                utilisation=min(1.0, _ratio(sum(timing.busy_s for timing in mine), wall_s)),
                prefill_ms=1e3 * prefill_s / len(mine),
                bytes_per_token=_ratio(sum(timing.decode_bytes_out for timing in mine), tokens),
            )
        )
    return tuple(shares)


def _busiest(stages: Iterable[StageShare]) -> float:
    """Largest share of a node; one with several stages works for all of them."""
    by_node: dict[str, float] = {}
    for stage in stages:
        by_node[stage.node] = by_node.get(stage.node, 0.0) + stage.utilisation
    return min(1.0, max(by_node.values()))


def spread(values: Sequence[float]) -> Spread:
    """Median and 95th percentile of at least one value."""
    return Spread(*median_and_p95(values))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
