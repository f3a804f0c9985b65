"""Where things lie inside a home folder (DESIGN section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ledger.errors import LunaError


@dataclass(frozen=True)
class Home:
    """One user's settings, ledger, weights and data under ``root``. Paths only; ``create`` makes folders."""

    root: Path

    @property
    def settings_file(self) -> Path:
        return self.root / "luna.toml"

    @property
    def db(self) -> Path:
        return self.root / "luna.db"

    @property
    def serving_file(self) -> Path:
        """What is or was last served; missing where nothing ever was."""
        return self.root / "serving.json"

    @property
    def lock(self) -> Path:
        """Held by the one writer of the ledger."""
        return self.root / "luna.lock"

    @property
    def csv(self) -> Path:
        return self.root / "models" / "lineage_ledger.csv"

    @property
    def bases_dir(self) -> Path:
        return self.root / "models" / "base"

    @property
    def adapters_dir(self) -> Path:
        return self.root / "models" / "adapters"

    @property
    def rewards_dir(self) -> Path:
        return self.root / "models" / "reward"

    @property
    def reward_pointer(self) -> Path:
        """Holds the SHA of the reward model in use; missing where there is none."""
        return self.rewards_dir / "current"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def inbox_dir(self) -> Path:
        """Imported and built example sets waiting for a generation, each a Parquet file named by hash."""
        return self.data_dir / "inbox"

    @property
    def pairs_dir(self) -> Path:
        """Imported preference pairs waiting for a generation, each a Parquet file named by hash."""
        return self.inbox_dir / "pairs"

    @property
    def runs_dir(self) -> Path:
        return self.root / "runs"

    def base_dir(self, sha: str) -> Path:
        return self.bases_dir / sha

    def adapter_dir(self, sha: str) -> Path:
        return self.adapters_dir / sha

    def reward_dir(self, sha: str) -> Path:
        return self.rewards_dir / sha

    def data_file(self, sha: str) -> Path:
        return self.data_dir / f"{sha}.parquet"

    def run_dir(self, run_id: str) -> Path:
        return self.runs_dir / run_id

    def create(self) -> Home:
        """Make the folders that are missing."""
        for folder in (self.bases_dir, self.adapters_dir, self.pairs_dir, self.runs_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LunaError(
                    f"could not make the folder {folder}: {error.strerror}. "
                    "Choose another place with --home or LUNA_HOME."
                ) from error
        return self
