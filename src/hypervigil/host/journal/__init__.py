"""What happened, append-only and hash-chained: every fact that decided, decision, limit, withheld act and gap.

``Journal`` writes and reads; ``verify`` finds any altered, removed, inserted, reordered or truncated record; ``replay``
calls the judge again on the facts of each verdict. The journal decides nothing and forgets nothing.
"""

from hypervigil.host.journal.journal import Journal
from hypervigil.host.journal.records import Entry, JournalError, Kind, Record

__all__ = ["Entry", "Journal", "JournalError", "Kind", "Record"]
