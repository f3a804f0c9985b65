"""The reward model: a frozen encoder, countable features, and an ensemble of small heads; one score for each value.

`score` is batched and may be called from several threads. On disk a model is a folder named by the hash of its files:

    models/reward/<sha>/  encoder/ (Hugging Face, safetensors)  heads.safetensors  reward_config.json  METADATA.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from curriculum.reward import RANGES, VALUES, RewardOutput
from ledger.errors import LunaError
from ledger.files import explain_write_errors, publish_dir, sha256_file, sha256_json, temporary_beside, write_atomic
from ledger.home import Home
from ledger.metadata import METADATA_FILE
from trainers.models.tensors import write_tensors
from trainers.reward.encoder import Encoder, load_encoder
from trainers.reward.features import FEATURES, features

HEADS = (*VALUES, "scalar_preference")
"""What the heads predict: the nine values, and one number for the whole that answers are compared by."""

HEADS_FILE = "heads.safetensors"
CONFIG_FILE = "reward_config.json"
ENCODER_FOLDER = "encoder"

CLIP_SIGMA = 4.0
"""Inputs further from the middle than this many standard deviations count as this far: beyond lies what training never
saw, and a straight line drawn on would say anything there."""

MIN_SLOPE = 0.02
"""Slope added to every calibration, so that two scores never become one value."""


class Heads(torch.nn.Module):
    """`members` networks with one hidden layer, each from the inputs to a rank in about [-1, 1] for every head.

    Inputs are standardised by what training saw, bounded, and scaled by `size`. All members run in one product.
    """

    centre: Tensor
    spread: Tensor
    size: Tensor

    def __init__(self, inputs: int, hidden: int, members: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.register_buffer("size", torch.ones(inputs))
        self.hidden_weight = torch.nn.Parameter(torch.zeros(members, inputs, hidden))
        self.hidden_bias = torch.nn.Parameter(torch.zeros(members, 1, hidden))
        self.out_weight = torch.nn.Parameter(torch.zeros(members, hidden, len(HEADS)))
        self.out_bias = torch.nn.Parameter(torch.zeros(members, 1, len(HEADS)))

    def forward(self, inputs: Tensor, input_dropout: float = 0.0, dropout: float = 0.0) -> Tensor:
        """(answers, inputs) to (members, answers, heads); dropout only where asked for."""
        scaled = ((inputs - self.centre) / self.spread).clamp(-CLIP_SIGMA, CLIP_SIGMA) * self.size
        scaled = scaled.expand(len(self.hidden_weight), -1, -1)
        if input_dropout:
            scaled = torch.nn.functional.dropout(scaled, input_dropout)
        hidden = torch.nn.functional.gelu(torch.baddbmm(self.hidden_bias, scaled, self.hidden_weight))
        if dropout:
            hidden = torch.nn.functional.dropout(hidden, dropout)
        return torch.baddbmm(self.out_bias, hidden, self.out_weight)


class RewardModel:
    """Scores answers. Made by `trainers.reward.train.train_reward_model` or `load_reward_model`."""

    def __init__(self, encoder: Encoder, heads: Heads, knots: Tensor, metadata: dict[str, Any]):
        """
        Args:
            knots: (heads, knots, 2), the points (score, value) of each head's calibration, scores ascending.
            metadata: what `METADATA.json` says.
        """
        self.encoder = encoder
        self.heads = heads.eval().requires_grad_(False)
        self.knots = knots
        self.metadata = metadata

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[RewardOutput]:
        """One judgement for each prompt and answer, in order.

        Raises:
            LunaError: there are not as many prompts as answers.
        """
        if len(prompts) != len(responses):
            raise LunaError(f"{len(prompts)} prompts and {len(responses)} answers; give one prompt with each answer.")
        if not responses:
            return []
        return [output_of(row) for row in self.calibrated(self.raw(model_inputs(self.encoder, prompts, responses)))]

    def raw(self, inputs: Tensor) -> Tensor:
        """Scores before calibration: (answers, inputs) to (answers, heads), the mean over the members."""
        with torch.inference_mode():
            return self.heads(inputs).mean(0)

    def calibrated(self, scores: Tensor) -> list[list[float]]:
        """Scores as values in their ranges, one row an answer."""
        columns = [calibrate(scores[:, i].double(), self.knots[i].double()) for i in range(len(HEADS))]
        rows: list[list[float]] = torch.stack(columns, dim=1).tolist()
        return rows


def model_inputs(encoder: Encoder, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
    """What the heads read: (answers, features + encoder width), float32."""
    counted = torch.tensor(
        [features(prompt, response) for prompt, response in zip(prompts, responses, strict=True)], dtype=torch.float32
    )
    return torch.cat([counted, encoder.pooled(prompts, responses)], dim=1)


def calibrate(scores: Tensor, knots: Tensor) -> Tensor:
    """Scores to values: linear between the knots (n, 2), level outside them, plus `MIN_SLOPE`. Strictly increasing."""
    x, y = knots[:, 0].contiguous(), knots[:, 1]
    right = torch.searchsorted(x, scores.contiguous()).clamp(1, len(x) - 1)
    left = right - 1
    share = ((scores - x[left]) / (x[right] - x[left])).clamp(0, 1)
    return y[left] + share * (y[right] - y[left]) + MIN_SLOPE * scores


def output_of(row: Sequence[float]) -> RewardOutput:
    """Calibrated values as a judgement; what `MIN_SLOPE` takes past a range's end is put back."""
    return RewardOutput(
        **{name: min(RANGES[name][1], max(RANGES[name][0], value)) for name, value in zip(HEADS, row, strict=True)}
    )


def save_reward_model(model: RewardModel, home_dir: Path, metadata: dict[str, Any]) -> Path:
    """Write the model under `home_dir/<sha>` and return that folder; a model already there stays as it is.

    The sha is over all files but METADATA.json, which says when and from what the model was made.

    Raises:
        LunaError: the disk refuses; nothing is left half-written.
    """
    temporary = temporary_beside(home_dir / "new")
    try:
        with explain_write_errors(home_dir):
            temporary.mkdir(parents=True)
            model.encoder.save(temporary / ENCODER_FOLDER)
            tensors = {name: tensor.contiguous() for name, tensor in model.heads.state_dict().items()}
            write_tensors({**tensors, "knots": model.knots.contiguous()}, temporary / HEADS_FILE)
            config = {
                "blocks": list(model.encoder.blocks),
                "max_tokens": model.encoder.max_tokens,
                "features": list(FEATURES),
                "heads": list(HEADS),
            }
            (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        sha = reward_sha(temporary)
        text = json.dumps({"sha": sha, **metadata}, indent=1, ensure_ascii=False) + "\n"
        write_atomic(temporary / METADATA_FILE, text)
        return publish_dir(temporary, home_dir / sha)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def reward_sha(folder: Path) -> str:
    """The name of a model's folder: SHA-256 over `{file: sha256}` of its files, METADATA.json left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != METADATA_FILE)
    return sha256_json({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def load_reward_model(folder: Path, device: torch.device | None = None) -> RewardModel:
    """Load a saved model; the encoder goes to `device` (default CPU), the heads stay on the CPU.

    Raises:
        LunaError: it is missing, its files are not those that its name promises, or another version made it.
    """
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not isinstance(metadata, dict) or not isinstance(config, dict):
            raise ValueError("its files hold no JSON objects")
    except (OSError, ValueError, RecursionError) as error:
        raise LunaError(f"there is no reward model at {folder} ({error}); run `luna reward train`.") from error
    if metadata.get("sha") != (found := reward_sha(folder)):
        raise LunaError(
            f"the reward model at {folder} was changed: its files hash to {found[:12]}, not "
            f"{metadata.get('sha')!s:.12}. Restore it or run `luna reward train` again."
        )
    if (config.get("features"), config.get("heads")) != (list(FEATURES), list(HEADS)):
        raise LunaError(f"the reward model at {folder} was made by another version of Luna; train it again.")
    encoder = load_encoder(
        str(folder / ENCODER_FOLDER), None, config["blocks"], config["max_tokens"], device or torch.device("cpu")
    )
    tensors = load_file(folder / HEADS_FILE)
    knots = tensors.pop("knots")
    members, inputs, hidden = tensors["hidden_weight"].shape
    heads = Heads(inputs, hidden, members)
    heads.load_state_dict(tensors)
    return RewardModel(encoder, heads, knots, metadata)


def current_model(home: Home) -> Path:
    """The folder of the reward model in use.

    Raises:
        LunaError: the home has none yet.
    """
    pointer = home.reward_pointer
    if not pointer.exists():
        raise LunaError(f"{home.root} has no reward model yet; run `luna reward train --labels FILE`.")
    return home.reward_dir(pointer.read_text(encoding="utf-8").strip())


def reward_model_in_use(home: Home) -> Path | None:
    """The folder of the reward model in use; None where the home has none yet."""
    return current_model(home) if home.reward_pointer.exists() else None


def make_current(home: Home, folder: Path) -> None:
    """Have the home use this model from now on."""
    write_atomic(home.reward_pointer, folder.name + "\n")
