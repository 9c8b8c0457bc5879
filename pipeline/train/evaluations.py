"""What is measured of a model every so many updates; nothing of it is in any key or result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.core.keys import canonical, digest
from pipeline.model.config import OlmoConfig

if TYPE_CHECKING:
    from pipeline.model.scoring import Scorer

# monitors hear of evaluations by their names, beside these
HISTORY_COLUMNS = frozenset(
    ("step", "loss", "z_loss", "lr", "grad_norm", "param_norm", "skipped", "diverged")
    + ("num_tokens_read", "num_tokens_learned", "tokens_by_source", "tokens_per_second", "mfu")
    + ("seconds", "peak_memory", "segment", "replay")
)


class Evaluation(Protocol):
    """A measurement every so many updates, as a frozen dataclass; each rank begins it for itself.

    Attributes:
        every: so many updates.
        name: that its figures go by.
    """

    @property
    def every(self) -> int: ...

    @property
    def name(self) -> str: ...

    def require(self, model: OlmoConfig, tokenizer: str) -> None:
        """Raises PipelineError where a model that reads these ids cannot be measured.

        Args:
            tokenizer: content digest of the tokenizer whose ids they are.
        """
        ...

    def begin(self) -> Callable[[Scorer], list[dict[str, Any]]]:
        """Read what it needs; gives what measures a model.

        That gives a row a measure: task, metric, value, and what else is known of it. Every rank
        calls it, with a model that they hold together, and has to ask that for the same rows.
        """
        ...


def evaluation_digest(evaluation: Evaluation) -> str:
    """What is measured on which data, in 12 hexadecimal digits; not when, nor under which name."""
    form = canonical(evaluation)
    return digest({n: each for n, each in form.items() if n not in ("every", "name")})[:12]


def check_evaluations(evaluations: Sequence[Evaluation], path: str = "") -> None:
    """Raises ValueError where two of them go by one name, or one by a name that none can have.

    Args:
        path: what is written before `evaluations`.
    """
    names = [each.name for each in evaluations]
    for place, name in enumerate(names):
        if not name or "/" in name or name in HISTORY_COLUMNS:
            raise ValueError(
                f"{path}evaluations[{place}].name is {name!r}; it must be a text without a slash "
                f"that is no column of the history"
            )
        if name in names[:place]:
            raise ValueError(
                f"{path}evaluations[{place}].name is {name!r}, as of evaluations"
                f"[{names.index(name)}]; each must have a name of its own"
            )
