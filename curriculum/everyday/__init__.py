"""Everyday life: what anybody may be asked, and how Luna answers it.

Start at `questions`, the pool from which a base's own list is drawn: what it answers rightly before any training. To
add one, write it into `curriculum/data/everyday/questions.toml`; lessons stand in `lessons.toml` beside it.
"""

from curriculum.everyday.answers import bare_glyph as bare_glyph
from curriculum.everyday.answers import is_right as is_right
from curriculum.everyday.lessons import everyday_examples as everyday_examples
from curriculum.everyday.questions import FORMS as FORMS
from curriculum.everyday.questions import EverydayQuestion as EverydayQuestion
from curriculum.everyday.questions import questions as questions
from curriculum.everyday.rehearsal import Known as Known
from curriculum.everyday.rehearsal import rehearsals as rehearsals
