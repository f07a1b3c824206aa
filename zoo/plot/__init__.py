"""Pictures, drawn with matplotlib (the extra `plot`): losses, next tokens, weights."""
