"""What a teacher is asked, and what it answers."""
