"""The other libraries' side: scripts that run in environments of their own, and import nothing of this package."""
