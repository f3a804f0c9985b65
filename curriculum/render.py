"""The one place where a prompt becomes text: training, evaluation and serving all call `render_prompt`."""

from ledger.errors import LunaError
from ledger.roles import Role

# (title, role line, answer marker). The role line is short on purpose: every token of it is computed in every
# prompt.
_FRAMES: dict[str, tuple[str, str, str]] = {
    "creative": ("CREATIVE CONSCIOUSNESS", "You imagine what could be.", "THESIS"),
    "logical": ("LOGICAL CONSCIOUSNESS", "You test what holds.", "ANTITHESIS"),
    "dialectical": ("DIALECTICAL OBSERVER", "You join both into one answer.", "SYNTHESIS"),
}


def role_header(role: Role | str) -> str:
    """The text before context and input, its blank line included: the same for all prompts of a role."""
    title, line, _ = _frame(role)
    return f"[{title}]\n{line}\n\n"


def render_prompt(role: Role | str, input: str, context: str = "") -> str:
    """The raw prompt of a role, up to where its answer begins; no chat template.

    `context` stands before the input, with a blank line between. Raises `LunaError` for an unknown role.
    """
    marker = _frame(role)[2]
    body = f"{context}\n\n{input}" if context else input
    return f"{role_header(role)}{body}\n\n[{marker}]\n"


def dialogue_context(thesis: str, antithesis: str = "") -> str:
    """The context of a later voice in a dialogue: the thesis for `logical`, thesis and antithesis for
    `dialectical`."""
    return f"Thesis: {thesis}\nAntithesis: {antithesis}" if antithesis else f"Thesis: {thesis}"


def _frame(role: str) -> tuple[str, str, str]:
    try:
        return _FRAMES[role]
    except KeyError:
        raise LunaError(f"there is no role {role!r}; use one of {', '.join(_FRAMES)}.") from None
