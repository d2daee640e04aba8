"""What `limen check` looks at: each check is a function that returns results, and touches nothing."""
