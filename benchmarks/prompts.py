"""Short questions of different kinds, for benchmarks that compare texts."""

PROMPTS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about a lighthouse in winter.",
    "List five things to pack for a hiking trip.",
    "How does a bicycle stay upright?",
    "Translate into French: Good morning, how are you today?",
    "What is the difference between a virus and a bacterium?",
    "Give me a recipe for pancakes.",
    "Who wrote Romeo and Juliet, and what is it about?",
    "Write a Python function that reverses a string.",
    "What are the three states of matter?",
    "Describe how rain forms.",
    "Why do leaves change colour in autumn?",
    "Tell me a story about a robot who learns to paint.",
    "What should I do when I can't sleep?",
    "Summarise the rules of chess.",
    "What is 17 plus 25, and how do you work it out?",
    "Name three planets and one fact about each.",
    "How do I write a polite email to ask for a day off?",
    "What makes bread rise?",
)
"""Twenty of them."""
_ASKED = (
    "",
    "Answer in one sentence. ",
    "Answer as a list. ",
    "Explain it to a child. ",
    "Be brief, then give details. ",
)
HUNDRED = tuple(how + prompt for how in _ASKED for prompt in PROMPTS)
"""The same twenty, asked in five ways."""
