"""Who may use Ray.

`token` makes the token that a head of Luna's asks for, and gives it to what asks for one.
"""
