"""The questions of `speculation.py`: chat, copies, edits of code, summaries, translations, calls of tools.

A model of 135 million parameters does not do all that it is told. It repeats a text where the conversation has an
example of that, and edits code that it has written itself, a turn before.
"""

from __future__ import annotations

from collections.abc import Sequence

Prompt = Sequence[dict[str, str]]

TABLE = """| city | country | river |
| --- | --- | --- |
| Paris | France | Seine |
| London | England | Thames |
| Rome | Italy | Tiber |
| Vienna | Austria | Danube |
| Cairo | Egypt | Nile |
"""
PASSAGE = """The lighthouse keeper climbed the narrow stairs every evening. He lit the lamp, wrote the hour into his
book, and watched the ships go by until the morning came.
"""
NEWS = """The town council met on Tuesday to discuss the new bridge. The old bridge was built in 1931 and is too narrow
for buses. The new bridge will cost four million euros and will be finished in two years. Several residents were worried
about noise during construction. The mayor said that work will stop every day at six in the evening.
"""
EMAIL = """Dear Ms. Miller, thank you for your order of three garden chairs. Unfortunately the green chairs are sold
out. We can send you blue chairs at the same price, or give you your money back. Please tell us until Friday what you
would like.
"""
ACCOUNT = '''class Account:
    """A bank account."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance = self.balance + amount
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("insufficient funds")
        self.balance = self.balance - amount
        return self.balance
'''
SETTINGS = """def read_settings(path):
    settings = {}
    with open(path) as file:
        for line in file:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            key, value = line.split("=", 1)
            settings[key.strip()] = value.strip()
    return settings
"""
LIST = """function renderList(items) {
  const list = document.createElement("ul");
  for (const item of items) {
    const entry = document.createElement("li");
    entry.textContent = item.name;
    entry.className = "entry";
    list.appendChild(entry);
  }
  return list;
}
"""
TOOLS = """You may call these tools by answering with JSON {"name": ..., "arguments": {...}}:
[{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city", "parameters":
{"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
"required": ["city"]}}}, {"type": "function", "function": {"name": "send_message", "description": "Sends a message",
"parameters": {"type": "object", "properties": {"recipient": {"type": "string"}, "text": {"type": "string"}},
"required": ["recipient", "text"]}}}]
"""


def _talk(*turns: str) -> Prompt:
    """A conversation, the user first."""
    return [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]


def _repeat(text: str) -> Prompt:
    ask = "Repeat this text word for word:\n\n{}"
    return _talk(ask.format(EMAIL), EMAIL, ask.format(text))


def _python(code: str) -> str:
    return f"```python\n{code}```"


REPEATS = (_repeat(NEWS), _repeat(PASSAGE), _repeat(TABLE))
CODE_EDITS = (
    _talk(
        "Write a Python class for a bank account.", _python(ACCOUNT),
        "Rename `balance` to `funds` everywhere and write the whole class again.",
    ),
    _talk(
        "Write a function that reads settings from a file.", _python(SETTINGS),
        "Rename `settings` to `options` and write the function again.",
    ),
    _talk(f"Write this function again, with a docstring:\n\n{_python(SETTINGS)}"),
    _talk(f"Rename `item` to `element` in this code and write it again:\n\n```javascript\n{LIST}```"),
    _talk(f"Write this class again, with type hints:\n\n{_python(ACCOUNT)}"),
)  # fmt: skip
PLAIN = (
    _talk("Write a short poem about a lighthouse in winter."),
    _talk("Tell me a story about a robot who learns to paint."),
    _talk("How do I write a polite email to ask for a day off?"),
)
MIX = (
    *PLAIN,
    _talk("Explain how rainbows form."),
    *CODE_EDITS[1:],
    _talk(f"Summarise this text in two sentences:\n\n{NEWS}"),
    _talk(f"What does this email say, in short?\n\n{EMAIL}"),
    _talk(f"List the facts in this text:\n\n{NEWS}"),
    _talk(f"Summarise this text:\n\n{PASSAGE}"),
    _talk(f"Translate to French:\n\n{PASSAGE}"),
    _talk(f"Translate to German:\n\n{EMAIL}"),
    _talk(f"Translate to Spanish:\n\n{NEWS}"),
    _talk("Translate to French: The weather is nice today and we are going to the beach."),
    _talk(f"{TOOLS}\nWhat is the weather in Paris?"),
    _talk(f"{TOOLS}\nTell Anna that I will be late."),
    _talk(f"{TOOLS}\nIs it warmer in Rome or in Oslo, in celsius?"),
    _talk(f"{TOOLS}\nSend Bob the weather of London."),
)
