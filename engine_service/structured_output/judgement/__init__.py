"""What is asked of a JSON schema before the library sees it, in time linear in its text."""
