"""Ways in: every kind of notification ends as one normalized key event."""
