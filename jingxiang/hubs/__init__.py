"""Model hubs: what a repository holds, and what it takes to see it."""
