"""Action: carry out a plan by server-side apply, guarded deletes and patches, and tell of it."""
