"""One row of what the doctor found."""

import dataclasses

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the table.

    Attributes:
      section: the heading under which it stands.
      name: what was looked at.
      state: `ok`; `note` where something is missing that the demo does not need; `problem` where the demo needs it.
      found: what is there.
      wanted: what the project asks for; empty where it asks for nothing.
      advice: what to do; empty where nothing is to be done.
    """

    section: str
    name: str
    state: str
    found: str
    wanted: str = ""
    advice: str = ""
