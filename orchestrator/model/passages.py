"""What models are judged by: short passages of the kinds of text that people have models write.

Each is a text of its own, so attention has little to look back at and the whole costs a few seconds. They are no
one's training data: figures of two models of one tokenizer can be compared, figures of different tokenizers can't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.model.tokenizer import ModelTokenizer

LONGEST_TOKENS = 72
"""Of a passage; the rest of it is left out. Only tokenizers that make many tokens of a word come near."""
PASSAGES = (
    (
        "The old ferry crosses the lake four times a day. In winter, when the ice is thick enough, people simply "
        "walk to the other side, and the captain spends his afternoons repairing nets in the small house beside "
        "the harbour."
    ),
    (
        "Water boils at 100 degrees Celsius at sea level. On a mountain the air pressure is lower, so it boils at "
        "a lower temperature, and potatoes need more time until they are done."
    ),
    (
        "def average(values):\n    if not values:\n        return 0.0\n    total = 0.0\n    for value in "
        "values:\n        total += value\n    return total / len(values)\n\n\n"
        "print(average([1, 2, 3]))\n"
    ),
    (
        "Question: A train leaves at 9:40 and arrives at 11:15. How long does the journey take?\n"
        "Answer: From 9:40 to 10:40 is one hour, and from 10:40 to 11:15 are 35 minutes. So it takes 1 hour 35 "
        "minutes."
    ),
    (
        "Dear Ms. Brown,\n\nthank you for your letter of 3 March. I am sorry to hear that the parcel has not "
        "arrived yet. We have asked the post office where it is, and will send you another one if it is not found "
        "by Friday.\n\nKind regards,"
    ),
    (
        "Der Garten hinter dem Haus ist klein, aber im Sommer blühen dort viele Blumen. Am Abend sitzen wir auf "
        "der Bank, trinken Tee und hören den Vögeln zu."
    ),
    (
        "To make a simple bread you need flour, water, salt and yeast:\n"
        "1. Mix everything in a large bowl.\n2. Let the dough rest for two hours.\n"
        "3. Bake it in a hot oven for about 40 minutes.\n4. Let it cool before you cut it."
    ),
    (
        "La bibliothèque est ouverte du lundi au samedi, de neuf heures à dix-huit heures. Les enfants peuvent "
        "emprunter cinq livres pour trois semaines."
    ),
    (
        '{"name": "kitchen", "temperature": 21.5, "lights": [{"id": 1, "on": true}, {"id": 2, "on": false}], '
        '"windows": {"open": 0, "closed": 3}}'
    ),
    (
        "The capital of Italy is Rome, the capital of Japan is Tokyo, and the capital of Egypt is Cairo. Most of "
        "the people of Egypt live near the river Nile, because the rest of the country is desert."
    ),
)


def encode_passages(tokenizer: ModelTokenizer, vocab_size: int, max_context: int) -> tuple[tuple[int, ...], ...]:
    """The passages as token ids, with what the tokenizer puts before a text (usually a BOS), not what it puts behind.

    Args:
        vocab_size, max_context: of the model; ids and positions that it doesn't have are left out.
    """
    encoded = []
    for passage in PASSAGES:
        ids = [i for i in tokenizer.encode(passage) if i < vocab_size]
        while ids and ids[-1] in tokenizer.eos_ids:
            ids.pop()
        encoded.append(tuple(ids[: min(LONGEST_TOKENS, max_context)]))
    longer = tuple(ids for ids in encoded if len(ids) > 1)
    return longer or (mixed_ids(vocab_size, max_context),)  # of a tokenizer that knows none of these characters


def mixed_ids(vocab_size: int, max_context: int) -> tuple[int, ...]:
    """Tokens from all over the vocabulary, as many as a passage may have."""
    return tuple((7 + 37 * i) % vocab_size for i in range(min(LONGEST_TOKENS, max_context)))
