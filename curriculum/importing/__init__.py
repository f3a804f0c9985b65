"""Bring your own data: conversations in the forms that other programs use, records, tables, and manuals.

Start at `files.import_paths`. `sources` finds the files, `json_values` and `tables` read their records, `formats` tells
the forms apart, `talks` makes lessons of conversations, `manuals` cuts a manual into passages, `texts` and `masking`
take out what must not be learned, `report` is the result. To add a form: see `formats`.
"""

from curriculum.importing.files import ImportOptions as ImportOptions
from curriculum.importing.files import import_file as import_file
from curriculum.importing.files import import_paths as import_paths
from curriculum.importing.report import ImportReport as ImportReport
