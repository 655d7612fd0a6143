"""What the last stages know of sets of tokens: a set travels once, and is then told by its name (pure)."""

from __future__ import annotations

from schemas.messages import TokenMask
from schemas.token_mask import RecentMasks, mask_id, pack_mask


class ToldMasks:
    """The sets that one last stage has been told, as long as it remembers them."""

    def __init__(self, vocab_size: int) -> None:
        self._recent: RecentMasks[bool] = RecentMasks(vocab_size)

    def tell(self, mask: bytes) -> TokenMask:
        """A set in a message to the stage: its name, and what it is made of unless the stage knows that."""
        name = mask_id(mask)
        if self._recent.use(name):
            return TokenMask(id=name)
        self._recent.add(name, True)
        return TokenMask(id=name, data=pack_mask(mask))
