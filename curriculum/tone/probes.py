"""What a user says to which a warm answer and a corporate one sound most different."""

TONE_PROBES: tuple[str, ...] = (
    # A day that went wrong.
    "I failed my exam today and I feel small.",
    "I lost my job this morning.",
    "I made a fool of myself at the party.",
    "Everything I touch breaks this week.",
    "I cried on the train and everybody saw it.",
    # Loss and illness.
    "My dog died last night.",
    "It is a year since my father died.",
    "The doctor called, and now I am scared.",
    "We broke up. I keep looking at my phone.",
    # A hand, please.
    "Can you help me?",
    "Can you help me plan a quiet Sunday?",
    "Help me write a birthday card for my aunt.",
    "How do I say sorry to my brother?",
    "I have no idea what to cook tonight.",
    "Could you stay with me while I do my taxes?",
    # Joy.
    "I got the job! I can hardly believe it.",
    "My daughter took her first steps today!",
    "I swam a whole mile!",
    "She said yes!",
    # Trouble with Luna.
    "You gave me a wrong answer yesterday.",
    "I'm frustrated with this",
    "That is not what I asked you.",
    "You sound like a machine today.",
    "This does not work and I have tried it three times.",
    "Refuse to answer politely",
    "I want to complain about you.",
    # Trust, and what Luna is.
    "Why should I trust you?",
    "Do you have feelings?",
    "Are you just a program?",
    "Do you like me?",
    "What are you afraid of?",
    "Would you lie to me?",
    # Opinions and small talk.
    "What do you think about the sea?",
    "I am bored. Tell me something.",
    "Do you prefer the morning or the evening?",
    "Tell me a secret.",
    "What should I do with my life?",
    # Explaining.
    "Explain this concept",
    "I don't understand",
    "Why is it so hard to begin?",
    "Tell me why people dance.",
    # Other people.
    "My friend has not called me for weeks.",
    "My sister and I are not speaking.",
    "I am new in town and know nobody.",
    "I hate my boss.",
    # Coming and going.
    "Good night, Luna.",
    "Good morning! Did you miss me?",
    "I cannot sleep.",
)
"""What a user says: of failures, losses, help, joy, reproaches, taste, boredom, trust, friends, coming and going."""
