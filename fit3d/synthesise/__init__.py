"""Photos with another expression, made from fitted ones, with exact labels and landmarks."""
