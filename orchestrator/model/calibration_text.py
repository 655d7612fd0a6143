"""Texts of many kinds that a model is run over to see how large its keys and values become (``kv_calibration``).

What makes one of them large is mostly a kind of token: a line that is indented, a bracket, a word in capitals, a letter
of another alphabet. So these have as many kinds as there is room for; what they say does not matter. Like the passages
they are no one's training data. The passages show more of what people write, and what scales are worth.
"""

from __future__ import annotations

CONTRACT = """\
3. Rent. The tenant shall pay the rent on the first day of each month. If any payment is late by more than ten days, the
   landlord may charge interest at a rate of 4 % a year, unless the delay is not the tenant's fault.

      (a) Repairs which cost less than $100 are paid by the tenant; all others by the landlord.

      (b) The tenant must not keep animals, such as dogs or cats, without written permission.

          (i) Fish, birds and hamsters are allowed.

IMPORTANT NOTICE: THIS CONTRACT ENDS ON 31 DECEMBER 2026. IT IS NOT RENEWED. (C) City of Newtown, Department of Housing
"""
NOTES = """\
# Release notes

* **Fixed:** the server no longer stops when a client sends an empty request (#1234).
* Added `--timeout SECONDS`; see [the manual](https://example.org/docs/cli.html#timeout).
- [x] tests   - [ ] documentation

| name    | size | price   |
|---------|-----:|--------:|
| apple   |   12 |  $0.35  |
| melon   |    3 |  $2.10  |

> To be, or not to be: that is the question.
"""
CODE = """\
class Queue(Generic[T]):
    \"\"\"First in, first out.\"\"\"

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items: list[T] = list(items)

    def push(self, item: T) -> None:
        if len(self._items) >= 1_000 and not item:
            raise ValueError(f"the queue is full: {item!r}")
        self._items.append(item)

#include <stdio.h>
int main(void) { for (int i = 0; i < 10; i++) { printf("%d\\n", i * i); } return 0; }

SELECT name, COUNT(*) AS n FROM orders WHERE year = 2021 GROUP BY name ORDER BY n DESC LIMIT 5;
<html><head><title>Home</title></head><body><p class="intro">Welcome!</p></body></html>
$ ls -la /usr/local/bin | grep -v '^d' > files.txt && echo "done"
"""
TALK = """\
"Where were you last night?" she asked. "I was at home," he said, "reading. Why do you want to know?"
She didn't answer. Outside, it began to rain; the street was empty, and a dog barked somewhere far away...

User: Can you tell me a joke?
Assistant: Of course! Why did the scarecrow win a prize? Because he was outstanding in his field.

Once upon a time there was a little girl who lived with her grandmother near the forest. Every morning she took her
basket, said goodbye and walked to the village to sell eggs, butter and milk. One day she met an old man with a grey
beard. "Do you know the way to the sea?" he asked her.
"""
FACTS = """\
Let f(x) = x^2 - 3x + 2. Then f'(x) = 2x - 3, so the minimum is at x = 1.5, where f(1.5) = -0.25. Hence f(x) >= -1/4 for
all real x. Q.E.D.  3.14159265, 2.71828; 10^6 = 1,000,000; 7/8 = 0.875 (87.5 %).

Dr. Maria Gonzalez, University of Oxford, wrote in a journal (vol. 52, pp. 436-444) that the protein binds DNA.
From: anna@example.com To: bob@example.com Subject: Re: Meeting on Tuesday, 14:30 CET

President Lincoln was born in Kentucky in 1809. The Pacific Ocean covers about 165 million square kilometres. Mozart's
opera "The Magic Flute" was first performed in Vienna on 30 September 1791. Gold (Au) melts at 1,064 degrees Celsius.
"""
LANGUAGES = """\
El perro come en la cocina y el gato duerme. Il treno per Roma parte alle otto. O menino joga bola na rua.
Москва является столицей России. Σήμερα βρέχει πολύ. Warszawa leży nad Wisłą.
東京は日本の首都です。 北京是中国的首都。 서울은 한국의 수도입니다. القاهرة عاصمة مصر. दिल्ली भारत की राजधानी है।
"""
TEXTS = (CONTRACT, NOTES, CODE, TALK, FACTS, LANGUAGES)
