"""The learner's tables, step by step."""
