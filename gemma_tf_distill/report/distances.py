"""How far data is from the training documents, for who measures it and who shows it."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far a feature is from that of the training documents.

    Attributes:
      feature: of `DOCUMENT_FEATURES`, `source`, or of `corpus.features`.
      of: what is compared with them: `held-out documents` or `serving prompts`.
      measure: `Jensen-Shannon divergence` (base 2) or `infinity norm`.
      value: the distance.
      limit: none where the config asks for none.
    """

    feature: str
    of: str
    measure: str
    value: float
    limit: float | None

    @property
    def is_over(self) -> bool:
        """Whether it breaks its limit; a distance that is no number does."""
        return self.limit is not None and not self.value <= self.limit

    @property
    def words(self) -> str:
        """The distance and its limit, if it has one, in a sentence."""
        value = f"{self.value:.4f}" if math.isfinite(self.value) else "no number"
        limit = "" if self.limit is None else f", limit {self.limit:g}"
        return f"{self.feature} of {self.of} is {value} from the training documents' ({self.measure}){limit}"


def distance_records(distances: Iterable[Distance]) -> list[dict[str, Any]]:
    """Distances as JSON takes them: one that is no number is null."""
    return [{**dataclasses.asdict(distance), "value": distance.value if math.isfinite(distance.value) else None} for distance in distances]


def distances_of(records: Iterable[Mapping[str, Any]]) -> list[Distance]:
    """What `distance_records` made."""
    return [Distance(**{**record, "value": math.nan if record["value"] is None else record["value"]}) for record in records]
