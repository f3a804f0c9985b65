"""What is reached over HTTP: the guard, the OpenAI API, the gateway and its page."""
