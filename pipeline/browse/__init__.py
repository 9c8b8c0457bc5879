"""Looking at what is in a workspace: in the terminal, from a notebook; nothing here changes it."""
