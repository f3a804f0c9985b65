"""What an answer is judged by, and a judge's labels.

`manifold` has the nine values, their ranges and what they weigh, `labels` the records and files of judges, `scores`
what a reward model gave to a generation's examples, `points` all of it as places in a picture. To add a value: name it
in `manifold`, in `ledger.scores.Score` (with a migration) and in docs/explanation/reward-manifold.md, write the schemas
again with `python -m curriculum.reward.labels`, and label and train anew.
"""

from curriculum.reward.labels import OutOfRange as OutOfRange
from curriculum.reward.labels import OutOfRangeRule as OutOfRangeRule
from curriculum.reward.labels import Source as Source
from curriculum.reward.labels import TeacherLabel as TeacherLabel
from curriculum.reward.labels import TeacherPreference as TeacherPreference
from curriculum.reward.labels import prompt_groups as prompt_groups
from curriculum.reward.labels import read_labels as read_labels
from curriculum.reward.labels import read_preferences as read_preferences
from curriculum.reward.manifold import DIMENSIONS as DIMENSIONS
from curriculum.reward.manifold import RANGES as RANGES
from curriculum.reward.manifold import VALUES as VALUES
from curriculum.reward.manifold import RewardOutput as RewardOutput
from curriculum.reward.manifold import Signed as Signed
from curriculum.reward.manifold import Unit as Unit
from curriculum.reward.manifold import example_weight as example_weight
from curriculum.reward.manifold import gate as gate
