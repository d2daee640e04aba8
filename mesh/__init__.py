"""The words every room of Limen speaks: identities, requests, decisions, flows and problems.

This package imports no other package of the project.
"""
