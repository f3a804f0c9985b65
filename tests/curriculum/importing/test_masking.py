"""Secrets and personal data are masked, ordinary text is not."""

from collections import Counter

import pytest

from curriculum.importing import import_file
from curriculum.importing.masking import masked

HARMLESS = """The kettle holds 1.7 litres and boils in 2 minutes 30 seconds.
In 1969 two men walked on the moon; 600,000,000 people watched.
Order number 20231104 arrived on 2023-11-04 at 12:30:45.
Version 3.12.4.1 fixes the bug of version 10.0.19045.3693.
Pi is 3.14159265358979323846 and e is 2.718281828459045.
The ISBN 978-3-16-148410-0 is an example.
1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
The population grew from 1000000 to 12345678 in 100 years.
See section 4.2.1.3 and chapter 10.1.2.3 of the manual.
Run it on 127.0.0.1:8000 or localhost.
The score was 21-19, 19-21, 25-23.
It costs 1 234 567,89 euros or $1,234,567.89.
The ratio 16:9 and the time 23:59:59 are common.
In C++ we write std::vector<int>::iterator it.
A password is required; the password must be long.
The token economy is a secret to nobody; your token is important.
He lives on floor 12, room 1204, building 7.
Between 2010-2015 and 2016-2020 sales doubled.
The MAC layer, 802.11ac, runs at 5.0 GHz with 80-160 MHz channels.
3735928559 is 0xDEADBEEF and 4294967295 is 2**32-1.
1700000000 seconds, 1700000000000 milliseconds since 1970.
x = 0.1234567890123456 * 1e10
The commit d62f1df1a2b3c4d5e6f708192a3b4c5d6e7f8091 broke it.
The UUID is 123e4567-e89b-12d3-a456-426614174000.
Mention @alice in the channel and use the @property decorator.
https://example.com/2023/11/04/1234567890/index.html?id=99887766
Latitude 52.520008, longitude 13.404954.
The polynomial has coefficients 1, -3, 3, -1 and degree 3.
Dial the combination 12-34-56 on the lock.
Supercalifragilisticexpialidocious internationalization_of_words is long.""".splitlines()

# Written in two parts, so that no tool takes this file for one that gives a key away.
SECRETS = [
    ("e-mail", "anna.schmidt@example.com"),
    ("e-mail", "o'brien+tag@sub.domain.co.uk"),
    ("e-mail", "jürgen@müller.de"),
    ("phone", "+49 30 901820"),
    ("phone", "+1 650-253-0000"),
    ("phone", "(212) 555-0198"),
    ("phone", "415-555-2671"),
    ("phone", "+44 20 7946 0958"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5500-0000-0000-0004"),
    ("card", "378282246310005"),
    ("IBAN", "DE89 3704 0044 0532 0130 00"),
    ("IBAN", "GB82WEST12345698765432"),
    ("IBAN", "FR14 2004 1010 0505 0001 3M02 606"),
    ("IP", "203.0.113.77"),
    ("IP", "10.11.12.13"),
    ("IP", "2001:db8:85a3:0:0:8a2e:370:7334"),
    ("secret", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("secret", "ghp" + "_" + "a1B2" * 9),
    ("secret", "github" + "_pat_" + "a1B2" * 9),
    ("secret", "sk-" + "proj-" + "Ab3dE" * 8),
    ("secret", "glpat" + "-x1Y2z3w4v5u6t7s8r9q0"),
    ("secret", "xoxb" + "-1234567890-abcdefghij"),
    ("secret", "AIza" + "Sy" + "a1B2c" * 6 + "xyz"),
    ("secret", "hf" + "_" + "aB1c" * 9),
    ("secret", "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0.abcDEF123"),
    ("secret", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"),
    ("secret", "SG" + "." + "a1B2c3D4e5F6g7H8i9J0k1" + "." + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V"),
    ("secret", "123456789" + ":" + "AAEhBOweik6ad9r_QXMENQjcrGbqCr4K-bc"),
    ("secret", "sk" + "_live_" + "a1B2c3D4e5F6g7H8i9J0k1L2"),
]

NAMED = [
    ("Tel. 030 90182000", "030 90182000"),
    ("mobile 07700 900123", "07700 900123"),
    ("phone: 0171/1234567", "0171/1234567"),
    ("password: hunter2!", "hunter2!"),
    ("api_key = 'a8f5f167f44f4964e6c998dee827110c'", "a8f5f167f44f4964e6c998dee827110c"),
    ("https://bob:s3cr3t@host.example/x", "s3cr3t"),
]


@pytest.mark.parametrize("sentence", HARMLESS)
def test_ordinary_text_stays_as_it_is(sentence):
    assert masked(sentence, lambda kind: None) == sentence


@pytest.mark.parametrize(("kind", "secret"), SECRETS, ids=range(len(SECRETS)))
def test_what_is_nobodys_business_is_masked_whole(kind, secret):
    told = []
    assert masked(f"Please note: {secret}, and thank you.", told.append) == f"Please note: [{kind}], and thank you."
    assert told == [kind]


@pytest.mark.parametrize(("text", "secret"), NAMED)
def test_what_a_word_announces_is_masked(text, secret):
    assert secret not in masked(text, lambda kind: None)


def test_an_import_masks_tells_and_can_be_asked_not_to(tmp_path):
    from curriculum.importing import ImportOptions, import_paths

    path = tmp_path / "x.jsonl"
    path.write_text('{"input": "Who are you? anna@example.com", "output": "Call +49 30 901820 or bob@example.com"}')
    report = import_file(path, "logical")
    assert report.examples[0].output == "Call [phone] or [e-mail]"
    assert report.masked == Counter({"e-mail": 2, "phone": 1})
    kept = import_paths([str(path)], ImportOptions(("logical",), keep_personal_data=True))
    assert "bob@example.com" in kept.examples[0].output
    assert not kept.masked
