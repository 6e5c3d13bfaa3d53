"""The address for people and monitoring, and control.sock."""
