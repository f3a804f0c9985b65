"""Bring your own data: JSONL (our records or OpenAI `messages`), Parquet, plain text and Markdown manuals.

`import_file` is the entrance. `records` reads one JSON object, `manuals` cuts a manual into passages,
`report` names what could not be read. To add a format: write a reader that yields (line number, examples or
reason), register it in `files`.
"""

from curriculum.importing.files import import_file as import_file
from curriculum.importing.report import ImportReport as ImportReport
