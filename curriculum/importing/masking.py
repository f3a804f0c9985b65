"""Secrets and personal data in text: found by kept libraries, and replaced by what they were.

detect-secrets knows the shapes of keys and tokens, phonenumbers the world's telephone numbers, python-stdnum the check
digits of IBANs and cards. Names and postal addresses are not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import cache

_SUSPECT = re.compile(
    r"@\w|\d[\d .()/\-]{5,}\d|[\w\-+/=.]{20,}|://[^\s/]+:|-----BEGIN|[0-9a-fA-F]:[0-9a-fA-F:]*:[0-9a-fA-F]"
    r"|\d\.\d+\.\d+\.\d|(?i:passw|passphrase|secret|token|api[ _-]?key|\bpwd\b|\bpin\b)"
)
"""What any of the finders needs at least; most text has none of it."""

_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----[\s\S]*?(?:-----END [A-Z0-9 ]*-----|\Z)")
_TOKENS = re.compile(
    r"\b(?:sk-[\w-]{20,}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,}|github_pat_\w{22,}|xox[abprs]-[\w-]{10,}|npm_[A-Za-z0-9]{36})"
    r"|(?<=[Bb]earer )[\w.~+/-]{20,}=*"
)
_NAMED = re.compile(
    r"(?i)(?<![a-z])(?:pass(?:word|phrase|wd)|pwd|secret|token|(?:api|access|auth|secret)[ _-]?(?:key|token))"
    r"[\"']?(?:\s*[:=]\s*|\s+is\s*:?\s+)[\"'`]?([^\s\"'`,;]{6,})"
)
_REST = re.compile(r"[\w\-+/=]*")
"""What goes on of a token whose shape ends early."""
_EMAIL = re.compile(r"[\w.+%'-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[^\W\d_]{2,24}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\d.,])\d(?:[ -]?\d){12,18}(?![\d])")
_CARD_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12}|6(?:011|5\d\d)\d{12}|35\d{14}"
)
_PHONE = re.compile(r"(?<![\w.,])(?:\+|\()?\d[\d ().\-/]{5,24}\d(?![\w])")
_PHONE_WORD = re.compile(
    r"(?i)\b(?:tel|telephone|telefon|phone|call|called|calling|mobile|cell|fax|handy|whatsapp|ring|reach)\b"
    r"[^\d+\n]{0,20}$"
)
_IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_NO_ADDRESS = re.compile(r"(?i)(?:version|release|build|section|chapter|clause|paragraph|§|\bv\.?|\bver\.?)\s*$")
_IP6 = re.compile(r"(?<![\w:])[0-9a-fA-F]{0,4}(?::{1,2}[0-9a-fA-F]{1,4}){3,7}(?![\w:])")

Span = tuple[int, int, str]
Finder = Callable[[str], Iterator[Span]]


def masked(text: str, note: Callable[[str], None]) -> str:
    """The text with `[e-mail]`, `[phone]`, `[card]`, `[IBAN]`, `[IP]` or `[secret]` in place of each; tells `note` the
    kind of each."""
    if not _SUSPECT.search(text):
        return text
    for find in (_secrets, _emails, _ibans, _cards, _addresses, _phones):
        text = _replaced(text, find, note)
    return text


def _replaced(text: str, find: Finder, note: Callable[[str], None]) -> str:
    pieces, end = [], 0
    for start, stop, kind in sorted(find(text)):
        if start >= end:
            pieces += [text[end:start], f"[{kind}]"]
            end = stop
            note(kind)
    return "".join([*pieces, text[end:]]) if pieces else text


def _secrets(text: str) -> Iterator[Span]:
    for pattern in (_KEY_BLOCK, _TOKENS):
        for match in pattern.finditer(text):
            yield *match.span(), "secret"
    for match in _NAMED.finditer(text):
        if re.search(r"\d", match[1]) and re.search(r"[^\W\d_]", match[1]) and "://" not in match[1]:
            yield *match.span(1), "secret"
    for pattern, group in _shapes():
        for match in pattern.finditer(text):
            start, end = match.span(group)
            yield start, end if group else _REST.match(text, end).end(), "secret"  # type: ignore[union-attr]


@cache
def _shapes() -> tuple[tuple[re.Pattern[str], int], ...]:
    """The shapes that detect-secrets knows, and the group that is the secret. Left out are Artifactory's, which fits
    plain words, and those of private keys and addresses, which are found above and below."""
    from detect_secrets.plugins import (
        aws,
        azure_storage_key,
        basic_auth,
        discord,
        github_token,
        gitlab_token,
        jwt,
        mailchimp,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
        twilio,
    )

    whole = (
        azure_storage_key.AzureStorageKeyDetector,
        discord.DiscordBotTokenDetector,
        github_token.GitHubTokenDetector,
        gitlab_token.GitLabTokenDetector,
        jwt.JwtTokenDetector,
        mailchimp.MailchimpDetector,
        pypi_token.PypiTokenDetector,
        sendgrid.SendGridDetector,
        slack.SlackDetector,
        square_oauth.SquareOAuthDetector,
        stripe.StripeDetector,
        telegram_token.TelegramBotTokenDetector,
        twilio.TwilioKeyDetector,
    )
    key, named_key = aws.AWSKeyDetector.denylist
    [login] = basic_auth.BasicAuthDetector.denylist
    return ((key, 0), (named_key, 1), (login, 1), *((shape, 0) for one in whole for shape in one.denylist))


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text) if "@" in text else ():
        yield *match.span(), "e-mail"


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        from stdnum import iban

        if iban.is_valid(match[0]):
            yield *match.span(), "IBAN"


def _cards(text: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        from stdnum import luhn

        digits = re.sub(r"\D", "", match[0])
        if _CARD_ISSUERS.fullmatch(digits) and luhn.is_valid(digits):
            yield *match.span(), "card"


def _addresses(text: str) -> Iterator[Span]:
    for pattern in (_IP4, _IP6):
        for match in pattern.finditer(text):
            if not _NO_ADDRESS.search(text, max(0, match.start() - 12), match.start()) and _is_address(match[0]):
                yield *match.span(), "IP"


def _is_address(text: str) -> bool:
    """An address that is somebody's: not this machine's own, which is everybody's."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _phones(text: str) -> Iterator[Span]:
    """Numbers with a country's code, American ones in their usual spelling, and those that a word announces."""
    candidates = [match for match in _PHONE.finditer(text) if 7 <= sum(map(str.isdigit, match[0])) <= 15]
    if not candidates:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for region, leniency in ((None, Leniency.VALID), ("US", Leniency.STRICT_GROUPING)):
        for found in PhoneNumberMatcher(text, region, leniency, 1000):
            if region is None or re.search(r"\d[ ().\-]+\d", found.raw_string):
                yield found.start, found.end, "phone"
    for match in candidates:
        if _PHONE_WORD.search(text, max(0, match.start() - 32), match.start()):
            yield *match.span(), "phone"
