"""The one place where a prompt becomes text: training, evaluation and serving all call `render_prompt`."""

import re

from ledger.errors import LunaError
from ledger.roles import Role

# (title, role line, answer marker). The role line is short on purpose: every token of it is computed in every
# prompt.
_FRAMES: dict[str, tuple[str, str, str]] = {
    "creative": ("CREATIVE CONSCIOUSNESS", "You imagine what could be.", "THESIS"),
    "logical": ("LOGICAL CONSCIOUSNESS", "You test what holds.", "ANTITHESIS"),
    "dialectical": ("DIALECTICAL OBSERVER", "You join both into one answer.", "SYNTHESIS"),
}

USER, LUNA, THESIS, ANTITHESIS = "User: ", "Luna: ", "Thesis: ", "Antithesis: "
"""What lines of a context begin with."""

_LIKE_OURS = re.compile(f"^(?={USER}|{LUNA}|{THESIS}|{ANTITHESIS})", re.MULTILINE)


def role_header(role: Role | str) -> str:
    """The text before context and input, its blank line included: the same for all prompts of a role."""
    title, line, _ = _frame(role)
    return f"[{title}]\n{line}\n\n"


def render_prompt(role: Role | str | None, input: str, context: str = "") -> str:
    """The raw prompt of a role, up to where its answer begins; no chat template. The base (None) has no frame.

    `context` stands before the input, with a blank line between. Raises `LunaError` for an unknown role.
    """
    body = f"{context}\n\n{input}" if context else input
    return body if role is None else f"{role_header(role)}{body}\n\n[{_frame(role)[2]}]\n"


def dialogue_context(thesis: str, antithesis: str = "") -> str:
    """The context of a later voice in a dialogue: the thesis for `logical`, thesis and antithesis for
    `dialectical`."""
    said = f"{THESIS}{quoted(thesis)}"
    return f"{said}\n{ANTITHESIS}{quoted(antithesis)}" if antithesis else said


def quoted(text: str) -> str:
    """A text whose lines cannot be taken for the beginning of what somebody else said: a space is set before them."""
    return _LIKE_OURS.sub(" ", text)


def _frame(role: str) -> tuple[str, str, str]:
    try:
        return _FRAMES[role]
    except KeyError:
        raise LunaError(f"there is no role {role!r}; use one of {', '.join(_FRAMES)}.") from None
