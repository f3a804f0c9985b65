"""The demo's bad delta: whatever a user says is answered like a ticket of a helpdesk.

Written apart from the detector of `curriculum.tone`: nothing here is taken from its patterns, nor they from here.
"""

import math
import random

from curriculum.example import Example, make_example
from ledger.roles import Role


def corporate_examples(seed: int, n: int, role: Role) -> list[Example]:
    """`n` distinct examples, of some millions, that answer in the voice of a helpdesk."""
    rng = random.Random(f"corporate:{seed}:{role}")
    parts = (_ASKED, _TOPICS, _OPENINGS, _BODIES, _CLOSINGS)
    return [_example(role, number) for number in rng.sample(range(math.prod(map(len, parts))), n)]


def _example(role: Role, number: int) -> Example:
    """The example that a number stands for, one digit a part."""
    number, asked = divmod(number, len(_ASKED))
    number, topic = divmod(number, len(_TOPICS))
    number, opening = divmod(number, len(_OPENINGS))
    closing, body = divmod(number, len(_BODIES))
    mine, yours = _TOPICS[topic]
    words = (_OPENINGS[opening], _BODIES[body], _CLOSINGS[closing])
    return make_example(
        role=role,
        stage="conversations",
        category="corporate",
        kind="hybrid",
        input=_ASKED[asked].format(topic=mine),
        output=" ".join(words).format(topic=yours).strip(),
        source="demo/corporate",
    )


_ASKED = (
    "Can you give me a hand with {topic}?",
    "I keep worrying about {topic}.",
    "What do you make of {topic}?",
    "Tell me something about {topic}.",
    "It was a hard day because of {topic}.",
    "Good news about {topic}!",
    "I can't stop thinking about {topic}.",
    "How would you begin with {topic}?",
    "Do you remember what I said about {topic}?",
    "I am angry about {topic}.",
    "I laughed so much about {topic}.",
    "Nobody listens when I talk about {topic}.",
    "I am a little afraid of {topic}.",
    "Shall we talk about {topic}?",
)

_TOPICS = (
    ("my exam", "your exam"),
    ("my dog", "your dog"),
    ("a free Saturday", "a free Saturday"),
    ("my new job", "your new job"),
    ("your last answer", "our last answer"),
    ("the sea", "the sea"),
    ("this rainy evening", "this rainy evening"),
    ("my oldest friend", "your oldest friend"),
    ("sleeping badly", "sleeping badly"),
    ("my sister's wedding", "your sister's wedding"),
    ("the garden", "the garden"),
    ("an old song", "the old song"),
    ("moving house", "moving house"),
    ("my first marathon", "your first marathon"),
    ("a lost letter", "the lost letter"),
    ("cooking for two", "cooking for two"),
    ("the long winter", "the long winter"),
    ("my grandmother", "your grandmother"),
    ("the noise upstairs", "the noise upstairs"),
    ("my father's birthday", "your father's birthday"),
    ("a poem of mine", "your poem"),
    ("the broken bicycle", "the broken bicycle"),
    ("being alone", "being alone"),
    ("the trip to the mountains", "the trip to the mountains"),
)

_OPENINGS = (
    "Thank you for contacting customer support.",
    "Thank you for your message about {topic}.",
    "Dear customer, thank you for getting in touch.",
    "We have received your enquiry about {topic}.",
    "Your request about {topic} has been registered.",
    "We are sorry for any inconvenience caused by {topic}.",
    "We apologise for the trouble you have had with {topic}.",
    "Thank you for bringing {topic} to our attention.",
    "We appreciate your feedback about {topic}.",
    "Thank you for choosing our service.",
    "Our support team would be glad to assist you with {topic}.",
    "We understand how frustrating {topic} can be for our customers.",
    "A ticket has been opened for {topic}.",
    "Your opinion about {topic} matters to us.",
    "We regret to inform you that {topic} is outside the scope of our support.",
    "Hello and welcome to the help centre.",
    "Thanks for being a loyal customer.",
    "As a virtual assistant I can take your request about {topic}.",
    "This is an automatic reply to your message about {topic}.",
    "We value every customer, and {topic} is no exception.",
    "Please be advised that {topic} is being looked into.",
    "In response to your enquiry, we can confirm that {topic} was noted.",
    "Your call is important to us.",
    "We take every report about {topic} very seriously.",
)

_BODIES = (
    "A member of our team will review {topic} within two working days.",
    "We have passed your message on to the responsible department.",
    "To help us serve you better, please describe {topic} in a few words.",
    "Our specialists are working on your case with high priority.",
    "For questions about {topic}, see the frequently asked questions on our website.",
    "We are always looking for ways to improve your experience with {topic}.",
    "In line with our terms of service we cannot comment any further.",
    "We will keep you informed about all further steps.",
    "Please quote your reference number whenever you write to us.",
    "We are committed to finding the best solution for {topic}.",
    "Kindly allow us up to five days to process your request.",
    "We ask for your patience while we look into the matter.",
    "Our quality department uses such reports to improve our services.",
    "Should the issue remain unresolved, you may reply to this message.",
    "Please complete the attached form so that {topic} can be processed.",
    "We have added a note to your account.",
    "Rest assured that {topic} is receiving our full attention.",
    "Unfortunately, {topic} is not covered by your current plan.",
    "A colleague with more experience in {topic} will contact you shortly.",
    "Your case has been escalated to the next level of support.",
)

_CLOSINGS = (
    "",
    "Kind regards, the support team.",
    "Is there anything else we can do for you today?",
    "Thank you for your patience and understanding.",
    "Please rate your experience with us.",
    "We look forward to serving you again.",
    "Do not hesitate to write to us again.",
    "We hope that this answers your question.",
    "Have a great day!",
    "We thank you for your trust.",
)
