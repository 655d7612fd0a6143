"""What can go wrong with a model. ``str(error)`` is one line: what is wrong and what to do next."""

from orchestrator.model.extras import advice
from schemas.errors import LinguabusError

HERE_ALREADY = "is here already"
"""By which the gateway knows this error among the command's lines."""


class ModelError(LinguabusError):
    """Base of every error of this package."""


class NoSuchModel(ModelError):
    """The name, folder, file or Hugging Face id leads nowhere."""


class ModelExists(ModelError):
    """A model of that name is already in the store."""


class ModelIsHere(ModelExists):
    """The very model that was to be added is in the store, made of the same source in the same way."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} {HERE_ALREADY}: linguabus model rm {name} first has it made anew")
        self.name = name


class ArchiveExists(ModelError):
    """There is a file already where an archive was to be written."""


class NoRoom(ModelError):
    """The disk is too full for what is to be written."""


class ModelInUse(ModelError):
    """The model is being served."""


class ModelFilesLost(ModelError):
    """Files of a model that was opened are there no more."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(
            f"model {name} has lost its file {file}: add it again (linguabus model rm {name} --force, linguabus model"
            f" add SOURCE --name {name}), then linguabus model use {name}"
        )


class BrokenModel(ModelError):
    """A file is there but cannot be read as what it claims to be."""


class BrokenTemplate(BrokenModel):
    """The chat template makes no prompt of a conversation.

    ``summary`` says so too, but without what the template wrote: people's text may be in that.
    """

    def __init__(self, summary: str, detail: str = "", advice: str = "") -> None:
        super().__init__(summary + (f": {detail}" if detail else "") + (f"; {advice}" if advice else ""))
        self.summary = summary


class UnsupportedModel(ModelError):
    """The architecture, precision or source kind is not one that can be converted."""


class ConversionFailed(ModelError):
    """The conversion tool ended with an error."""


class WrongConversion(ModelError):
    """The converted model computes something else than its source."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__(
            f"{source} was converted to another model and is not added: {'; '.join(problems)}. Report it with the name"
            " of the model, please; another source of the same model (its authors' checkpoint) may do"
        )


class MissingDependency(ModelError):
    """Optional packages are needed for this step and are not installed; all that is missing of ``extras`` is named."""

    def __init__(self, what: str, *extras: str) -> None:
        super().__init__(f"{what}: {advice(extras)}")


class UnsplittableGraph(ModelError):
    """The decoder graph cannot be cut into units; names the tensor or node and the reason."""


class ManifestError(ModelError):
    """A manifest is missing, damaged or written by another version."""


class BlobCorrupt(ModelError):
    """A weight blob is missing or does not match its SHA-256."""


class CannotRun(ModelError):
    """ONNX Runtime on this machine can't run a unit of the model, for want of memory for example."""

    def __init__(self, unit: int, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        super().__init__(f"unit {unit} can't be run here: {reason}")
