"""The server as a service of the platform: what it is told (pure functions), and the commands that tell it."""
